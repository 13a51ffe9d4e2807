// What states, reasons and verdicts mean, in words for those who run a farm and not a protocol.

import { difficulty } from "./format.js";

export const WORKER_STATES = {
  online: ["Online", "connected, with a share in the last 5 minutes"],
  silent: ["Silent", "connected, but without a share for 5 minutes"],
  gone: ["Gone", "not connected, seen in the last 24 hours"],
  past: ["Past", "not seen for more than 24 hours"],
};

export const POOL_STATES = {
  up: ["Up", "ok"],
  connecting: ["Connecting", "warn"],
  idle: ["Idle", "quiet"],
  down: ["Down", "bad"],
  active: ["Active", "ok"],
  standby: ["Standby", "quiet"],
  unknown: ["Not tried yet", "quiet"],
};

export const EVENT_KINDS = {
  start: "Start",
  stop: "Stop",
  "pool up": "Pool up",
  "pool lost": "Pool lost",
  failover: "Failover",
  block: "Block",
  ban: "Ban",
  unban: "Unban",
  cut: "Cut",
  full: "Full",
  kick: "Kick",
  switch: "Switch",
  reload: "Reload",
  ledger: "Ledger",
  bug: "Bug",
};

const POOL_CODES = {
  21: "The pool had moved on to other work",
  22: "The pool had this share already",
  23: "Below the pool's difficulty",
  24: "The pool does not know this worker",
  25: "The pool says the line is not subscribed",
};

/** {text, note} for a reason as it is booked: "stale", "pool: 23 low difficulty", ... */
export function reasonWords(reason) {
  const known = {
    stale: "Too late",
    "low difficulty": "Below the difficulty",
    duplicate: "Sent twice",
    malformed: "Not readable",
    unauthorized: "Worker not logged in",
    "not subscribed": "Not subscribed",
    other: "Other",
  }[reason];
  if (known) return { text: known, note: reason };
  const pool = /^pool: (-?\d+)(?: (.*))?$/s.exec(reason);
  if (pool)
    return {
      text: POOL_CODES[pool[1]] ?? "Refused by the pool",
      note: `pool ${pool[1]}${pool[2] ? ": " + pool[2] : ""}`,
    };
  return { text: reason.replace(/^pool: /, "Pool: "), note: "" };
}

const HERE = {
  stale: "It came too late: its job had been replaced. A few at each new block are normal; many point to a slow line.",
  "low difficulty":
    "Its hash misses the miner's difficulty. Now and then after a change of difficulty; often means a fault of the " +
    "miner.",
  duplicate:
    "The same share had been sent before. A repeat after a lost line is harmless; many point to the miner's firmware.",
  malformed: "The miner's message could not be read as a share.",
  unauthorized: "The miner sent it under a name that it had not logged in with.",
  "not subscribed": "The miner sent it before it had subscribed.",
};

/** One sentence on what became of a share (an item of recent_shares). */
export function explain(share) {
  if (share.verdict === "accepted") {
    return share.by === "pool"
      ? "Good: the pool took it."
      : "Good: below the pool's difficulty, so it is counted here.";
  }
  if (share.by === "pool") return poolRefusal(share);
  if (share.reason === "low difficulty" && share.difficulty !== null && share.needed !== null) {
    return (
      `Its hash reaches ${difficulty(share.difficulty)}, and ${difficulty(share.needed)} was needed. ` +
      "Now and then after a change of difficulty; often means a fault of the miner."
    );
  }
  return HERE[share.reason] ?? `Refused here: ${share.reason || "no reason was kept"}.`;
}

function poolRefusal(share) {
  const { text, note } = reasonWords(share.reason ?? "");
  if (!note) return share.words || !share.reason ? "The pool refused it." : `The pool refused it: ${share.reason}.`;
  return `The pool refused it. ${text}.`;
}
