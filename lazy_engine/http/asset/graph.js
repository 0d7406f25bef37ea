// SPDX-License-Identifier: Apache-2.0
// A flow's graph as a drawing. The table of tasks beside it tells the same in words.

import { h, replace, s } from "./dom.js";
import { HEIGHT, NAME, WIDTH, fit, layOut } from "./layout.js";
import { TASK_LOOKS, badge, sign, word } from "./look.js";
import { shorten } from "./text.js";

/** How far the whole may be made small before it is shown in full size instead. */
const SMALLEST = 0.45;
const TALL = 700;

/** Draw the picture of a flow; choose(name) is called for a task that is clicked. */
export class Drawing {
  constructor(choose) {
    this.choose = choose;
    this.isWhole = null;
    this.frame = h("div", { class: "drawing", tabindex: "0", role: "region", "aria-label": "Drawing of the flow, can be scrolled" });
    this.element = h("figure", {}, this.frame);
  }

  draw(picture) {
    const { nodes, edges } = picture.graph;
    const looks = new Map(picture.tasks.map((task) => [task.name, task]));
    const used = TASK_LOOKS.filter((look) => picture.tasks.some((task) => task.look === look));
    const room = { width: Math.max(300, this.frame.clientWidth - 4), height: window.innerHeight * 0.72 };
    const full = layOut(nodes, room.width);
    const whole = fit(nodes, room);
    if (this.isWhole === null) this.isWhole = full.height > TALL && whole.scale >= SMALLEST;
    const plan = this.isWhole ? whole : full;
    const scale = this.isWhole ? whole.scale : Math.min(1, room.width / full.width);
    const counts = used.map((look) => `${picture.tasks.filter((task) => task.look === look).length} ${word(look)}`);
    const drawing = s(
      "svg",
      {
        viewBox: `0 0 ${plan.width} ${plan.height}`,
        width: Math.floor(plan.width * scale),
        height: Math.floor(plan.height * scale),
        role: "img",
        "aria-labelledby": "drawing-title drawing-text",
      },
      s("title", { id: "drawing-title" }, `Graph of ${picture.flow.name}`),
      s("desc", { id: "drawing-text" }, `${picture.tasks.length} tasks: ${counts.join(", ")}. The table of tasks tells the same.`),
      edges.map(([from, to]) => edge(plan, from, to)),
      nodes.map((node, number) => (node.name === null ? join(plan, number) : this.box(plan, number, node, looks.get(node.name)))),
    );
    const { scrollLeft, scrollTop } = this.frame;
    replace(this.frame, drawing);
    this.frame.scrollTo(scrollLeft, scrollTop);
    replace(
      this.element,
      this.frame,
      h(
        "figcaption",
        {},
        h("ul", { class: "legend", "aria-label": "What the colours and signs mean" }, used.map((look) => h("li", {}, badge(look)))),
        full.height <= TALL ? null : h("button", { type: "button", "data-key": "zoom", onclick: () => ((this.isWhole = !this.isWhole), this.draw(picture)) }, this.isWhole ? "Show in full size" : "Show the whole"),
      ),
    );
  }

  box(plan, number, node, task) {
    const { x, y } = plan.at[number];
    const look = task ? task.look : "pending";
    const progress = task && task.progress > 0 && task.progress < 1 ? ` ${Math.round(task.progress * 100)} %` : "";
    const failed = task && task.failure && look !== "failed" ? ", had failed" : "";
    const more = `${word(look)}${progress}${failed}${task && task.attempt > 1 ? `, attempt ${task.attempt}` : ""}`;
    return s(
      "g",
      { class: `node look-${look}`, transform: `translate(${x} ${y})`, onclick: () => this.choose(node.name) },
      s("title", {}, `${node.name}: ${more}${node.is_loose ? " (after more than 8 others)" : ""}`),
      s("rect", { width: WIDTH, height: HEIGHT, rx: task && task.is_retry ? 22 : 6 }),
      // Letters are of different widths: what is too long is cut at the box.
      s(
        "svg",
        { width: WIDTH - 6, height: HEIGHT },
        s("text", { x: 12, y: 18, class: "name" }, shorten(node.name, NAME)),
        s("text", { x: 12, y: 35, class: "state" }, `${sign(look)} ${more}`),
      ),
    );
  }
}

function edge(plan, from, to) {
  const [x1, y1] = port(plan, from, false);
  const [x2, y2] = port(plan, to, true);
  const bend = Math.max(16, Math.abs(y2 - y1) / 2);
  return s("path", { class: "edge", d: `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}` });
}

/** Where an edge leaves a node, or comes to it. A join is a point in the middle of its place. */
function port(plan, number, isEnd) {
  const { x, y } = plan.at[number];
  if (plan.nodes[number].name === null) return [x + WIDTH / 2, y + HEIGHT / 2];
  return [x + WIDTH / 2, isEnd ? y : y + HEIGHT];
}

function join(plan, number) {
  const [x, y] = port(plan, number, false);
  return s("circle", { class: "join", cx: x, cy: y, r: 4 });
}
