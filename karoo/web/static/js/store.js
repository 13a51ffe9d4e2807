// What is known of the proxy: the latest summary, how old it is, and those who want to hear of changes.

class Store {
  summary = null;
  receivedAt = -Infinity; // performance.now() of the latest data
  #clockOffset = 0; // seconds that the proxy's clock is ahead of this machine's
  #listeners = new Map([
    ["summary", new Set()],
    ["events", new Set()],
    ["reset", new Set()],
  ]);

  /** Called with (data) whenever there is news: "summary", "events" (a list of new ones), "reset" (some may be missed).
   * Returns the function that ends it. */
  on(kind, listener) {
    const listeners = this.#listeners.get(kind);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  full(summary) {
    const missed = this.summary === null || summary.last_event_id !== this.summary.last_event_id;
    this.summary = summary;
    this.#received();
    if (missed) this.#tell("reset", summary);
  }

  delta(changes, events) {
    if (this.summary === null) return;
    this.summary = merge(this.summary, changes ?? {});
    this.#received();
    if (events?.length) this.#tell("events", events);
  }

  /** The proxy's clock, Unix seconds. */
  now() {
    return Date.now() / 1000 + this.#clockOffset;
  }

  #received() {
    this.receivedAt = performance.now();
    if (this.summary.now_unix) this.#clockOffset = this.summary.now_unix - Date.now() / 1000;
    this.#tell("summary", this.summary);
  }

  #tell(kind, data) {
    for (const listener of [...this.#listeners.get(kind)]) listener(data);
  }
}

/** Objects are merged, everything else is replaced; a new object, so that nothing shown earlier changes underneath. */
export function merge(old, changes) {
  const merged = { ...old };
  for (const [key, value] of Object.entries(changes)) {
    merged[key] = isObject(value) && isObject(merged[key]) ? merge(merged[key], value) : value;
  }
  return merged;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

export const store = new Store();
