// The Web Worker: tries one nonce after the other.
//
// It is sent { work, start, target }, the first 76 bytes of a header and what its hash must not exceed (8 words, the
// highest first), and begins with that at once; or null, to rest. It sends { hashes } from time to time, { work, nonce }
// for each share, and { work, exhausted: true } when there are no more nonces to try.

import { compress, INITIAL, wordsOf } from "./sha256.js";

const SLICE = 50_000; // hashes before it looks whether it is told something else: about a twentieth of a second
const NONCES = 2 ** 32;

let task = null;

const turn = new MessageChannel(); // a timer would wait for 4 ms each time
turn.port1.onmessage = () => grind();

self.onmessage = (event) => {
  const rests = task === null;
  task = event.data && begin(event.data);
  if (task && rests) turn.port2.postMessage(null);
};

/** What is the same for all nonces is done once. */
function begin({ work, start, target }) {
  const words = wordsOf(start);
  const middle = new Int32Array(8);
  compress(INITIAL, words, 0, middle);
  const tail = new Int32Array(16); // the last 16 bytes of the header, the nonce at 3, and the padding of 80 bytes
  tail.set(words.subarray(16, 19));
  tail[4] = 0x80000000;
  tail[15] = 640;
  const second = new Int32Array(16); // the first hash, and the padding of 32 bytes
  second[8] = 0x80000000;
  second[15] = 256;
  return { work, target, middle, tail, second, nonce: 0 };
}

function grind() {
  if (!task) return;
  const { work, target, middle, tail, second } = task;
  const end = Math.min(task.nonce + SLICE, NONCES);
  const hash = new Int32Array(8);
  for (let nonce = task.nonce; nonce < end; nonce++) {
    tail[3] = swapped(nonce);
    compress(middle, tail, 0, second);
    compress(INITIAL, second, 0, hash);
    if (swapped(hash[7]) >>> 0 <= target[0] && reaches(hash, target)) self.postMessage({ work, nonce });
  }
  self.postMessage({ hashes: end - task.nonce });
  task.nonce = end;
  if (end < NONCES) {
    turn.port2.postMessage(null);
  } else {
    task = null;
    self.postMessage({ work, exhausted: true });
  }
}

/** Whether a hash, which is a number in little-endian, does not exceed the target. */
function reaches(hash, target) {
  for (let i = 0; i < 8; i++) {
    const word = swapped(hash[7 - i]) >>> 0;
    if (word !== target[i]) return word < target[i];
  }
  return true;
}

function swapped(word) {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}
