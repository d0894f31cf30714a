// What every figure shares. Python puts this text before each figure's own source: outputs stay independent.
const SHAPES = new Set(["svg", "g", "rect", "circle", "path", "polygon", "line", "text", "defs", "pattern"]);

// An HTML or SVG element: attributes, "on…" listeners, children.
export function el(tag, attributes = {}, ...children) {
  const e = SHAPES.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else e.setAttribute(key, value);
  e.append(...children);
  return e;
}

export const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

// Colours come from the page's theme where it has one; tints are mixed with the background, so both modes work.
const BASE = `
:host { display: block; margin: 1em 0; --_bg: #fff; --_ink: #1f2933;
  --bg: var(--pst-color-background, var(--jp-layout-color0, var(--colab-primary-surface-color, var(--_bg))));
  --ink: var(--pst-color-text-base, var(--jp-ui-font-color1, var(--colab-primary-text-color, var(--_ink))));
  --soft: color-mix(in srgb, var(--ink) 72%, var(--bg)); --line: color-mix(in srgb, var(--ink) 22%, var(--bg));
  --wash: color-mix(in srgb, var(--ink) 6%, var(--bg)); --blue: #0072b2; --orange: #d55e00; --green: #009e73;
  --accent: color-mix(in srgb, var(--orange) 82%, var(--ink)); }
@media (prefers-color-scheme: dark) { :host { --_bg: #15181c; --_ink: #e6e8ea; } }
* { box-sizing: border-box; }
.card { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: var(--bg);
  border: 1px solid var(--line); border-radius: 10px; padding: 14px; max-width: 760px; }
.row { display: flex; flex-wrap: wrap; gap: 14px 22px; align-items: flex-start; }
.lead { margin: 0 0 10px; color: var(--soft); }
svg { display: block; width: 100%; height: auto; overflow: visible; user-select: none; -webkit-user-select: none; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin: 10px 0 0; }
label.range { display: flex; align-items: center; gap: 8px; }
input[type=range] { accent-color: var(--accent); width: 110px; margin: 0; height: 24px; }
.range b { min-width: 2.2em; font-variant-numeric: tabular-nums; }
button, select { font: inherit; color: var(--ink); background: var(--wash); border: 1px solid var(--line);
  border-radius: 6px; padding: 3px 10px; min-height: 30px; cursor: pointer; }
button:hover { border-color: var(--soft); } button:disabled { opacity: .45; cursor: default; }
button[aria-pressed=true] { background: color-mix(in srgb, var(--accent) 24%, var(--bg)); border-color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.handle:focus-visible { outline: none; }
.handle:focus-visible:not(g), g.handle:focus-visible > :not(text):not([fill=transparent]) { stroke: var(--focus, var(--accent));
  stroke-width: 4px; stroke-dasharray: none; vector-effect: non-scaling-stroke; }
.num { font-variant-numeric: tabular-nums; }
.status { margin: 10px 0 0; min-height: 2.9em; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }`;

// The card of a figure; say() speaks a sentence to screen readers once the reader pauses.
export function card(root, label, css, ...children) {
  const live = el("p", {class: "hidden", "aria-live": "polite"});
  const style = el("style");
  style.textContent = BASE + css;
  root.replaceChildren(style, el("section", {class: "card", role: "group", "aria-label": label}, ...children, live));
  let timer;
  return text => { clearTimeout(timer); timer = setTimeout(() => { live.textContent = text; }, 400); };
}

// A labelled slider. show(value) is the text beside it; set(value, max) moves it without calling change.
export function slider(label, {min, max, step = 1, value, show = String}, change) {
  const input = el("input", {type: "range", min, max, step, value}), text = el("b");
  const write = () => { text.textContent = show(+input.value); input.setAttribute("aria-valuetext", text.textContent); };
  input.addEventListener("input", () => { write(); change(+input.value); });
  write();
  return {
    root: el("label", {class: "range"}, label, input, text),
    set(v, top = max) { input.max = top; input.value = v; write(); },
  };
}

// Makes a handle follow pointer and arrow keys. move(dx, dy) gets distances in units of the surface's viewBox.
export function drag(handle, surface, move, step) {
  let last = null;
  handle.classList.add("handle"); // an outline would be as thick as the viewBox is stretched
  // What a finger begins here is no scrolling. touch-action would not do: browsers heed it on the whole <svg> alone.
  handle.addEventListener("touchstart", e => e.preventDefault(), {passive: false});
  handle.addEventListener("pointerdown", e => {
    e.preventDefault();
    handle.focus();
    handle.setPointerCapture(e.pointerId);
    last = [e.clientX, e.clientY];
  });
  handle.addEventListener("pointermove", e => {
    if (!last) return;
    const scale = surface.viewBox.baseVal.width / surface.getBoundingClientRect().width;
    move((e.clientX - last[0]) * scale, (e.clientY - last[1]) * scale);
    last = [e.clientX, e.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) handle.addEventListener(end, () => { last = null; });
  arrows(handle, (dx, dy) => move(dx * step, dy * step));
}

// Calls move(dx, dy, event) with -1, 0 or 1 on the arrow keys, and keeps the page from scrolling.
export function arrows(target, move) {
  target.addEventListener("keydown", e => {
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
    if (!way) return;
    e.preventDefault();
    e.stopPropagation();
    move(...way, e);
  });
}

// A tint of a colour for a share in [0, 1]; ink reads on shares up to 0.6 in both modes.
export const tint = (color, share) => `color-mix(in srgb, var(--${color}) ${Math.round(100 * share)}%, var(--bg))`;
