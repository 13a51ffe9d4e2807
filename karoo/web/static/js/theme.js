// The palette lives in css/base.css; canvases have to ask for it.

const dark = window.matchMedia("(prefers-color-scheme: dark)");

/** The value of a custom property such as "--checked". */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** `listener` is called when the system changes between light and dark. Returns the function that ends it. */
export function onTheme(listener) {
  dark.addEventListener("change", listener);
  return () => dark.removeEventListener("change", listener);
}
