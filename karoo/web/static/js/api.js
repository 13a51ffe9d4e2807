// The JSON API under api/v1/, and whether this page may still read it.

const PROBE_MS = 30000; // each wrong token counts against this address: one that is refused asks no more often
const WORDS = {
  401: "The token is wrong or was changed: reload the page.",
  429: "The token is wrong or was changed, and was tried too often: wait a minute, then reload the page.",
};

/** A URL relative to the page, which may live under any path prefix. Not made from the page's own URL: that may hold a
 * user and a token, and with these no browser fetches. */
export const here = (path) => new URL(path, location.origin + location.pathname);

const BASE = here("api/v1/");

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** What the proxy said of this page's token: `words` is null while it takes it. */
export const access = {
  words: null,
  changed: () => {},

  /** Whether one may ask now. Once refused, one request at a time tries again. */
  granted() {
    if (this.words === null) return true;
    if (performance.now() < this.again) return false;
    this.again = performance.now() + PROBE_MS;
    return true;
  },

  answered(status) {
    const words = WORDS[status] ?? null;
    if (words === this.words) return;
    if (this.words === null) this.again = performance.now() + PROBE_MS;
    this.words = words;
    this.changed();
  },
};

/** GET; throws ApiError with the server's own words where there are some. Parameters that are empty are left out. */
export async function get(path, params = {}, signal = undefined) {
  if (!access.granted()) throw new ApiError(access.words, 401);
  const url = new URL(path, BASE);
  for (const [key, value] of Object.entries(params)) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(key, value);
  }
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), 10000);
  const forward = () => limit.abort();
  signal?.addEventListener("abort", forward, { once: true });
  try {
    const response = await fetch(url, { signal: limit.signal, headers: { Accept: "application/json" } });
    return await read(response);
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    throw new ApiError("The proxy cannot be reached.");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", forward);
  }
}

async function read(response) {
  access.answered(response.status);
  let data = null;
  try {
    data = await response.json();
  } catch {
    if (response.ok) throw new ApiError("The proxy's answer cannot be read.", response.status);
  }
  if (response.ok) return data;
  const words = access.words ?? data?.error?.message ?? `The proxy answered with status ${response.status}.`;
  throw new ApiError(words, response.status);
}
