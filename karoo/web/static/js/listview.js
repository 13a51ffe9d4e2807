// A page that is a list: search, filter, sortable table, 100 rows a page, fetched every few seconds.

import { get } from "./api.js";
import { h, replace, setAttr, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { Refresher } from "./refresh.js";
import { keepParams } from "./route.js";
import { Table } from "./table.js";

const LIMIT = 100;
const EVERY_MS = 5000;
const TYPING_MS = 250;
const LONGEST = 200; // characters of what is searched
const LARGEST_OFFSET = 1e9;

/**
 * `path`: of the API; `page`: of the route; `columns`, `row`, `id`, `caption`: of the Table; `sort`, `order`: at first;
 * `noun`: ["worker", "workers"]; `search`: the label of the search field, or null; `filter`: {name, label,
 * options: [[value, text]]} or null; `empty(filtered)` -> a node.
 */
export class ListView {
  constructor(options, params) {
    Object.assign(this, { sort: "", order: "", search: null, filter: null }, options);
    this.first = { sort: this.sort, order: this.order };
    this.#take(params);
    this.table = new Table({
      ...options,
      onSort: this.sort ? (sort, order) => this.#change({ sort, order, offset: 0 }) : null,
    });
    this.#build();
    this.#sorted();
    this.refresher = new Refresher((signal) => this.#load(signal), EVERY_MS);
  }

  /** From the address, which anybody may have written: what makes no sense is passed over. */
  #take(params) {
    this.query = this.search === null ? "" : (params.get("q") ?? "").slice(0, LONGEST);
    const chosen = this.filter ? params.get(this.filter.name) : null;
    this.chosen = this.filter?.options.some(([value]) => value === chosen) ? chosen : "";
    const offset = Math.min(Number(params.get("offset")), LARGEST_OFFSET);
    this.offset = offset > 0 ? Math.floor(offset / LIMIT) * LIMIT : 0;
    if (this.columns.some((column) => column.sort && column.key === params.get("sort"))) {
      this.sort = params.get("sort");
      this.order = params.get("order") === "desc" ? "desc" : "asc";
    }
  }

  #build() {
    this.total = h("p", { class: "list-total" });
    this.spoken = h("p", { class: "sr", role: "status" }); // told what a search found, not each change of the farm
    this.instead = h("div", { class: "list-instead", hidden: true });
    this.back = h("button", { type: "button", class: "button", on: { click: () => this.#turn(-LIMIT) } }, "Previous");
    this.next = h("button", { type: "button", class: "button", on: { click: () => this.#turn(LIMIT) } }, "Next");
    this.where = h("span", { class: "pager-where" });
    this.pager = h(
      "nav",
      { class: "pager", "aria-label": "Pages of the list", hidden: true },
      this.back,
      this.where,
      this.next,
    );
    this.tools = h("div", { class: "tools" }, this.#searchField(), this.#filterField(), this.#sortField(), this.total);
    this.element = h("div", { class: "list" }, this.tools, this.spoken, this.table.element, this.instead, this.pager);
  }

  #searchField() {
    if (this.search === null) return null;
    const field = h("input", {
      id: "search",
      type: "search",
      placeholder: this.search,
      "aria-label": this.search,
      autocomplete: "off",
      spellcheck: "false",
      maxlength: LONGEST,
      value: this.query,
    });
    let timer = null;
    field.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#change({ query: field.value.trim(), offset: 0 }), TYPING_MS);
    });
    return field;
  }

  #filterField() {
    if (this.filter === null) return null;
    const { label, options } = this.filter;
    if (options.length > 6) {
      const select = h(
        "select",
        { id: "filter", "aria-label": label },
        options.map(([value, text]) => h("option", { value, selected: value === this.chosen }, text)),
      );
      select.addEventListener("change", () => this.#change({ chosen: select.value, offset: 0 }));
      return select;
    }
    this.buttons = options.map(([value, text]) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(value === this.chosen),
          dataset: { filter: value },
          on: { click: () => this.#choose(value) },
        },
        text,
        h("span", { class: "segment-count" }),
      ),
    );
    return h("div", { class: "segments", role: "group", "aria-label": label }, this.buttons);
  }

  /** On a phone most columns, and with them their buttons, are out of sight: this sorts there. */
  #sortField() {
    const sortable = this.columns.filter((column) => column.sort);
    if (!this.sort || sortable.length < 3) return null;
    this.sorter = h(
      "select",
      { "aria-label": "Sort by" },
      sortable.map((column) => h("option", { value: column.key }, `By ${(column.long ?? column.title).toLowerCase()}`)),
    );
    this.sorter.addEventListener("change", () => {
      const column = sortable.find((one) => one.key === this.sorter.value);
      this.#change({ sort: column.key, order: column.first ?? (column.num ? "desc" : "asc"), offset: 0 });
    });
    this.direction = h("button", { type: "button", class: "button", on: { click: () => this.#reverse() } });
    return h("div", { class: "sorter" }, this.sorter, this.direction);
  }

  #reverse() {
    this.#change({ order: this.order === "asc" ? "desc" : "asc", offset: 0 });
  }

  /** Shows by what the list is sorted, wherever that can be chosen. */
  #sorted() {
    this.table.sorted(this.sort, this.order);
    if (!this.sorter) return;
    const rising = this.order === "asc";
    this.sorter.value = this.sort;
    setText(this.direction, rising ? "↑" : "↓");
    setAttr(this.direction, "aria-label", `Order: ${rising ? "ascending" : "descending"}. Reverse it`);
  }

  #choose(value) {
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.filter === value));
    this.#change({ chosen: value, offset: 0 });
  }

  /** Numbers beside the filter's words: {online: 12, ...}. */
  filterCounts(counts) {
    for (const button of this.buttons ?? []) {
      const number = counts[button.dataset.filter];
      setText(button.querySelector(".segment-count"), number === undefined ? "" : count(number));
    }
  }

  #turn(step) {
    this.#change({ offset: Math.max(0, this.offset + step) });
    this.element.scrollIntoView({ block: "start" });
  }

  #change(changes) {
    Object.assign(this, changes);
    this.speak = true;
    this.#sorted();
    const sorted = this.sort !== this.first.sort || this.order !== this.first.order;
    keepParams(this.page, {
      q: this.query,
      ...(this.filter ? { [this.filter.name]: this.chosen } : {}),
      sort: sorted ? this.sort : "",
      order: sorted ? this.order : "",
      offset: this.offset,
    });
    this.refresher.now();
  }

  async #load(signal) {
    const filter = this.filter ? { [this.filter.name]: this.chosen } : {};
    let answer;
    try {
      answer = await get(
        this.path,
        { ...filter, q: this.query, sort: this.sort, order: this.order, limit: LIMIT, offset: this.offset },
        signal,
      );
    } catch (error) {
      if (!signal.aborted) this.#failed(error);
      return;
    }
    if (signal.aborted) return;
    if (this.offset > 0 && answer.items.length === 0) {
      // the list has become shorter than where we are
      this.#change({ offset: Math.max(0, Math.floor((answer.total - 1) / LIMIT) * LIMIT) });
      return;
    }
    this.#show(answer);
  }

  #show(answer) {
    const filtered = Boolean(this.query || this.chosen);
    this.table.show(answer.items);
    this.table.element.hidden = answer.items.length === 0;
    this.instead.hidden = answer.items.length > 0;
    const shown = answer.items.length > 0 ? "" : `${filtered}`;
    if (!this.instead.hidden && this.shown !== shown) replace(this.instead, this.empty(filtered));
    this.shown = shown;
    setText(this.total, plural(answer.total, ...this.noun));
    this.total.hidden = answer.total === 0;
    this.tools.hidden = answer.total === 0 && !filtered;
    if (this.speak) setText(this.spoken, `${plural(answer.total, ...this.noun)} found`);
    this.speak = false;
    this.pager.hidden = answer.total <= LIMIT;
    setText(
      this.where,
      `${count(this.offset + 1)} to ${count(this.offset + answer.items.length)} of ${count(answer.total)}`,
    );
    this.back.disabled = this.offset === 0;
    this.next.disabled = this.offset + answer.items.length >= answer.total;
    this.element.classList.remove("outdated");
  }

  /** What was shown stays, visibly old; without anything to show, the reason. */
  #failed(error) {
    this.element.classList.add("outdated");
    if (this.table.body.childElementCount > 0) return;
    this.table.element.hidden = true;
    this.instead.hidden = false;
    this.shown = "failed";
    replace(this.instead, h("p", { class: "empty" }, error.message));
  }

  destroy() {
    this.refresher.stop();
  }
}
