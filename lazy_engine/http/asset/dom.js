// SPDX-License-Identifier: Apache-2.0
// Makes elements. Text is only ever set as text: what strangers have sent cannot become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make an HTML element; children are elements or text. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * Put new contents in the place of old ones. Whoever stands on one of them with the keyboard stands
 * on its successor afterwards, which is known by its data-key, its id or its link; and
 * what was unfolded stays so.
 */
export function replace(parent, ...children) {
  const active = document.activeElement;
  const mark = parent.contains(active) && active !== parent ? markOf(active) : null;
  const open = new Set([...parent.querySelectorAll("details[open]")].map((element) => element.dataset.key));
  parent.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  for (const element of parent.querySelectorAll("details")) element.open = open.has(element.dataset.key);
  if (!mark) return;
  const successor = [...parent.querySelectorAll("a, button, input, select, textarea, summary, [tabindex]")].find(
    (element) => markOf(element) === mark,
  );
  // Never to nowhere: whoever cannot see would have to begin anew.
  (successor || document.getElementById("main")).focus({ preventScroll: true });
}

function markOf(element) {
  return element.dataset.key || element.id || element.getAttribute("href") || element.closest("details[data-key]")?.dataset.key;
}

/** Say something to whoever listens instead of looking; sparingly. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/**
 * Make a table that can be read as a list of cards where it is narrow. The roles are repeated since
 * some browsers forget them when a table is not laid out as one.
 *
 * columns: [{title, cell: (row) => children, class}], the first of which names the row.
 */
export function table(caption, columns, rows, attributes) {
  const head = h(
    "tr",
    { role: "row" },
    columns.map((column) => h("th", { scope: "col", role: "columnheader" }, column.title)),
  );
  const body = rows.map((row) =>
    h(
      "tr",
      { role: "row", "data-row": attributes && attributes.keyOf ? attributes.keyOf(row) : null },
      columns.map((column, number) =>
        h(
          number ? "td" : "th",
          {
            scope: number ? null : "row",
            role: number ? "cell" : "rowheader",
            class: column.class,
            "data-title": column.title,
          },
          h("div", { class: "cell" }, column.cell(row)),
        ),
      ),
    ),
  );
  return h(
    "table",
    { role: "table", id: attributes && attributes.id },
    h("caption", {}, caption),
    h("thead", { role: "rowgroup" }, head),
    h("tbody", { role: "rowgroup" }, body),
  );
}
