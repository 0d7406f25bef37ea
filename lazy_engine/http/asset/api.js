// SPDX-License-Identifier: Apache-2.0
// Asks the server. The key stands in a header, never in an address, and is kept for this tab alone.

const KEY = "lazy_engine.key";
let right = null;

export function readKey() {
  return sessionStorage.getItem(KEY);
}

export function keepKey(key) {
  right = null;
  sessionStorage.setItem(KEY, key);
}

export function forgetKey() {
  right = null;
  sessionStorage.removeItem(KEY);
}

/** A request that was not done. */
export class Problem extends Error {
  constructor(status, message, body) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

async function ask(method, path, body, signal) {
  const headers = { Authorization: `Bearer ${readKey() || ""}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`v1/${path}`, { method, headers, body, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer.");
  }
  return answer;
}

async function read(answer) {
  let document = null;
  try {
    document = await answer.json();
  } catch {
    // Not from this server, or cut off: the status says enough.
  }
  if (answer.ok && document !== null) return document;
  const message = (document && (document.message || document.disposition)) || `The server answered ${answer.status}.`;
  throw new Problem(answer.status, message, document);
}

function queryOf(query) {
  const set = Object.entries(query || {}).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return set.length ? `?${new URLSearchParams(set)}` : "";
}

export async function get(path, query) {
  return read(await ask("GET", path + queryOf(query)));
}

/** Return whether the key is for more than looking; asked once. What it does not allow is refused anyway. */
export async function learnRight() {
  // Kept before it is answered: an answer for a key that was forgotten meanwhile is nobody's.
  const asked = (right ??= get("key"));
  try {
    return (await asked).may_act;
  } catch (error) {
    if (right === asked) right = null;
    throw error;
  }
}

/** Send something; *body* is JSON text. */
export async function post(path, body) {
  return read(await ask("POST", path, body));
}

export function flowPath(uuid, ...rest) {
  return ["flows", uuid, ...rest].map(encodeURIComponent).join("/");
}

/**
 * Listen to events until *signal* ends it, or the server does.
 *
 * EventSource cannot send a header, so the stream is read by hand. hear(name, content, id).
 */
export async function listen(query, lastId, hear, signal) {
  const headers = { Authorization: `Bearer ${readKey() || ""}`, Accept: "text/event-stream" };
  if (lastId) headers["Last-Event-ID"] = lastId;
  const answer = await fetch(`v1/events${queryOf(query)}`, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  if (!answer.ok) await read(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = Object.fromEntries(
        event
          .split("\n")
          .filter((line) => line.includes(": ") && !line.startsWith(":"))
          .map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]),
      );
      if (fields.event) hear(fields.event, JSON.parse(fields.data), fields.id);
    }
  }
}
