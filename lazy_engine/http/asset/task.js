// SPDX-License-Identifier: Apache-2.0
// One flow's tasks and receipts, in words.

import { delayButtons } from "./action.js";
import { h, table } from "./dom.js";
import { deadline } from "./list.js";
import { badge } from "./look.js";
import { compact, time } from "./text.js";

const SHORT = 160;

/** A text that may be long: its beginning, and all of it on demand; *key* names it for good. */
function long(text, key) {
  if (text === null) return null;
  if (text.length <= SHORT && !text.includes("\n")) return h("code", {}, text);
  const first = text.split("\n")[0].slice(0, SHORT);
  return h("details", { "data-key": key }, h("summary", {}, `${first} …`), h("pre", {}, text));
}

function parsed(text) {
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch {
    return text; // cut in the middle
  }
}

export function tasks(picture, mayAct, refresh) {
  const waiting = new Map();
  const answered = new Set();
  for (const delay of picture.delays) {
    if (delay.is_open) waiting.set(delay.task_name, delay);
    else if (delay.outcome && !delay.absorbed_at && !delay.closed_at) answered.add(delay.task_name);
  }
  return table(
    "Tasks, those that do something or went wrong first",
    [
      { title: "Task", cell: (task) => [h("span", { class: "name" }, task.name), task.is_retry ? h("small", {}, "retry controller") : null] },
      {
        title: "State",
        cell: (task) => [
          badge(task.look),
          task.failure && task.look !== "failed" ? h("small", {}, "had failed") : null,
          task.attempt > 1 ? h("small", {}, `attempt ${task.attempt}`) : null,
          task.progress > 0 && ["running", "waiting"].includes(task.look) ? h("small", {}, `${Math.round(task.progress * 100)} % done`) : null,
        ],
      },
      {
        title: "Times",
        cell: (task) => {
          const delay = waiting.get(task.name);
          return [
            delay ? h("div", {}, "waits for ", time(delay.opened_at, "since")) : null,
            delay ? h("div", {}, "deadline ", deadline(delay)) : null,
            task.changed_at && task.look !== "pending" ? h("small", {}, "changed ", time(task.changed_at)) : null,
            !delay && (!task.changed_at || task.look === "pending") ? "–" : null,
          ];
        },
      },
      {
        title: "Outcome",
        class: "wide",
        cell: (task) => {
          const delay = waiting.get(task.name);
          if (delay) {
            const details = parsed(delay.details);
            const words = compact(details);
            return [
              h("p", {}, "Waits for ", words ? h("span", {}, words) : "an answer", "."),
              mayAct ? delayButtons({ ...delay, flow_uuid: picture.flow.uuid, details }, refresh) : null,
            ];
          }
          if (task.look === "waiting") return answered.has(task.name) ? "Answered; the next resume takes the answer." : "Waits.";
          return task.failure ? long(task.failure, `failure-${task.name}`) : task.result !== null ? long(task.result, `result-${task.name}`) : "–";
        },
      },
      {
        title: "Arguments",
        cell: (task) => (task.arguments.length ? task.arguments.map((name) => h("div", {}, `${name} = `, h("abbr", { title: "values are not shown" }, "•••"))) : "–"),
      },
    ],
    picture.tasks,
    { id: "tasks", keyOf: (task) => task.name },
  );
}

const OUTCOMES = {
  result: ["done", "result"],
  failure: ["failed", "failure"],
  timeout: ["failed", "timed out"],
  default: ["done", "default stood in"],
};

export function receipts(picture) {
  if (!picture.delays.length) return h("p", {}, "No task of this flow has waited yet.");
  return table(
    "Receipts: what was recorded for each wait, the newest first",
    [
      { title: "Task", cell: (delay) => [h("span", { class: "name" }, delay.task_name), h("small", {}, `${delay.kind}, attempt ${delay.attempt}`)] },
      { title: "Opened", cell: (delay) => time(delay.opened_at) },
      {
        title: "Outcome",
        class: "wide",
        cell: (delay) => {
          if (delay.outcome) return [badge(...(OUTCOMES[delay.outcome] || ["done", delay.outcome])), " ", long(delay.outcome_text, `outcome-${delay.id}`)];
          return delay.is_open ? badge("waiting") : `closed: ${delay.close_reason || "not known why"}`;
        },
      },
      { title: "Arrived", cell: (delay) => time(delay.arrived_at) },
      { title: "Taken", cell: (delay) => (delay.absorbed_at ? time(delay.absorbed_at) : delay.closed_at ? ["closed ", time(delay.closed_at)] : "–") },
      { title: "Came too late", cell: (delay) => (delay.late ? [badge(...(OUTCOMES[delay.late] || ["failed", delay.late])), " ", time(delay.late_at), long(delay.late_text, `late-${delay.id}`)] : "–") },
    ],
    picture.delays,
    { id: "receipts", keyOf: (delay) => delay.id },
  );
}
