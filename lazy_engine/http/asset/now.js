// SPDX-License-Identifier: Apache-2.0
// The first view: what went wrong, what waits, and how many flows are in which state.

import { h, replace } from "./dom.js";
import { delays, flowLink } from "./list.js";
import { FLOW_STATES, badge, lookOf } from "./look.js";
import { atLeast, count, time } from "./text.js";

export class Now {
  title = "Now";

  constructor() {
    this.element = h("div", { id: "now" }, h("p", {}, "Asking…"));
  }

  hear(summary) {
    replace(this.element, headline(summary), incidents(summary), failures(summary), states(summary), waits(summary));
  }
}

function headline(summary) {
  const { incident_count: incidents, waiting_count: waiting, counted } = summary;
  const parts = [
    incidents
      ? badge("failed", `${atLeast(incidents, counted)} ${incidents === 1 ? "incident" : "incidents"}`)
      : badge("done", "no incidents"),
  ];
  if (!waiting) parts.push("Nothing waits.");
  else parts.push(h("span", {}, waiting >= counted ? `${atLeast(waiting, counted)} tasks wait` : `${count(waiting, "task")} ${waiting === 1 ? "waits" : "wait"}`, ", the oldest for ", time(summary.oldest[0] && summary.oldest[0].opened_at, "since"), "."));
  if (summary.due.length) parts.push(h("span", {}, "The next is due ", time(summary.due[0].due_at), "."));
  return h("div", { class: "headline" }, h("h1", {}, "Now"), h("p", {}, parts.map((part) => [part, " "])));
}

function states(summary) {
  const known = FLOW_STATES.filter((state) => summary.states[state]);
  if (!known.length) return h("p", {}, "There are no flows here yet. Whoever submits one sees it here at once.");
  return h(
    "section",
    { "aria-labelledby": "states" },
    h("h2", { id: "states" }, "Flows by state"),
    h(
      "ul",
      { class: "tiles" },
      known.map((state) =>
        h(
          "li",
          {},
          h(
            "a",
            { href: `#/flows?state=${state}` },
            h("b", {}, summary.at_least.includes(state) ? `${summary.states[state].toLocaleString()}+` : summary.states[state].toLocaleString()),
            badge(lookOf(state), state),
          ),
        ),
      ),
    ),
  );
}

function incidents(summary) {
  if (!summary.incidents.length) return null;
  const more = summary.incident_count > summary.incidents.length;
  return h(
    "section",
    { "aria-labelledby": "incidents", class: "wrong" },
    h("h2", { id: "incidents" }, "What went wrong"),
    h("p", {}, "These flows could not be run, for a reason that is not their own. They keep all they have, and go on once it is mended."),
    h("ul", { class: "cards" }, summary.incidents.map(incident)),
    more ? h("p", {}, h("a", { href: "#/flows?incidents=true" }, "All incidents")) : null,
  );
}

function incident(flow) {
  const { kind, message, first_at: first, count: often, next_try_at: next } = flow.incident;
  return h(
    "li",
    {},
    h("p", {}, badge("failed", kind), " ", flowLink(flow.uuid, flow.name)),
    h("pre", {}, message),
    h(
      "p",
      { class: "faint" },
      "For ",
      time(first, "since"),
      `, ${often === 1 ? "once" : `${often} times in a row`}; `,
      next ? ["tried again ", time(next)] : "left for a person",
      ".",
    ),
  );
}

function failures(summary) {
  if (!summary.failures.length) return null;
  return h(
    "section",
    { "aria-labelledby": "failures" },
    h("h2", { id: "failures" }, "Ended in failure"),
    h("p", {}, "Their tasks failed, and so did what should have reverted them."),
    h(
      "ul",
      { class: "cards" },
      summary.failures.map((flow) =>
        h("li", {}, badge("failed", flow.state), " ", flowLink(flow.uuid, flow.name), " ", time(flow.ended_at)),
      ),
    ),
  );
}

function waits(summary) {
  if (!summary.oldest.length) return null;
  return h(
    "section",
    { "aria-labelledby": "waits" },
    h("h2", { id: "waits" }, "What waits"),
    delays("Waiting longest", summary.oldest, summary.flow_names, "oldest"),
    h("p", {}, h("a", { href: "#/waits" }, "All that waits")),
    summary.due.length ? delays("Due soonest", summary.due, summary.flow_names, "due") : null,
    summary.due.length ? h("p", {}, h("a", { href: "#/waits?order=due" }, "All that is due")) : null,
  );
}
