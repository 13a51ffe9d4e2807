// Hash routes: #/workers/<encoded name>?sort=name. What is chosen on a page is in its address, so that "back" and
// bookmarks keep it.

/** {page: "workers", name: "rig1" | null, params: URLSearchParams} */
export function readRoute() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [page, ...rest] = path.split("/");
  return { page: page || "overview", name: decode(rest.join("/")) || null, params: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** A name from outside, which may hold slashes and whatever else. */
function encode(name) {
  try {
    return encodeURIComponent(name);
  } catch {
    return encodeURIComponent(name.replace(/[\ud800-\udfff]/g, "\ufffd")); // half a surrogate pair
  }
}

export const workerLink = (name) => `#/workers/${encode(name)}`;

/** Changes the address without a new page; empty values are left out. */
export function keepParams(page, params) {
  const query = new URLSearchParams(
    Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== 0),
  );
  history.replaceState(null, "", `#/${page}${query.size ? "?" + query : ""}`);
}
