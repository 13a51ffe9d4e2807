// A miner that speaks Stratum over a WebSocket: one line in each message that it sends, one or several in each that comes.

import { sha256d } from "./sha256.js";

const AGENT = "karoo-browser-miner/1.0";
const BACKOFF_MIN_MS = 1000;
const BACKOFF_MAX_MS = 60_000;
const DIFF1 = 0xffffn << 208n; // the target of difficulty 1
const SCALE = 1n << 64n; // for difficulties that are no integers
const UNKNOWN_METHOD = [-3, "Method not found", null];

/**
 * One miner, from `start` to `stop`; it connects again when it loses the proxy.
 *
 * `options`: url, user, password, difficulty (to ask for), threads. `onChange(miner)` is called when one of the fields
 * below has changed, `onNews(text)` when something happened that a person may want to know.
 */
export class Miner {
  state = "stopped"; // then connecting, connected (no job yet), mining, waiting (to connect again)
  difficulty = 0;
  job = null;
  extranonce1 = "";
  hashes = 0;
  accepted = 0;
  rejected = 0;
  unanswered = 0; // shares whose verdict was lost with the connection

  #extranonce2Size = 0;
  #nextDifficulty = 1; // counts from the next job on, as does a new extranonce
  #nextExtranonce = null;
  #socket = null;
  #opened = false;
  #retry = null; // the timer
  #backoff = BACKOFF_MIN_MS;
  #id = 0;
  #waiting = new Map(); // what to do with the answer to each request
  #grinders = [];
  #works = new Map(); // what the grinders work on: the extranonce2 of each
  #work = 0;
  #extranonce2 = 0;

  constructor(options, { onChange, onNews }) {
    this.options = options;
    this.onChange = onChange;
    this.onNews = onNews;
  }

  start() {
    for (let i = 0; i < this.options.threads; i++) {
      const grinder = new Worker(new URL("grinder.js", import.meta.url), { type: "module" });
      grinder.onmessage = (event) => this.#onGrinder(grinder, event.data);
      this.#grinders.push(grinder);
    }
    this.#connect();
  }

  stop() {
    clearTimeout(this.#retry);
    for (const grinder of this.#grinders) grinder.terminate();
    this.#grinders = [];
    this.#works.clear();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
    this.#become("stopped");
  }

  #become(state) {
    this.state = state;
    this.onChange(this);
  }

  // ---------------------------------------------------------------- the connection

  #connect() {
    this.#opened = false;
    this.#nextExtranonce = null;
    let socket;
    try {
      socket = new WebSocket(this.options.url, "stratum");
    } catch (fault) { // no such URL, or ws:// from a page that came over https://
      this.onNews(fault.message);
      this.stop();
      return;
    }
    this.#socket = socket;
    this.#become("connecting");
    socket.onopen = () => socket === this.#socket && this.#logIn();
    socket.onmessage = (event) => socket === this.#socket && this.#onText(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#onClose(event);
  }

