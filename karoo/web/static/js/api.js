// The JSON API under api/v1/. URLs are relative to the page, which may live under any path prefix.

const BASE = new URL("api/v1/", document.baseURI.split("#")[0]);

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The path of one thing with a name from outside, which may hold slashes and whatever else. */
export function encode(name) {
  try {
    return encodeURIComponent(name);
  } catch {
    return encodeURIComponent(name.replace(/[\ud800-\udfff]/g, "\ufffd")); // half a surrogate pair
  }
}

/** GET; throws ApiError with the server's own words where there are some. Parameters that are empty are left out. */
export async function get(path, params = {}, signal = undefined) {
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
  let data = null;
  try {
    data = await response.json();
  } catch {
    if (response.ok) throw new ApiError("The proxy's answer cannot be read.", response.status);
  }
  if (response.ok) return data;
  const words =
    response.status === 401
      ? "The proxy asks for a token: load this page again and enter it."
      : (data?.error?.message ?? `The proxy answered with status ${response.status}.`);
  throw new ApiError(words, response.status);
}
