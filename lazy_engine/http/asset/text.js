// SPDX-License-Identifier: Apache-2.0
// Words for instants, numbers and values.

import { h } from "./dom.js";

// How far the store's clock is ahead of this one, in milliseconds.
let ahead = 0;

/** Learn the store's time, by which all ages are told. */
export function learnTime(now) {
  ahead = Date.parse(now) - Date.now();
}

function duration(seconds) {
  const left = Math.max(0, Math.floor(seconds));
  if (left < 60) return `${left} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min`;
  if (left < 86400) return `${Math.floor(left / 3600)} h ${Math.floor((left % 3600) / 60)} min`;
  return `${Math.floor(left / 86400)} d ${Math.floor((left % 86400) / 3600)} h`;
}

function told(instant, mode) {
  const seconds = (Date.parse(instant) - Date.now() - ahead) / 1000;
  if (mode === "since") return duration(-seconds);
  return seconds >= 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
}

/** Whether an instant has passed by the store's clock. */
export function hasPassed(instant) {
  return instant !== null && Date.parse(instant) < Date.now() + ahead;
}

/** An instant as an age ("since") or as a distance ("until"); the date itself is its title. */
export function time(instant, mode = "until") {
  if (!instant) return "–";
  return h(
    "time",
    { datetime: instant, "data-mode": mode, title: new Date(instant).toLocaleString() },
    told(instant, mode),
  );
}

/** Tell all ages on the page anew. */
export function tick() {
  for (const element of document.querySelectorAll("time[data-mode]")) {
    const text = told(element.dateTime, element.dataset.mode);
    if (element.textContent !== text) element.textContent = text;
  }
}

/** A value as people read it: "who: ops, why: audit". */
export function compact(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "object" && !Array.isArray(value)) {
    return Object.entries(value)
      .map(([name, inner]) => `${name}: ${plain(inner)}`)
      .join(", ");
  }
  return plain(value);
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

export function shorten(text, width) {
  return text.length <= width ? text : `${text.slice(0, width - 1)}…`;
}

/** A number, and a word for more or fewer of it. */
export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

/** A number of which there may be more. */
export function atLeast(number, most) {
  return number >= most ? `${most.toLocaleString()} or more` : number.toLocaleString();
}