  #onClose(event) {
    this.#socket = null;
    this.#rest();
    this.#waiting.forEach((take) => take(undefined, null));
    this.#waiting.clear();
    if (this.#opened) {
      this.onNews(`The connection was closed: ${event.code} ${event.reason}`.trim());
    } else { // a browser does not tell a page why
      this.onNews(`No connection to ${this.options.url}: the proxy is not there, its certificate is not trusted, or ` +
        `${location.origin} is not among the origins of its listener.`);
    }
    this.#connectLater();
  }

  #connectLater() {
    this.#become("waiting");
    this.#retry = setTimeout(() => this.#connect(), this.#backoff);
    this.#backoff = Math.min(2 * this.#backoff, BACKOFF_MAX_MS);
  }

  #send(message) {
    this.#socket?.send(`${JSON.stringify(message)}\n`);
  }

  /** `take(result, error)` is called with the answer; the result is undefined where none comes any more. */
  #request(method, params, take = () => {}) {
    this.#id += 1;
    this.#waiting.set(this.#id, take);
    this.#send({ id: this.#id, method, params });
  }

  #logIn() {
    this.#opened = true;
    this.#become("connected");
    const { user, password, difficulty } = this.options;
    this.#request("mining.subscribe", [AGENT], (result, error) => {
      if (result === undefined) return;
      if (!result) {
        this.#giveUp(`No subscription: ${wordsOf(error)}`);
        return;
      }
      this.#nextExtranonce = { extranonce1: result[1], size: result[2] };
      if (difficulty > 0) this.#request("mining.suggest_difficulty", [difficulty]);
      this.#request("mining.authorize", [user, password], (authorized, refusal) => {
        if (authorized) this.#backoff = BACKOFF_MIN_MS;
        else if (authorized !== undefined) this.#giveUp(`${user} is not let in: ${wordsOf(refusal)}`);
      });
      this.#request("mining.extranonce.subscribe", []);
    });
  }

  #giveUp(why) {
    this.onNews(why);
    this.stop();
  }

  // ---------------------------------------------------------------- what the proxy says

  #onText(text) {
    for (const line of text.split("\n")) {
      if (!line.trim()) continue;
      let message;
      try {
        message = JSON.parse(line);
      } catch {
        this.onNews(`No JSON: ${line.slice(0, 100)}`);
        continue;
      }
      if (message.method) this.#onCall(message);
      else this.#onAnswer(message);
    }
  }

  #onAnswer({ id, result, error }) {
    const take = this.#waiting.get(id);
    this.#waiting.delete(id);
    take?.(result ?? null, error ?? null);
  }

  #onCall({ id, method, params }) {
    if (method === "mining.notify") {
      this.#onJob(params);
    } else if (method === "mining.set_difficulty") {
      this.#nextDifficulty = params[0];
    } else if (method === "mining.set_extranonce") {
      this.#nextExtranonce = { extranonce1: params[0], size: params[1] };
    } else if (method === "client.show_message") {
      this.onNews(`The proxy says: ${params[0]}`);
    } else if (method === "client.reconnect") { // to the same place: nobody is to send this miner elsewhere
      this.#socket?.close(1000);
    } else if (id !== null && id !== undefined) {
      if (method === "client.get_version") this.#send({ id, result: AGENT, error: null });
      else this.#send({ id, result: null, error: UNKNOWN_METHOD });
    }
  }

  #onJob([id, prevhash, coinb1, coinb2, branches, version, nbits, ntime]) {
    if (this.#nextExtranonce) {
      this.extranonce1 = this.#nextExtranonce.extranonce1;
      this.#extranonce2Size = this.#nextExtranonce.size;
      this.#nextExtranonce = null;
    }
    this.difficulty = this.#nextDifficulty;
    this.job = { id, prevhash, coinb1, coinb2, branches, version, nbits, ntime, target: targetOf(this.difficulty) };
    this.#works.clear(); // at most a slice's shares are lost
    for (const grinder of this.#grinders) this.#employ(grinder);
    this.#become("mining");
  }

  // ---------------------------------------------------------------- mining

  /** Give a grinder nonces that nobody tried: each has an extranonce2 of its own. */
  #employ(grinder) {
    this.#extranonce2 = (this.#extranonce2 + 1) % 2 ** Math.min(8 * this.#extranonce2Size, 32);
    const extranonce2 = this.#extranonce2.toString(16).padStart(2 * this.#extranonce2Size, "0");
    this.#work += 1;
    this.#works.set(this.#work, extranonce2);
    const start = headerStart(this.job, this.extranonce1 + extranonce2);
    grinder.postMessage({ work: this.#work, start, target: this.job.target });
  }

  #rest() {
    this.#works.clear();
    for (const grinder of this.#grinders) grinder.postMessage(null);
  }

  #onGrinder(grinder, { hashes, work, nonce, exhausted }) {
    if (hashes) this.hashes += hashes;
    else if (!this.#works.has(work)) return; // of a job that is over
    else if (exhausted) this.#employ(grinder);
    else this.#submit(this.#works.get(work), nonce.toString(16).padStart(8, "0"));
  }

  #submit(extranonce2, nonce) {
    const { id, ntime } = this.job;
    this.#request("mining.submit", [this.options.user, id, extranonce2, ntime, nonce], (result, error) => {
      if (result === true) {
        this.accepted += 1;
      } else if (result === undefined) {
        this.unanswered += 1;
      } else {
        this.rejected += 1;
        this.onNews(`A share was rejected: ${wordsOf(error)}`);
      }
      this.onChange(this);
    });
  }
}

// ---------------------------------------------------------------- bytes and numbers

/** The first 76 bytes of a header: all but the nonce. */
export function headerStart(job, extranonces) {
  let root = sha256d(bytesOf(job.coinb1 + extranonces + job.coinb2));
  for (const branch of job.branches) root = sha256d(joined(root, bytesOf(branch)));
  // in the header each word of 4 bytes is the other way round than in mining.notify
  const prevhash = joined(...job.prevhash.match(/.{8}/g).map((word) => bytesOf(word).reverse()));
  return joined(bytesOf(job.version).reverse(), prevhash, root, bytesOf(job.ntime).reverse(),
    bytesOf(job.nbits).reverse());
}

/** What the hash of a share must not exceed: 8 words, the highest first. */
export function targetOf(difficulty) {
  const exact = (DIFF1 * SCALE) / BigInt(Math.max(1, Math.ceil(difficulty * Number(SCALE))));
  const target = exact >> 256n ? (1n << 256n) - 1n : exact;
  return Uint32Array.from({ length: 8 }, (_, i) => Number((target >> BigInt(224 - 32 * i)) & 0xffffffffn));
}

function bytesOf(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => parseInt(byte, 16));
}

function joined(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Those of an error, which Stratum writes as [code, text, more]. */
function wordsOf(error) {
  return String(error?.[1] ?? error?.message ?? "no reason was given");
}
