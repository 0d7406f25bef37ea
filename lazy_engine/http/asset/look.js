// SPDX-License-Identifier: Apache-2.0
// How states look. Never a colour alone: each has a sign and a word.

import { h } from "./dom.js";

const LOOKS = {
  pending: ["·", "not begun"],
  running: ["▶", "running"],
  waiting: ["◷", "waiting"],
  done: ["✔", "done"],
  failed: ["✘", "failed"],
  reverting: ["↶", "reverting"],
  reverted: ["↺", "reverted"],
  ignored: ["–", "left out"],
  suspended: ["‖", "suspended"],
};

const OF_FLOWS = {
  PENDING: "pending",
  RUNNING: "running",
  DELAYED: "waiting",
  SUSPENDED: "suspended",
  SUCCESS: "done",
  FAILURE: "failed",
  REVERTED: "reverted",
};

/** The states of flows, those that ask for attention first. */
export const FLOW_STATES = ["FAILURE", "SUSPENDED", "RUNNING", "DELAYED", "PENDING", "REVERTED", "SUCCESS"];

export const TASK_LOOKS = Object.keys(LOOKS).filter((look) => look !== "suspended");

export function lookOf(flowState) {
  return OF_FLOWS[flowState] || "pending";
}

export function sign(look) {
  return (LOOKS[look] || LOOKS.pending)[0];
}

export function word(look) {
  return (LOOKS[look] || LOOKS.pending)[1];
}

/** A state as a coloured sign with its word. */
export function badge(look, text) {
  return h(
    "span",
    { class: `badge look-${look in LOOKS ? look : "pending"}` },
    h("span", { "aria-hidden": "true", class: "sign" }, sign(look)),
    " ",
    text || word(look),
  );
}
