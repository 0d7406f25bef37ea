// SPDX-License-Identifier: Apache-2.0
// One flow: how it stands, what went wrong, its picture, tasks, receipts and arguments.

import { flowButtons } from "./action.js";
import { flowPath, get, learnRight } from "./api.js";
import { h, replace, table } from "./dom.js";
import { Drawing } from "./graph.js";
import { badge, lookOf } from "./look.js";
import { receipts, tasks } from "./task.js";
import { count, learnTime, time } from "./text.js";

/** A picture that took a second is not asked for again for four. */
const REST = 4;

export class Flow {
  title = "Flow";

  constructor(uuid) {
    this.uuid = uuid;
    this.restsUntil = 0;
    this.drawing = new Drawing((name) => this.choose(name));
    this.parts = Object.fromEntries(["head", "tasks", "receipts", "rest"].map((name) => [name, h("div", { id: `flow-${name}` })]));
    this.picture = h("section", { "aria-labelledby": "picture-title" }, h("h2", { id: "picture-title" }, "Picture"), this.drawing.element);
    this.element = h("div", {}, h("p", {}, "Asking…"));
  }

  async start() {
    await this.fetch();
  }

  /** Fetch again, and once more afterwards if something changes meanwhile. */
  async fetch() {
    if (this.isFetching) {
      this.isStale = true;
      return;
    }
    this.isFetching = true;
    const begunAt = Date.now();
    try {
      do {
        this.isStale = false;
        this.show(...(await Promise.all([get(flowPath(this.uuid, "picture")), learnRight()])));
      } while (this.isStale);
    } catch (error) {
      if (error.status === 401) throw error;
      replace(this.element, h("h1", {}, "Flow"), h("p", { class: "problem", role: "alert" }, error.message));
    } finally {
      this.isFetching = false;
      this.restsUntil = Date.now() + REST * (Date.now() - begunAt);
    }
  }

  // A large flow that runs changes all the time: most of it is spent on something else than asking.
  hearFlow() {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.element.isConnected && this.fetch(), Math.max(0, this.restsUntil - Date.now()));
  }

  show(picture, mayAct) {
    learnTime(picture.now);
    this.title = picture.flow.name;
    const refresh = () => this.fetch();
    replace(this.parts.head, head(picture, mayAct, refresh));
    if (picture.tasks.length) this.drawing.draw(picture);
    this.picture.hidden = !picture.tasks.length;
    replace(
      this.parts.tasks,
      h("h2", {}, "Tasks"),
      picture.tasks.length ? tasks(picture, mayAct, refresh) : h("p", {}, "The flow has not begun: nobody knows its tasks yet."),
      picture.tasks_left_out ? h("p", {}, `${count(picture.tasks_left_out, "task")} more, not shown.`) : null,
    );
    replace(
      this.parts.receipts,
      h("h2", {}, "Receipts"),
      receipts(picture),
      picture.delays_left_out ? h("p", {}, `${count(picture.delays_left_out, "older wait")} not shown.`) : null,
    );
    replace(this.parts.rest, given(picture));
    if (this.parts.head.parentNode !== this.element) {
      replace(this.element, this.parts.head, this.picture, this.parts.tasks, this.parts.receipts, this.parts.rest);
    }
  }

  choose(name) {
    const row = [...this.parts.tasks.querySelectorAll("tr[data-row]")].find((each) => each.dataset.row === name);
    if (!row) return;
    for (const each of this.parts.tasks.querySelectorAll(".chosen")) each.classList.remove("chosen");
    row.classList.add("chosen");
    row.scrollIntoView({ block: "center" });
    row.tabIndex = -1;
    row.focus({ preventScroll: true });
  }
}

function head({ flow, is_cancelled: isCancelled, drift, factory }, mayAct, refresh) {
  const facts = [
    ["Uuid", h("span", { class: "uuid" }, flow.uuid)],
    ["Waits", count(flow.open_delays, "task")],
    ["Begun", time(flow.created_at)],
    ["Changed", time(flow.changed_at)],
    flow.ended_at ? ["Ended", time(flow.ended_at)] : null,
    flow.owner ? ["Run by", flow.owner] : null,
    flow.wish_reason ? [isCancelled ? "Cancelled because" : "Suspended because", flow.wish_reason] : null,
    ["Made by", factory || "no factory: only its author can resume it"],
  ].filter(Boolean);
  return [
    h("h1", {}, flow.name, " ", badge(lookOf(flow.state), flow.state), isCancelled && !flow.ended_at ? [" ", badge("reverting", "being cancelled")] : null),
    flow.incident ? incident(flow.incident) : null,
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    flowButtons(flow, isCancelled, mayAct, refresh),
    drift ? changes(drift) : null,
  ];
}

function incident(found) {
  return h(
    "section",
    { class: "wrong", "aria-labelledby": "incident-title" },
    h("h2", { id: "incident-title" }, "Incident"),
    h("p", {}, badge("failed", found.kind), " for ", time(found.first_at, "since"), `, ${found.count === 1 ? "once" : `${found.count} times in a row`}, last `, time(found.last_at), "; ", found.next_try_at ? ["tried again ", time(found.next_try_at)] : "left for a person", "."),
    h("pre", {}, found.message),
  );
}

function changes(drift) {
  return h(
    "details",
    { "data-key": "changes" },
    h("summary", {}, `Its code has changed in ${count(drift.count, "place")} since it began`),
    h("ul", {}, drift.changes.map((change) => h("li", {}, change))),
  );
}

function given(picture) {
  if (!picture.arguments.length) return null;
  return [
    h("h2", {}, "Arguments"),
    table(
      "What the flow was given; values are not shown",
      [
        { title: "Name", cell: (argument) => argument.name },
        { title: "Value", cell: (argument) => ["•••", h("small", {}, argument.what)] },
      ],
      picture.arguments,
      { id: "arguments" },
    ),
  ];
}
