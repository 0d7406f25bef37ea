// SPDX-License-Identifier: Apache-2.0
// Tables of delays and flows, as several views show them.

import { h, table } from "./dom.js";
import { badge, lookOf } from "./look.js";
import { compact, hasPassed, shorten, time } from "./text.js";

export function flowLink(uuid, name) {
  return h("a", { href: `#/flow/${encodeURIComponent(uuid)}` }, name || uuid);
}

/** When a delay must be answered, in a word, a sign and a colour. */
export function deadline(delay) {
  const parts = [];
  if (delay.alerted_at) parts.push(badge("failed", "overdue"), " for ", time(delay.alerted_at, "since"));
  else if (delay.timeout_at && hasPassed(delay.timeout_at)) parts.push(badge("failed", "past its deadline"), " ", time(delay.timeout_at));
  else if (delay.timeout_at) parts.push(time(delay.timeout_at));
  if (delay.heartbeat_at) parts.push(h("small", {}, "sign of life due ", time(delay.heartbeat_at)));
  const isOther = delay.due_at && ![delay.timeout_at, delay.heartbeat_at].includes(delay.due_at);
  if (isOther) parts.push(h("small", {}, "looks for itself ", time(delay.due_at)));
  return parts.length ? parts : "none";
}

/** What waits: for what, since when, until when, in which flow. */
export function delays(caption, rows, flowNames, id) {
  return table(
    caption,
    [
      {
        title: "Task",
        cell: (delay) => [
          h("span", { class: "name" }, delay.task_name),
          delay.kind === "revert" ? h("small", {}, "in its revert") : null,
          delay.attempt > 1 ? h("small", {}, `attempt ${delay.attempt}`) : null,
        ],
      },
      {
        title: "Waits for",
        class: "wide",
        cell: (delay) => [
          shorten(compact(delay.details), 200) || h("i", {}, "an answer"),
          delay.progress === null ? null : h("small", {}, `${Math.round(delay.progress * 100)} % done, it says`),
        ],
      },
      { title: "Since", cell: (delay) => time(delay.opened_at, "since") },
      { title: "Deadline", cell: deadline },
      { title: "Flow", cell: (delay) => flowLink(delay.flow_uuid, (flowNames || {})[delay.flow_uuid]) },
    ],
    rows,
    { id, keyOf: (delay) => delay.id },
  );
}

/** Flows: how they stand, what went wrong, since when. */
export function flows(caption, rows, id) {
  return table(
    caption,
    [
      { title: "Flow", cell: (flow) => [flowLink(flow.uuid, flow.name), h("small", { class: "uuid" }, flow.uuid)] },
      { title: "State", cell: (flow) => badge(lookOf(flow.state), flow.state) },
      { title: "Waits", class: "number", cell: (flow) => String(flow.open_delays) },
      {
        title: "Incident or reason",
        class: "wide",
        cell: (flow) =>
          flow.incident
            ? [badge("failed", flow.incident.kind), " ", shorten(flow.incident.message, 200)]
            : flow.wish_reason || "–",
      },
      { title: "Changed", cell: (flow) => time(flow.changed_at) },
      { title: "Begun", cell: (flow) => time(flow.created_at) },
    ],
    rows,
    { id, keyOf: (flow) => flow.uuid },
  );
}

/** Links to the first and to the next page of a list. */
export function pages(view, query, next, isFirst) {
  const link = (label, after) => {
    const set = Object.entries({ ...query, after }).filter(([, value]) => value);
    return h("a", { class: "button", href: `#/${view}?${new URLSearchParams(set)}` }, label);
  };
  return h(
    "nav",
    { "aria-label": "Pages", class: "buttons" },
    isFirst ? null : link("First page", ""),
    next ? link("Next page", next) : h("span", {}, "The end of the list."),
  );
}
