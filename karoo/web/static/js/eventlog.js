// The happenings worth telling on the overview: asked for in one request, then kept up by what the live line brings.

import { get } from "./api.js";
import { store } from "./store.js";

const MARKED = ["pool lost", "failover", "switch", "ban", "block"]; // on the curve
const TOLD = [...MARKED, "pool up", "full", "ledger", "bug", "start"];
const AT_ONCE = 100;
const MOST = 500;
const RETRY_MS = 5000;

export class EventLog {
  items = []; // latest first
  #busy = false;
  #again = false;
  #timer = null;
  #abort = new AbortController();

  /** `changed()` is called when there are new ones. */
  constructor(changed) {
    this.changed = changed;
    this.ends = [store.on("events", (items) => this.#add(items)), store.on("reset", () => this.#load())];
    if (store.summary !== null) this.#load(); // else the first summary brings a "reset"
  }

  async #load() {
    if (this.#busy) {
      this.#again = true;
      return;
    }
    clearTimeout(this.#timer);
    this.#busy = true;
    try {
      const answer = await get("events", { kind: TOLD.join(","), limit: AT_ONCE }, this.#abort.signal);
      this.#add(answer.items, true);
    } catch {
      // that the proxy does not answer is said above the page
      if (!this.#abort.signal.aborted) this.#timer = setTimeout(() => this.#load(), RETRY_MS);
    }
    this.#busy = false;
    if (!this.#again || this.#abort.signal.aborted) return;
    this.#again = false;
    this.#load();
  }

  #add(items, always = false) {
    const known = new Map(this.items.map((item) => [`${item.id} ${item.unix}`, item])); // ids begin anew with the proxy
    const before = known.size;
    for (const item of items) if (TOLD.includes(item.kind)) known.set(`${item.id} ${item.unix}`, item);
    if (known.size === before && !always) return;
    this.items = [...known.values()].sort((a, b) => b.unix - a.unix).slice(0, MOST);
    this.changed();
  }

  marks() {
    return this.items.filter((item) => MARKED.includes(item.kind));
  }

  destroy() {
    this.#abort.abort();
    clearTimeout(this.#timer);
    for (const end of this.ends) end();
  }
}
