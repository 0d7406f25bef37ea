// SPDX-License-Identifier: Apache-2.0
// Lists of waits and of flows: filters, which the server applies, and pages.

import { get } from "./api.js";
import { announce, h, replace } from "./dom.js";
import { delays, flows, pages } from "./list.js";
import { FLOW_STATES } from "./look.js";
import { count } from "./text.js";

const PAGE = 50;
/** How often a list is fetched anew at most because something has changed somewhere. */
const FRESH = 4000;

class List {
  constructor(query) {
    this.query = query;
    this.fetchedAt = 0;
    this.results = h("div", { class: "results" }, h("p", {}, "Asking…"));
    this.element = h("div", {}, h("h1", {}, this.title), this.filters(), this.results);
  }

  async start() {
    await this.fetch();
  }

  hear() {
    if (Date.now() - this.fetchedAt >= FRESH && !this.isFetching) this.fetch(true);
  }

  async fetch(isSilent = false) {
    this.isFetching = true;
    try {
      const found = await get(this.path, { ...this.query, limit: PAGE });
      const rows = found[this.path];
      const isShort = found.next && rows.length < PAGE;
      replace(
        this.results,
        rows.length ? this.table(rows, found) : h("p", {}, isShort ? "Nothing fits among the first that were searched." : this.nothing),
        isShort ? h("p", {}, "The search went as far as one page may go; the next page goes on from there.") : null,
        pages(this.path === "delays" ? "waits" : "flows", this.query, found.next, !this.query.after),
      );
      if (!isSilent) announce(`${count(rows.length, "row")} found.`);
    } catch (error) {
      if (error.status === 401) throw error;
      replace(this.results, h("p", { class: "problem", role: "alert" }, error.message));
    } finally {
      this.isFetching = false;
      this.fetchedAt = Date.now();
    }
  }

  form(view, ...fields) {
    const form = h("form", { class: "filters", role: "search", "aria-label": "Filter" }, fields, h("button", { type: "submit" }, "Show"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const set = [...new FormData(form)].filter(([, value]) => value);
      location.hash = `#/${view}?${new URLSearchParams(set)}`;
    });
    return form;
  }

  text(name, label, hint) {
    return h("label", {}, label, h("input", { type: "search", name, value: this.query[name] || "", placeholder: hint, maxlength: 200, autocomplete: "off" }));
  }

  choice(name, label, options) {
    return h(
      "label",
      {},
      label,
      h("select", { name }, options.map(([value, text]) => h("option", { value, selected: (this.query[name] || "") === value }, text))),
    );
  }

  box(name, label) {
    return h("label", { class: "box" }, h("input", { type: "checkbox", name, value: "true", checked: this.query[name] === "true" }), label);
  }
}

export class Waits extends List {
  title = "Waits";
  path = "delays";
  nothing = "Nothing waits here.";

  constructor(query) {
    super(query);
    // Fields of a class are set after its parent's constructor.
    this.element.querySelector("h1").textContent = this.title;
  }

  filters() {
    return this.form(
      "waits",
      this.text("search", "Search", "task, flow’s uuid, details"),
      this.text("task_name", "Task", "its exact name"),
      this.choice("order", "Order", [
        ["", "By age, oldest first"],
        ["due", "By deadline, soonest first"],
      ]),
      this.box("overdue", "Only overdue"),
    );
  }

  table(rows, found) {
    const order = this.query.order === "due" ? "soonest due first" : "oldest first";
    return delays(`What waits, ${order}`, rows, found.flow_names, "delays");
  }
}

export class Flows extends List {
  title = "Flows";
  path = "flows";
  nothing = "There is no such flow.";

  constructor(query) {
    super(query);
    this.element.querySelector("h1").textContent = this.title;
  }

  filters() {
    return this.form(
      "flows",
      this.choice("state", "State", [["", "Any"], ...FLOW_STATES.map((state) => [state, state])]),
      this.text("search", "Search", "name or uuid"),
      this.box("incidents", "Only incidents"),
    );
  }

  table(rows) {
    return flows("Flows, incidents first, then the newest", rows, "flows");
  }
}
