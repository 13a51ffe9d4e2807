// Fetching again and again, but only while somebody can see it.

/** Calls `work(signal)` at once and then every `everyMs`, never twice at a time, never in a hidden tab. */
export class Refresher {
  #abort = new AbortController();
  #timer = null;
  #busy = false;
  #again = false;

  constructor(work, everyMs) {
    this.work = work;
    this.everyMs = everyMs;
    document.addEventListener("visibilitychange", () => !document.hidden && this.now(), { signal: this.#abort.signal });
    this.now();
  }

  /** Now; or right after the one that is under way. */
  async now() {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#busy = true;
    try {
      await this.work(this.#abort.signal);
    } catch (error) {
      if (!this.#abort.signal.aborted) console.warn(String(error)); // views show their own errors; this is for a bug
    }
    this.#busy = false;
    if (this.#abort.signal.aborted) return;
    if (this.#again) {
      this.#again = false;
      this.now();
      return;
    }
    this.#timer = setTimeout(() => !document.hidden && this.now(), this.everyMs);
  }

  stop() {
    this.#abort.abort();
    clearTimeout(this.#timer);
  }
}
