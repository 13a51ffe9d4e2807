// The happenings worth a mark on the curve: asked for once, then kept up by what the live line brings.

import { get } from "./api.js";
import { store } from "./store.js";

export const MARKED = ["pool lost", "failover", "switch", "ban", "block"];
const TOLD = [...MARKED, "pool up", "full", "ledger", "bug", "start"];
const EACH = 50;

export class EventLog {
  items = []; // latest first

  /** `changed()` is called when there are new ones. */
  constructor(changed) {
    this.changed = changed;
    this.ends = [store.on("events", (items) => this.#add(items)), store.on("reset", () => this.load())];
    this.load();
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    const answers = await Promise.allSettled(TOLD.map((kind) => get("events", { kind, limit: EACH })));
    this.loading = false;
    this.#add(
      answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value.items : [])),
      true,
    );
  }

  #add(items, always = false) {
    const known = new Map(this.items.map((item) => [`${item.id} ${item.unix}`, item])); // ids begin anew with the proxy
    const before = known.size;
    for (const item of items) if (TOLD.includes(item.kind)) known.set(`${item.id} ${item.unix}`, item);
    if (known.size === before && !always) return;
    this.items = [...known.values()].sort((a, b) => b.unix - a.unix).slice(0, EACH * TOLD.length);
    this.changed();
  }

  marks() {
    return this.items.filter((item) => MARKED.includes(item.kind));
  }

  destroy() {
    for (const end of this.ends) end();
  }
}
