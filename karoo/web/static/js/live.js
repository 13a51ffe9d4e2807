// Keeps the store fresh: by WebSocket, and where that is not to be had by asking every two seconds.

import { access, get, here } from "./api.js";
import { store } from "./store.js";

const SILENT_MS = 5000; // a message comes each second; after this long without one the line counts as dead
const POLL_MS = 2000;
const BACKOFF_MAX_MS = 30000;

/** `tell(state, reason)` is called when the state changes: "live", "polling" or "offline". */
export function startLive(tell) {
  new Live(tell).start();
}

class Live {
  #socket = null;
  #heardAt = -Infinity;
  #failures = 0;
  #retryAt = 0;
  #polling = false;
  #polledAt = -Infinity;
  #reason = "";
  #state = null;

  constructor(tell) {
    this.tell = tell;
  }

  start() {
    this.#connect();
    setInterval(() => this.#look(), 500);
    document.addEventListener("visibilitychange", () => this.#look());
    window.addEventListener("online", () => {
      this.#retryAt = 0;
      this.#look();
    });
    window.addEventListener("pagehide", () => this.#socket?.close());
  }

  #connect() {
    const url = here("live");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#heardAt = performance.now(); // it has as long to say its first word
    socket.onmessage = (event) => socket === this.#socket && this.#heard(event.data);
    socket.onclose = () => socket === this.#socket && this.#lost();
  }

  #heard(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    this.#heardAt = performance.now();
    this.#failures = 0;
    if (message.type === "full") store.full(message.summary);
    else if (message.type === "delta") store.delta(message.summary, message.events);
    this.#judge();
  }

  #lost() {
    this.#socket = null;
    this.#failures += 1;
    const wait = Math.min(BACKOFF_MAX_MS, 1000 * 2 ** Math.min(this.#failures - 1, 5));
    this.#retryAt = performance.now() + wait * (0.75 + Math.random() / 2); // many pages must not come back as one
    this.#look();
  }

  /** Twice a second: is the line dead, is it time to dial again or to ask? */
  #look() {
    const now = performance.now();
    if (this.#socket && now - this.#heardAt > SILENT_MS) {
      const dead = this.#socket;
      this.#socket = null;
      dead.close();
      this.#lost();
      return;
    }
    if (!this.#socket && now >= this.#retryAt && access.words === null) this.#connect();
    if (!this.#isLive() && !document.hidden && now - this.#polledAt >= POLL_MS) this.#poll();
    this.#judge();
  }

  #isLive() {
    return this.#socket?.readyState === WebSocket.OPEN && performance.now() - store.receivedAt < SILENT_MS;
  }

  async #poll() {
    if (this.#polling) return;
    this.#polling = true;
    this.#polledAt = performance.now();
    try {
      const summary = await get("summary");
      if (!this.#isLive()) store.full(summary);
    } catch (error) {
      this.#reason = error.message;
    } finally {
      this.#polling = false;
      this.#judge();
    }
  }

  #judge() {
    const fresh = performance.now() - store.receivedAt < SILENT_MS + POLL_MS;
    const state = this.#isLive() ? "live" : fresh ? "polling" : "offline";
    if (state === "offline" && !this.#reason) return; // nothing has failed yet: the page is just being opened
    if (state !== "offline") this.#reason = "";
    const known = state + this.#reason;
    if (known === this.#state) return;
    this.#state = known;
    this.tell(state, this.#reason);
  }
}
