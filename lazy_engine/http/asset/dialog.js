// SPDX-License-Identifier: Apache-2.0
// Asks before anything is done: what will happen, and what is needed for it.

import { announce, h } from "./dom.js";

let last = 0;

/**
 * Open a dialog with fields and a button that does it; what goes wrong is told in it.
 *
 * fields: [{name, label, hint, kind: "text" | "area", required, value}]
 * act(values) returns what is announced when it is done, or an element to show instead of the form.
 */
export function askThenDo({ title, text, fields = [], button, isGrave = false, act }) {
  last += 1;
  const id = `dialog-${last}`;
  const problem = h("p", { class: "problem", role: "alert", id: `${id}-problem` });
  const inputs = fields.map((field) => input(`${id}-${field.name}`, field));
  const confirm = h("button", { type: "submit", class: isGrave ? "grave" : "main" }, button);
  const close = h("button", { type: "button", onclick: () => dialog.close() }, "Back");
  const form = h(
    "form",
    { novalidate: true },
    h("p", { id: `${id}-text` }, text),
    inputs.map((each) => each.element),
    problem,
    h("div", { class: "buttons" }, confirm, close),
  );
  const dialog = h(
    "dialog",
    { "aria-labelledby": `${id}-title`, "aria-describedby": `${id}-text` },
    h("h2", { id: `${id}-title` }, title),
    form,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const missing = inputs.find((each) => each.field.required && !each.control.value.trim());
    if (missing) {
      problem.textContent = `${missing.field.label} is needed.`;
      missing.control.focus();
      return;
    }
    confirm.disabled = true;
    problem.textContent = "";
    try {
      const done = await act(Object.fromEntries(inputs.map((each) => [each.field.name, each.control.value])));
      if (typeof done === "string") {
        announce(done);
        dialog.close();
      } else {
        form.replaceChildren(done, h("div", { class: "buttons" }, close));
        close.textContent = "Close";
        close.focus();
      }
    } catch (error) {
      problem.textContent = error.message;
      confirm.disabled = false;
    }
  });
  // Closed by its button or by Escape: the focus goes back to where it came from by itself.
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function input(id, field) {
  const attributes = {
    id,
    name: field.name,
    required: field.required,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": field.hint ? `${id}-hint` : null,
  };
  const control = field.kind === "area" ? h("textarea", { ...attributes, rows: 4 }) : h("input", { ...attributes, type: "text" });
  control.value = field.value || "";
  const element = h(
    "div",
    { class: "field" },
    h("label", { for: id }, field.label),
    control,
    field.hint ? h("small", { id: `${id}-hint` }, field.hint) : null,
  );
  return { field, control, element };
}
