// The page: which view is shown, the badge of the connection, notices, title and footer.

import { access } from "./api.js";
import { h, replace, setText } from "./dom.js";
import { ago, clock, duration, hashrate, plural, shortened } from "./format.js";
import { startLive } from "./live.js";
import { readRoute } from "./route.js";
import { store } from "./store.js";
import { bansView } from "./views/bans.js";
import { eventsView } from "./views/events.js";
import { overviewView } from "./views/overview.js";
import { poolsView } from "./views/pools.js";
import { sessionsView } from "./views/sessions.js";
import { workerView } from "./views/worker.js";
import { workersView } from "./views/workers.js";

// Each makes {element, title, update(summary), destroy()} of the route's parameters.
const VIEWS = {
  overview: overviewView,
  workers: workersView,
  sessions: sessionsView,
  pools: poolsView,
  bans: bansView,
  events: eventsView,
};
const LINKS = { live: "Live", polling: "Every 2 s", offline: "No connection" };
const TITLE = 60; // characters of a view's name in the tab
const TITLES = { up: "", connecting: "Connecting", idle: "Idle", down: "Pool down" };

const main = document.getElementById("main");
let view = null;
let link = { state: null, reason: "" };

function show(first) {
  const route = readRoute();
  view?.destroy();
  const make = route.page === "workers" && route.name !== null ? workerView : VIEWS[route.page];
  view = make ? make(route) : missing();
  replace(main, view.element);
  for (const tab of document.querySelectorAll(".tabs a")) {
    const here = tab.dataset.page === route.page;
    if (here) {
      tab.setAttribute("aria-current", "page");
      tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else tab.removeAttribute("aria-current");
  }
  if (store.summary) view.update(store.summary);
  titled();
  if (first) return;
  window.scrollTo(0, 0);
  main.querySelector("h1")?.focus({ preventScroll: true }); // a screen reader then reads where it has come
}

function missing() {
  const element = h(
    "div",
    { class: "empty" },
    h("h1", { tabindex: "-1" }, "There is no such page"),
    h("p", null, h("a", { href: "#/" }, "To the overview")),
  );
  return { element, title: "Not found", update() {}, destroy() {} };
}

/** The tab's name tells the most important, also while another tab is shown. */
function titled() {
  const summary = store.summary;
  const state =
    link.state === "offline"
      ? "No connection"
      : summary
        ? TITLES[summary.pool.state] || hashrate(summary.hashrate["1m"])
        : "";
  const title = [state, shortened(view.title, TITLE), "Karoo"].filter(Boolean).join(" · ");
  if (document.title !== title) document.title = title;
}

function summaryCame(summary) {
  titled();
  if (document.hidden) return;
  view.update(summary);
  footer(summary);
  notices();
  document.body.dataset.ready = "1";
}

function linkChanged(state, reason) {
  link = { state, reason };
  const badge = document.querySelector("[data-live]");
  badge.dataset.live = state;
  setText(badge.querySelector(".link-text"), LINKS[state]);
  badge.title = {
    live: "Figures come each second.",
    polling: "No live line; the figures are asked for every two seconds.",
    offline: reason,
  }[state];
  document.body.classList.toggle("stale", state === "offline" && store.summary !== null);
  notices();
  titled();
}

/** What stands above every page: no access, no connection, or books that cannot be written. */
function notices() {
  const lines = [];
  if (access.words !== null) lines.push(["access", "bad", access.words]);
  else if (link.state === "offline") lines.push(["offline", "bad", offlineText()]);
  const fault = store.summary?.ledger?.fault;
  if (fault) lines.push(["ledger", "warn", `The accounts cannot be written: ${fault}`]);
  const element = document.getElementById("notices");
  const known = JSON.stringify(lines);
  if (element.dataset.known === known) return; // said once is enough for a screen reader
  element.dataset.known = known;
  replace(
    element,
    lines.map(([name, tone, text]) => h("p", { class: `notice tone-${tone}`, dataset: { notice: name } }, text)),
  );
}

function offlineText() {
  if (store.summary === null) return `${link.reason} Trying again.`;
  const since = store.now() - (performance.now() - store.receivedAt) / 1000;
  return `${link.reason} What you see is from ${clock(since)}. Trying again.`;
}

function footer(summary) {
  const foot = document.getElementById("foot");
  if (!foot.firstChild) {
    replace(
      foot,
      h(
        "p",
        null,
        h("span", { dataset: { foot: "version" } }),
        h("span", { dataset: { foot: "uptime" } }),
        h("span", { dataset: { foot: "written" } }),
        h("span", { class: "tone-warn", dataset: { foot: "faults" } }),
      ),
      h(
        "p",
        null,
        h("a", { href: "metrics" }, "Metrics"),
        h("a", { href: "api/v1/openapi.json" }, "API"),
        h("a", { href: "status" }, "Status as JSON"),
      ),
    );
  }
  const part = (name) => foot.querySelector(`[data-foot="${name}"]`);
  setText(part("version"), `Karoo ${summary.version}, ${summary.algorithm}`);
  setText(part("uptime"), `runs for ${duration(summary.uptime_seconds)}`);
  setText(part("faults"), summary.exceptions ? `${plural(summary.exceptions, "fault")} of the proxy, see its log` : "");
  const { database, seconds_since_write: written } = summary.ledger ?? {};
  setText(part("written"), database ? `accounts written ${ago(written)}` : "accounts are kept in memory only");
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the route's
  main.focus();
});
document.addEventListener("visibilitychange", () => !document.hidden && store.summary && summaryCame(store.summary));
window.addEventListener("hashchange", () => show(false));
store.on("summary", summaryCame);
access.changed = notices;
show(true);
startLive(linkChanged);
