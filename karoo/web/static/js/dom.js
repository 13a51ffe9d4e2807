// Building elements. Names of miners and words of pools are hostile text: everything here goes through
// textContent and setAttribute, and there is no way to hand in markup.

const SVG = "http://www.w3.org/2000/svg";

/** h("a", {class: "x", href: "#/", dataset: {page: "a"}, on: {click}}, "text", node, null) */
export function h(tag, props = null, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = null, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (key === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Writes only what changed, so that selections and screen readers are left alone. */
export function setText(element, text) {
  const plain = String(text);
  if (element.textContent !== plain) element.textContent = plain;
}

export function setAttr(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/** A name from outside: isolated, so that right-to-left marks in it cannot turn the text around it. */
export function foreign(text, props = null) {
  return h("bdi", { class: "foreign", title: text, ...props }, text);
}

export function hiddenText(text) {
  return h("span", { class: "sr" }, text);
}

/** A button that copies a text. The clipboard API needs https; on a plain LAN address the old command does it. */
export function copyButton(text, what) {
  const button = h("button", { type: "button", class: "button small", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    setText(button, (await copy(text)) ? "Copied" : "Select and copy");
    setTimeout(() => setText(button, "Copy"), 2000);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "sr", readonly: true, "aria-hidden": "true" }, text);
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    let done = false;
    try {
      done = document.execCommand("copy");
    } catch {
      // left to the reader's own hands
    }
    area.remove();
    focused?.focus();
    return done;
  }
}
