// SPDX-License-Identifier: Apache-2.0
// What a person can do: answer, fail, suspend, resume, cancel, and have a token issued.

import { flowPath, post } from "./api.js";
import { askThenDo } from "./dialog.js";
import { h } from "./dom.js";
import { compact } from "./text.js";

const DISPOSITIONS = {
  accepted: "Recorded.",
  early: "Recorded before the task waits.",
  duplicate: "The very same answer was recorded before.",
};

function delayPath(delay, verb) {
  return flowPath(delay.flow_uuid, "delays", delay.id, verb);
}

function receipt(answer) {
  const woken = answer.woken ? " The flow is being woken." : " Nobody is there to wake the flow; it goes on when it is resumed.";
  return (DISPOSITIONS[answer.disposition] || answer.disposition) + woken;
}

function requireJson(text, what) {
  try {
    JSON.parse(text);
  } catch (error) {
    throw new Error(`${what} is not JSON: ${error.message}`);
  }
  return text;
}

function attempt(delay) {
  const details = compact(delay.details);
  return `Task “${delay.task_name}”, attempt ${delay.attempt}${details ? `, which waits for ${details}` : ""}.`;
}

/** The buttons for a delay that waits. *delay* has id, flow_uuid, task_name, attempt, details. */
export function delayButtons(delay, refresh) {
  const name = delay.task_name;
  const done = (text) => (refresh(), text);
  const complete = () =>
    askThenDo({
      title: `Answer ${name}`,
      text: `${attempt(delay)} The first answer counts and cannot be taken back.`,
      fields: [{ name: "result", label: "Result, as JSON", kind: "area", required: true, hint: 'For example true, "yes" or {"approved": true}' }],
      button: "Record this result",
      // As it was typed: a number must not lose digits on its way.
      act: async ({ result }) => done(receipt(await post(delayPath(delay, "complete"), `{"result": ${requireJson(result, "The result")}}`))),
    });
  const fail = () =>
    askThenDo({
      title: `Fail ${name}`,
      text: `${attempt(delay)} ${
        delay.kind === "revert" ? "What it has done stays as it is, and the flow fails." : "The task fails, and the flow is reverted unless a retry controller has it tried again."
      }`,
      fields: [
        { name: "error", label: "What went wrong", required: true },
        { name: "kind", label: "Kind", hint: "A name that retry controllers ask for; may be left empty" },
      ],
      button: "Record this failure",
      isGrave: true,
      act: async ({ error, kind }) =>
        done(receipt(await post(delayPath(delay, "fail"), JSON.stringify({ error, kind: kind.trim() || null })))),
    });
  const token = () =>
    askThenDo({
      title: `Show the token of ${name}`,
      text: "Whoever has the token can answer this attempt. That you have seen it is written into the server's log.",
      button: "Show the token",
      isGrave: true,
      act: async () => shownToken((await post(delayPath(delay, "token"))).token),
    });
  const button = (label, key, act) =>
    h("button", { type: "button", "data-key": `${key}-${delay.id}`, "aria-label": `${label} ${name}`, onclick: act }, label);
  return h("div", { class: "buttons" }, button("Answer…", "complete", complete), button("Fail…", "fail", fail), button("Token…", "token", token));
}

function shownToken(token) {
  const field = h("textarea", { readonly: true, rows: 4, id: "token", spellcheck: "false" });
  field.value = token;
  return h("div", { class: "field" }, h("label", { for: "token" }, "Token"), field);
}

/** The buttons for a flow, as far as they would do anything and the key allows it. */
export function flowButtons(flow, isCancelled, mayAct, refresh) {
  if (flow.ended_at) return h("p", {}, "The flow is over; nothing can be done to it.");
  if (!mayAct) return h("p", {}, "This key is for looking only.");
  const done = (text) => (refresh(), text);
  const reason = [{ name: "reason", label: "Reason, for others to read" }];
  const send = (verb, value) => post(flowPath(flow.uuid, verb), value === undefined ? undefined : JSON.stringify(value));
  const suspend = () =>
    askThenDo({
      title: `Suspend ${flow.name}`,
      text: "What runs is finished first; then the flow rests until it is resumed. Answers are kept meanwhile, and deadlines go on.",
      fields: reason,
      button: "Suspend the flow",
      act: async (values) => (await send("suspend", { reason: values.reason || null }), done("Suspended.")),
    });
  const resume = () =>
    askThenDo({
      title: `Resume ${flow.name}`,
      text: "Ends a suspension, and has whoever runs flows try this one now, whatever it waits for.",
      button: "Resume the flow",
      act: async () => {
        const { woken } = await send("resume");
        return done(woken ? "The flow is being woken." : "Noted; but nobody is there to run it. Try lazy-engine resume.");
      },
    });
  const cancel = () =>
    askThenDo({
      title: `Cancel ${flow.name}`,
      text: "All that the flow has done is reverted, past every retry controller. This cannot be taken back.",
      fields: reason,
      button: "Cancel the flow and revert it",
      isGrave: true,
      act: async (values) => {
        const { cancelled } = await send("cancel", { reason: values.reason || "by hand" });
        return done(cancelled ? "Cancelled; it is being reverted." : "It was over, or cancelled, before.");
      },
    });
  const button = (label, act, className) => h("button", { type: "button", class: className, "data-key": label, onclick: act }, label);
  return h(
    "div",
    { class: "buttons", role: "group", "aria-label": "What can be done" },
    flow.state === "SUSPENDED" ? null : button("Suspend…", suspend),
    button("Resume…", resume),
    isCancelled ? null : button("Cancel…", cancel, "grave"),
  );
}
