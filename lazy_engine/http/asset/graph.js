// SPDX-License-Identifier: Apache-2.0
// A flow's graph as a drawing. The table of tasks beside it tells the same in words.

import { h, replace, s } from "./dom.js";
import { TASK_LOOKS, badge, sign, word } from "./look.js";
import { shorten } from "./text.js";

const WIDTH = 180;
const HEIGHT = 44;
const GAP = 18;
const BETWEEN = 46;
const MARGIN = 14;
const NAME = 21;

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
    const plan = layOut(nodes);
    if (this.isWhole === null) this.isWhole = plan.width > 900 || plan.height > 700;
    const counts = used.map((look) => `${picture.tasks.filter((task) => task.look === look).length} ${word(look)}`);
    const drawing = s(
      "svg",
      {
        viewBox: `0 0 ${plan.width} ${plan.height}`,
        width: this.isWhole ? null : plan.width,
        height: this.isWhole ? null : plan.height,
        class: this.isWhole ? "whole" : null,
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
        h("button", { type: "button", "data-key": "zoom", onclick: () => ((this.isWhole = !this.isWhole), this.draw(picture)) }, this.isWhole ? "Show in full size" : "Show the whole"),
      ),
    );
  }

  box(plan, number, node, task) {
    const { x, y } = plan.at[number];
    const look = task ? task.look : "pending";
    const progress = task && task.progress > 0 && task.progress < 1 ? ` ${Math.round(task.progress * 100)} %` : "";
    const more = `${word(look)}${progress}${task && task.attempt > 1 ? `, attempt ${task.attempt}` : ""}`;
    return s(
      "g",
      { class: `node look-${look}`, transform: `translate(${x} ${y})`, onclick: () => this.choose(node.name) },
      s("title", {}, `${node.name}: ${more}${node.isLoose || node.is_loose ? " (after more than 8 others)" : ""}`),
      s("rect", { width: WIDTH, height: HEIGHT, rx: task && task.is_retry ? 22 : 6 }),
      s("text", { x: 12, y: 18, class: "name" }, shorten(node.name, NAME)),
      s("text", { x: 12, y: 35, class: "state" }, `${sign(look)} ${more}`),
    );
  }
}

/** Where everything goes: layers from top to bottom, or from left to right if that is shorter. */
function layOut(nodes) {
  const sizes = [];
  for (const node of nodes) sizes[node.layer] = (sizes[node.layer] || 0) + 1;
  const widest = Math.max(1, ...sizes.map((size) => size || 0));
  const isDown = widest <= 4 || sizes.length * 0.6 >= widest;
  const along = isDown ? HEIGHT + BETWEEN : WIDTH + BETWEEN;
  const across = isDown ? WIDTH + GAP : HEIGHT + GAP;
  const at = nodes.map((node) => {
    const main = MARGIN + node.layer * along;
    const side = MARGIN + (node.place + (widest - sizes[node.layer]) / 2) * across;
    return isDown ? { x: side, y: main } : { x: main, y: side };
  });
  const length = MARGIN * 2 + Math.max(1, sizes.length) * along - BETWEEN;
  const breadth = MARGIN * 2 + widest * across - GAP;
  return { at, isDown, width: isDown ? breadth : length, height: isDown ? length : breadth, nodes };
}

/** Where an edge leaves a node, or comes to it. A join is a point in the middle of its place. */
function port(plan, number, isEnd) {
  const { x, y } = plan.at[number];
  if (plan.nodes[number].name === null) return [x + WIDTH / 2, y + HEIGHT / 2];
  if (plan.isDown) return [x + WIDTH / 2, isEnd ? y : y + HEIGHT];
  return [isEnd ? x : x + WIDTH, y + HEIGHT / 2];
}

function edge(plan, from, to) {
  const [x1, y1] = port(plan, from, false);
  const [x2, y2] = port(plan, to, true);
  const bend = plan.isDown ? (y2 - y1) / 2 : (x2 - x1) / 2;
  const path = plan.isDown ? `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}` : `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  return s("path", { class: "edge", d: path });
}

function join(plan, number) {
  const [x, y] = port(plan, number, false);
  return s("circle", { class: "join", cx: x, cy: y, r: 4 });
}
