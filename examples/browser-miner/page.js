// The page: its form starts a miner, its table shows how that gets on.

import { Miner } from "./miner.js";

const NEWS = 50; // lines
const WINDOW = 5; // seconds, of which the hashrate is the mean

const form = document.querySelector("form");
const field = (name) => document.querySelector(`[data-field=${name}]`);
let miner = null;
let looks = []; // [seconds, hashes], the oldest first

form.elements.url.value = `${location.protocol === "https:" ? "wss" : "ws"}://${location.hostname || "localhost"}:3335`;
form.elements.threads.max = navigator.hardwareConcurrency || 1;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (miner) {
    miner.stop();
    return;
  }
  const { url, user, password, difficulty, threads } = Object.fromEntries(new FormData(form));
  const options = { url, user, password, difficulty: Number(difficulty), threads: Number(threads) };
  miner = new Miner(options, { onChange: show, onNews: tell });
  looks = [];
  miner.start();
});

window.addEventListener("pagehide", () => miner?.stop());
setInterval(measure, 1000);

function show(one) {
  const stopped = one.state === "stopped";
  if (stopped) {
    miner = null;
    field("hashrate").textContent = "";
  }
  for (const input of form.querySelectorAll("input")) input.disabled = !stopped;
  form.querySelector("button").textContent = stopped ? "Start" : "Stop";
  field("state").textContent = one.state;
  field("job").textContent = one.job?.id ?? "";
  field("extranonce1").textContent = one.extranonce1;
  field("difficulty").textContent = one.difficulty || "";
  for (const name of ["accepted", "rejected", "unanswered"]) field(name).textContent = one[name];
}

function measure() {
  if (!miner) return;
  looks.push([performance.now() / 1000, miner.hashes]);
  looks = looks.slice(-WINDOW - 1);
  const [[since, before], [now, hashes]] = [looks[0], looks.at(-1)];
  if (now > since) field("hashrate").textContent = `${((hashes - before) / (now - since) / 1e6).toFixed(2)} MH/s`;
}

function tell(text) {
  const line = document.createElement("li");
  line.textContent = `${new Date().toLocaleTimeString()} ${text}`;
  const news = document.querySelector("#news");
  news.prepend(line);
  while (news.children.length > NEWS) news.lastChild.remove();
}
