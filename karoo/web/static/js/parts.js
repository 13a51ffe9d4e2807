// Small pieces that several pages share.

import { copyButton, foreign, h, setText } from "./dom.js";
import { workerLink } from "./route.js";
import { WORKER_STATES } from "./words.js";

/** A dot and a word: never the colour alone. */
export function badge(tone, text, title = null) {
  return h(
    "span",
    { class: `badge tone-${tone}`, title },
    h("span", { class: "dot", "aria-hidden": "true" }),
    h("span", { class: "badge-text" }, text),
  );
}

const TONES = { online: "ok", silent: "warn", gone: "bad", past: "quiet" };

export function stateBadge(state) {
  const [text, meaning] = WORKER_STATES[state] ?? [state, null];
  return badge(TONES[state] ?? "quiet", text, meaning);
}

export const workerAnchor = (name) => h("a", { class: "name", href: workerLink(name) }, foreign(name));

export const address = (text) => foreign(text, { class: "address", title: null });

export function heading(text, ...beside) {
  return h("div", { class: "page-head" }, h("h1", { tabindex: "-1" }, text), beside);
}

export function card(title, ...inside) {
  return h("section", { class: "card", "aria-label": title }, h("h2", null, title), inside);
}

export function empty(title, text, ...more) {
  return h("div", { class: "empty" }, h("h2", null, title), h("p", null, text), more);
}

/** <dl> of named values, which `set(key, text)` fills; `form` "rows" for long values: one line each. */
export class Facts {
  #values = new Map();

  constructor(names, { fields = {}, form = "" } = {}) {
    this.element = h(
      "dl",
      { class: `facts ${form}` },
      Object.entries(names).map(([key, title]) => {
        const value = h("dd", fields[key] ? { dataset: { field: fields[key] } } : null);
        this.#values.set(key, value);
        return h("div", null, h("dt", null, title), value);
      }),
    );
  }

  set(key, text) {
    setText(this.#values.get(key), text);
  }

  at(key) {
    return this.#values.get(key);
  }
}

/** What to enter in a miner to have it here: `stratum` of the summary. */
export function connectGuide(stratum) {
  const { listeners, user_form: user, password_form: password, worker_hint: hint } = stratum;
  const addresses = listeners.flatMap((one) => one.addresses.map((address) => [address, one.name]));
  return h(
    "div",
    { class: "guide" },
    h(
      "dl",
      null,
      guideStep(
        addresses.length > 1 ? "Pool address, one of" : "Pool address",
        addresses.map(([address, name]) => copyLine(address, `the address ${address}`, name)),
      ),
      guideStep("User", [copyLine(user, "the user")], `${hint} Give each miner a name of its own.`),
      guideStep("Password", [copyLine(password, "the password")]),
    ),
  );
}

function guideStep(title, lines, hint = null) {
  return h(
    "div",
    null,
    h("dt", null, title),
    h("dd", null, h("ul", { class: "copy-lines" }, lines)),
    hint && h("dd", { class: "hint" }, hint),
  );
}

/** A text to enter as it stands, and what it is called; one of several words only describes what to enter. */
function copyLine(text, what, name = "") {
  if (/\s/.test(text)) return h("li", null, text);
  return h(
    "li",
    null,
    h("code", null, text),
    name && h("span", { class: "hint" }, foreign(name)),
    copyButton(text, what),
  );
}
