// SPDX-License-Identifier: Apache-2.0
// Which view is shown, and whether there is a key to show it with.

import { forgetKey, get, keepKey, readKey } from "./api.js";
import { announce, h, replace } from "./dom.js";
import { Flow } from "./flow.js";
import { Live } from "./live.js";
import { Now } from "./now.js";
import { Flows, Waits } from "./search.js";
import { learnTime, tick } from "./text.js";

const TICK = 5000;

const main = document.getElementById("main");
const views = document.getElementById("views");
const forget = document.getElementById("forget");
const liveMark = document.getElementById("live");
let view = null;
let incidents = null;

const live = new Live({
  summary(summary) {
    learnTime(summary.now);
    tellIncidents(summary.incident_count);
    whenQuiet("hear", summary);
  },
  flow() {
    whenQuiet("hearFlow");
  },
  state(word, text) {
    liveMark.dataset.state = word;
    liveMark.textContent = text;
  },
  refused: askForKey,
});

// What is shown is not changed under somebody's finger, nor behind a dialog that goes back to it.
let isPressed = false;
const postponed = new Map();

function whenQuiet(name, value) {
  if (isPressed || document.querySelector("dialog[open]")) postponed.set(name, value);
  else if (view && view[name]) guarded(() => view[name](value));
}

function catchUp() {
  const found = [...postponed];
  postponed.clear();
  for (const [name, value] of found) whenQuiet(name, value);
}

document.addEventListener("pointerdown", () => (isPressed = true), true);
for (const name of ["pointerup", "pointercancel", "close"]) {
  document.addEventListener(
    name,
    () => {
      isPressed = false;
      setTimeout(catchUp); // after the click that this is a part of
    },
    true,
  );
}

// Of all that changes, only this is said aloud.
function tellIncidents(number) {
  if (incidents !== null && number > incidents) announce(`A new incident; there are ${number} now.`);
  incidents = number;
  document.title = `${number ? `(${number}) ` : ""}${view ? view.title : "lazy_engine"} – lazy_engine`;
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    if (error.status === 401) askForKey("The key does not hold any more.");
    else throw error;
  }
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  if (name === "waits") return new Waits(Object.fromEntries(new URLSearchParams(query)));
  if (name === "flows") return new Flows(Object.fromEntries(new URLSearchParams(query)));
  if (name === "flow" && rest.length) return new Flow(decodeURIComponent(rest.join("/")));
  return new Now();
}

function show(isFirst = false) {
  if (!readKey()) {
    askForKey();
    return;
  }
  postponed.clear();
  view = route();
  for (const link of views.querySelectorAll("a")) {
    const isHere = link.getAttribute("href") === (location.hash.split("?")[0] || "#/");
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const element of [views, forget, liveMark]) element.hidden = false;
  replace(main, view.element);
  window.scrollTo(0, 0);
  // Whoever follows a link with a keyboard, or listens, goes on at the new view.
  if (!isFirst) main.focus({ preventScroll: true });
  live.heard.state("slow", "Connecting…");
  live.start(view instanceof Flow ? view.uuid : null);
  if (view.start) guarded(() => view.start());
}

function askForKey(why) {
  live.stop();
  forgetKey();
  view = null;
  incidents = null;
  document.title = "lazy_engine";
  for (const element of [views, forget, liveMark]) element.hidden = true;
  const input = h("input", { type: "password", id: "key", required: true, autocomplete: "off", spellcheck: "false" });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h(
    "form",
    { class: "key" },
    h("h1", {}, "Operator’s key"),
    h("p", {}, "All that this page shows, and all that it does, needs an API key of this server. It is kept in this tab until you close it, and sent to this server only."),
    h("div", { class: "field" }, h("label", { for: "key" }, "API key"), input),
    problem,
    h("button", { type: "submit", class: "main" }, "Open"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    keepKey(input.value.trim());
    try {
      await get("summary");
      show();
    } catch (error) {
      forgetKey();
      problem.textContent = error.status === 401 ? "This key is not one of the server’s." : error.message;
      input.focus();
    }
  });
  replace(main, form);
  if (typeof why === "string") problem.textContent = why;
  input.focus();
}

window.addEventListener("hashchange", () => show());
forget.addEventListener("click", () => askForKey());
document.getElementById("skip").addEventListener("click", () => main.focus());
setInterval(tick, TICK);
show(true);
