// SPDX-License-Identifier: Apache-2.0
// Keeps what is shown as it is: by events, and by asking now and then where those do not come.

import { Problem, get, listen } from "./api.js";

const FIRST_PAUSE = 1000;
const LAST_PAUSE = 30000;
const ASK_EVERY = 15000;
const HIDDEN_FOR = 60000;

/**
 * One stream of events at a time.
 *
 * heard.summary(summary), heard.flow(), heard.state(word, text), heard.refused().
 */
export class Live {
  constructor(heard) {
    this.heard = heard;
    this.abort = null;
    this.query = {};
    this.lastId = "";
    this.hiding = null;
    document.addEventListener("visibilitychange", () => this.mind());
  }

  /** Listen for the summary, and for one flow if there is one. */
  start(flowUuid) {
    this.stop();
    this.query = flowUuid ? { flow_uuid: flowUuid } : {};
    this.lastId = "";
    this.run();
  }

  stop() {
    if (this.abort) this.abort.abort();
    this.abort = null;
  }

  // Nobody looks: let others listen.
  mind() {
    clearTimeout(this.hiding);
    if (document.hidden) {
      this.hiding = setTimeout(() => {
        if (this.abort) {
          this.stop();
          this.isResting = true;
        }
      }, HIDDEN_FOR);
    } else if (this.isResting) {
      this.isResting = false;
      this.run();
    }
  }

  async run() {
    const abort = new AbortController();
    this.abort = abort;
    let pause = FIRST_PAUSE;
    while (!abort.signal.aborted) {
      let next = pause;
      try {
        await listen(
          this.query,
          this.lastId,
          (name, content, id) => {
            pause = FIRST_PAUSE;
            this.lastId = id;
            this.hear(name, content);
          },
          abort.signal,
        );
        next = FIRST_PAUSE;
      } catch (error) {
        if (abort.signal.aborted) return;
        if (error instanceof Problem && error.status === 401) {
          this.heard.refused();
          return;
        }
        if (error instanceof Problem && error.status === 503) {
          next = ASK_EVERY;
          await this.askOnce(abort.signal);
        } else {
          this.heard.state("away", "No connection; trying again");
        }
        pause = Math.min(LAST_PAUSE, pause * 2);
      }
      await new Promise((done) => {
        const timer = setTimeout(done, next);
        abort.signal.addEventListener("abort", () => (clearTimeout(timer), done()));
      });
    }
  }

  hear(name, content) {
    if (name === "summary") {
      this.heard.state("live", "Live");
      this.heard.summary(content);
    } else if (name === "flow") {
      this.heard.flow();
    } else if (name === "away") {
      this.heard.state("away", content.message);
    }
  }

  async askOnce(signal) {
    try {
      const summary = await get("summary");
      if (signal.aborted) return;
      this.heard.state("slow", "Updated every 15 s");
      this.heard.summary(summary);
      this.heard.flow();
    } catch {
      this.heard.state("away", "The server is busy; trying again");
    }
  }
}
