// SPDX-License-Identifier: Apache-2.0
// Where the nodes of a graph go: layers from top to bottom, in as many strips side by side as there
// is room for. A layer that is too wide goes on in the next row.

export const WIDTH = 172;
export const HEIGHT = 44;
/** How many letters of a name there is room for. */
export const NAME = 22;

const GAP = 16;
const BETWEEN = 34;
const ROW = 14;
const MARGIN = 12;
/** Strips are not made for less than this. */
const SHORTEST = 600;

/** Lay nodes out in a width; the plan may be wider, if not even two go side by side. */
export function layOut(nodes, width) {
  const layers = [];
  nodes.forEach((node, number) => (layers[node.layer] ||= []).push(number));
  for (const layer of layers) layer.sort((one, other) => nodes[one].place - nodes[other].place);
  const columns = Math.max(2, Math.floor((width - 2 * MARGIN + GAP) / (WIDTH + GAP)));
  const blocks = layers.map((layer) => block(layer, columns));
  const strip = Math.max(...blocks.map((each) => each.width), WIDTH);
  const total = blocks.reduce((sum, each) => sum + each.height + BETWEEN, 0);
  const room = Math.max(1, Math.floor((width - 2 * MARGIN + GAP) / (strip + GAP)));
  const strips = Math.min(room, Math.ceil(total / SHORTEST));
  return place(nodes, blocks, strip, total / strips);
}

/** The plan that can be shown largest in a room, and how large that is, at most 1. */
export function fit(nodes, room) {
  let best = null;
  for (let factor = 1; factor < 10; factor *= 1.3) {
    const plan = layOut(nodes, room.width * factor);
    const scale = Math.min(1, room.width / plan.width, room.height / plan.height);
    if (best === null || scale > best.scale) best = { ...plan, scale };
  }
  return best;
}

function block(layer, columns) {
  // Rows of the same length, as far as possible.
  const rows = Math.ceil(layer.length / columns);
  const length = Math.ceil(layer.length / rows);
  return { layer, length, width: length * (WIDTH + GAP) - GAP, height: rows * (HEIGHT + ROW) - ROW };
}

function place(nodes, blocks, strip, tall) {
  const at = [];
  let left = MARGIN;
  let top = MARGIN;
  let lowest = 0;
  for (const { layer, length, height } of blocks) {
    if (top > MARGIN && top + height / 2 > tall + MARGIN) {
      left += strip + GAP * 2;
      top = MARGIN;
    }
    layer.forEach((number, index) => {
      const row = Math.floor(index / length);
      const inRow = Math.min(length, layer.length - row * length);
      const start = left + (strip - inRow * (WIDTH + GAP) + GAP) / 2;
      at[number] = { x: start + (index % length) * (WIDTH + GAP), y: top + row * (HEIGHT + ROW) };
    });
    lowest = Math.max(lowest, top + height);
    top += height + BETWEEN;
  }
  return { nodes, at, width: left + strip + MARGIN, height: lowest + MARGIN };
}
