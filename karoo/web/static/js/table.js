// A table whose rows are kept from one refresh to the next, so that focus, selection and scroll stay where they are.

import { h, setAttr } from "./dom.js";

/**
 * `columns`: [{key, title, cell(item) -> text or node, class, num: bool, sort: bool, first: "asc" | "desc", head: bool,
 *   still: bool}]; sort: the API sorts by `key`; first: the order of the first click; head: the cell names the row;
 *   still: built once per row.
 * `row(item)` -> {key, dataset}; `onSort(key, order)`; stacked: on a phone the column of class col-full has a line of
 *   its own.
 */
export class Table {
  #rows = new Map();

  constructor({ id, caption, columns, row, onSort = null, stacked = false }) {
    Object.assign(this, { columns, row, onSort });
    this.body = h("tbody");
    this.heads = columns.map((column) => this.#head(column));
    this.table = h(
      "table",
      { id, class: stacked ? "stacked" : null },
      h("caption", { class: "sr" }, caption),
      h("thead", null, h("tr", null, this.heads)),
      this.body,
    );
    this.element = h("div", { class: "table-box" }, this.table);
  }

  #head(column) {
    const title = column.title;
    const sortable = column.sort && this.onSort;
    const inside = sortable
      ? h("button", { type: "button", on: { click: () => this.#clicked(column) } }, title)
      : title;
    return h("th", { scope: "col", class: classes(column), dataset: sortable ? { sort: column.key } : {} }, inside);
  }

  #clicked(column) {
    const same = this.sort === column.key;
    const order = same ? (this.order === "asc" ? "desc" : "asc") : (column.first ?? (column.num ? "desc" : "asc"));
    this.onSort(column.key, order);
  }

  sorted(sort, order) {
    this.sort = sort;
    this.order = order;
    for (const head of this.heads) {
      const mine = head.dataset.sort === sort;
      setAttr(head, "aria-sort", mine ? (order === "asc" ? "ascending" : "descending") : null);
    }
  }

  /** Rows in the order of the items; one that stays is moved only where it must be. */
  show(items) {
    const focused = document.activeElement;
    const kept = new Map();
    let at = this.body.firstElementChild;
    for (const item of items) {
      const named = this.row(item);
      let key = String(named.key);
      while (kept.has(key)) key += "'"; // two items that look alike are two rows
      const row = this.#rows.get(key) ?? this.#build(named.dataset);
      kept.set(key, row);
      this.#fill(row, item);
      if (row.element === at) at = at.nextElementSibling;
      else this.body.insertBefore(row.element, at);
    }
    for (const [key, row] of this.#rows) if (!kept.has(key)) row.element.remove();
    this.#rows = kept;
    if (focused !== document.activeElement && this.body.contains(focused)) focused.focus({ preventScroll: true });
  }

  #build(dataset) {
    const cells = this.columns.map((column) =>
      h(column.head ? "th" : "td", { class: classes(column), scope: column.head ? "row" : null }),
    );
    return { element: h("tr", { dataset }, cells), cells, drawn: [] };
  }

  #fill(row, item) {
    this.columns.forEach((column, number) => {
      const cell = row.cells[number];
      if (column.still && cell.firstChild) return;
      const content = column.cell(item);
      if (content instanceof Node) {
        cell.replaceChildren(content);
      } else if (row.drawn[number] !== content) {
        cell.textContent = content ?? "";
        row.drawn[number] = content;
      }
    });
  }
}

function classes(column) {
  return [column.num ? "num" : "", column.class ?? ""].filter(Boolean).join(" ") || null;
}
