// A network from one forward pass: blocks with their maps, the line of code of each, and switches that turn branches off.

// The block nearest to block i in a direction, or i: distance along it counts once, across it twice.
export function next(blocks, i, dx, dy) {
  const cost = b => {
    const x = b.x - blocks[i].x, y = b.y - blocks[i].y, along = dx * x + dy * y;
    return along > 4 ? along + 2 * Math.abs(dx * y + dy * x) : Infinity;
  };
  const best = blocks.reduce((a, b) => cost(b) < cost(a) ? b : a);
  return cost(best) < Infinity ? blocks.indexOf(best) : i;
}

// The switches that are off after one is pressed; where only so many may be off at once, the first pressed comes back.
export const toggle = (off, i, most) => off.includes(i) ? off.filter(j => j !== i) : [...off, i].slice(-most);

const uri = s => "data:image/png;base64," + s;
const img = s => el("img", {src: uri(s), alt: "", draggable: "false"});
const figure = (shown, words, size = "") => el("figure", {class: size}, shown, el("figcaption", {}, words));
// An SVG element, of those too that the shared helper does not know.
function part(tag, attributes, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, v] of Object.entries(attributes)) e.setAttribute(key, v);
  e.append(...children);
  return e;
}
const area = b => ({x: b.x - b.w / 2, y: b.y - b.h / 2, width: b.w, height: b.h});
const words = (x, y, anchor, t, more = {}) => part("text", {x, y, "text-anchor": anchor, ...more}, t);
// Sheets behind a map: one more for twice the channels.
const sheets = b => Array.from({length: b.k}, (_, i) => part("rect", {class: "sheet", ...area({...b, x: b.x + 2 * (b.k - i), y: b.y - 2 * (b.k - i)})}));

const CSS = `
  .sheet, .front { fill: color-mix(in srgb, var(--blue) 20%, var(--bg)); stroke: color-mix(in srgb, var(--blue) 60%, var(--ink)); stroke-width: .5; }
  .mark { color: var(--accent); fill: var(--accent); font-weight: 600; }`;

export const render = (root, p) => (p.compact ? strip : drawing)(root, p);

function drawing(root, p) {
  const {blocks, states, base} = p, [W, H] = p.size, whole = states[""][0], answers = [];
  let chosen, off = [];
  const svg = part("svg", {viewBox: `0 0 ${W} ${H}`, role: "listbox", "aria-label": `Blocks of ${p.name}`});
  const layers = m => m === "image" ? [p.image] : m === "prediction" ? base ? [p.image, whole] : [whole] : [m];
  const stack = list => el("span", {class: "stack"}, ...list.map(img));
  const beside = b => {
    const right = b.side === "right", left = b.side === "left", x = right ? b.x + b.w / 2 + 2 * b.k + 5 : left ? b.x - b.w / 2 - 5 : b.x;
    const y = right || left ? b.y : b.side === "above" ? b.y - b.h / 2 - 2 * b.k : b.y + b.h / 2, below = b.side === "below";
    const rows = [["name", b.l, below ? "1em" : b.side === "above" ? "-.35em" : "-.1em"]];
    if (!b.brief && b.side !== "above") rows.push([below ? "wide" : "", b.shape, below ? "1.1em" : "1.15em"]);
    return words(x, y, right ? "start" : left ? "end" : "middle", "").appendChild(part("tspan", {}, ...rows.map(([c, t, dy]) => part("tspan", {class: c, x, dy}, t)))).parentNode;
  };
  const lines = p.edges.map(e => part("g", {}, part("path", {class: "line", d: e.d}), part("path", {class: "tip", d: e.tip}),
    ...(e.l ? [words(e.x, e.y, e.w === "beside" ? "start" : "middle", e.l, {dx: e.w === "beside" ? ".4em" : 0, dy: e.w === "up" ? "-.3em" : ".35em"})] : [])));
  const frames = p.frames.map(f => part("g", {}, part("rect", {class: f.here ? "frame now" : "frame", x: f.x, y: f.y, width: f.w, height: f.h, rx: 7}),
    words(f.x + 2, f.y + f.h, "start", f.here ? "" : f.l, {dy: "1.15em"})));
  const tiles = blocks.map((b, i) => {
    const maps = layers(b.m).map(s => part("image", {...area(b), preserveAspectRatio: "none", href: uri(s)}));
    if (b.m === "prediction") answers.push(maps.at(-1));
    const body = b.sign ? [part("rect", {class: "sign", ...area(b), rx: 9}), words(b.x, b.y, "middle", b.sign, {dy: ".35em"})]
      : [...sheets(b), ...maps, part("rect", {class: "rim", ...area(b)}), ...(b.side ? [beside(b)] : [])];
    const g = part("g", {class: "block", role: "option", "aria-label": [b.l, b.shape].filter(Boolean).join(", ")}, part("rect", {class: "hit", ...area({...b, w: b.w + 9, h: b.h + 9})}), ...body);
    if (b.here) g.append(part("path", {class: "mark", d: `M${b.x - 6} ${b.y - b.h / 2 - 10 - 2 * b.k}h12l-6 8z`}));
    g.addEventListener("pointerenter", e => { if (e.pointerType === "mouse") choose(i); });
    g.addEventListener("click", () => { choose(i); g.focus({preventScroll: true}); });
    g.addEventListener("focus", () => choose(i));
    arrows(g, (dx, dy) => tiles[next(blocks, i, dx, dy)].focus());
    return g;
  });
  svg.append(part("g", {"aria-hidden": "true"}, ...frames, ...lines, ...p.notes.map(([t, x, y]) => words(x, y, "middle", t))), ...tiles);

  const panel = el("div", {class: "panel"}), compare = el("div", {class: "maps compare"}), change = el("p", {class: "change"});
  const press = list => { off = list; answer(); };
  const buttons = p.switches.map((s, i) => el("button", {type: "button", onclick: () => press(toggle(off, i, p.most))}, s));
  const reset = el("button", {type: "button", onclick: () => press([])}, "all on");
  const some = list => buttons.length ? list : [];
  const say = card(root, `${p.name}, block by block`, CSS + `
    .title { margin: 0; font-weight: 600; font-size: 15px; } .lead { margin-bottom: 8px; } .lead b { margin-right: .5em; }
    .draw { flex: 1 1 340px; max-width: 470px; min-width: 0; } .panel { flex: 1 1 210px; min-width: 0; min-height: 280px; }
    svg text { font-size: calc(12.5px * var(--u, 1)); fill: var(--soft); paint-order: stroke; stroke: var(--bg); stroke-width: calc(3px * var(--u, 1)); stroke-linejoin: round; }
    svg .name { font-weight: 600; fill: var(--ink); } .small .wide { display: none; }
    .line { fill: none; stroke: var(--soft); stroke-width: 1.2; } .tip { fill: var(--soft); }
    .off { --soft: color-mix(in srgb, var(--ink) 38%, var(--bg)); } .off .line { stroke-dasharray: 3 3; }
    .frame { fill: none; stroke: var(--line); stroke-dasharray: 2 2; } .now { stroke: var(--accent); stroke-width: 1.5; stroke-dasharray: none; }
    .block { cursor: pointer; outline: none; } .hit { fill: transparent; } .sign { fill: var(--bg); stroke: var(--soft); stroke-width: 1.2; }
    .rim { fill: none; stroke: color-mix(in srgb, var(--ink) 65%, var(--bg)); stroke-width: .8; } .on .rim, .on .sign { stroke: var(--accent); stroke-width: 2.6; }
    .block:focus-visible .hit { stroke: var(--accent); stroke-width: 1.4; stroke-dasharray: 3 2; }
    image, img { image-rendering: pixelated; } img { display: block; width: 100%; } figure { margin: 0; flex: 0 1 128px; min-width: 0; } .few { flex-basis: 50px; }
    figcaption, .honest, .legend { font-size: 12.5px; line-height: 1.35; } figcaption, .fact, .honest { color: var(--soft); }
    .maps { display: flex; gap: 8px; align-items: flex-end; } .stack { display: block; position: relative; border: 1px solid var(--line); } .stack img + img { position: absolute; inset: 0; }
    h3 { margin: 8px 0 0; font-size: 15px; } .panel p { margin: 4px 0 0; } code { font: 12.5px/1.4 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
    pre { margin: 6px 0 0; padding: 5px 8px; background: var(--wash); border-radius: 5px; white-space: pre-wrap; }
    .foot { margin-top: 10px; } .compare { flex: 0 1 404px; align-items: flex-start; } .says { flex: 1 1 260px; } .change { margin: 0; min-height: 4.3em; } .honest, .legend { margin: 6px 0 0; }
    .legend { display: flex; flex-wrap: wrap; gap: 2px 12px; } .legend i { display: inline-block; width: 11px; height: 11px; margin-right: 5px; border: 1px solid var(--line); }`,
    el("p", {class: "title"}, p.name), el("p", {class: "lead"}, ...(p.here ? [el("b", {class: "mark"}, `You are here: ${p.here}.`)] : []), p.lead),
    el("div", {class: "row"}, el("div", {class: "draw"}, svg), panel),
    ...some([el("div", {class: "controls"}, el("b", {}, "Turn off"), ...buttons, reset)]),
    el("div", {class: "row foot"}, compare, el("div", {class: "says"}, change,
      el("p", {class: "legend"}, ...p.legend.map(([t, c]) => el("span", {}, el("i", {style: `background:${c}`}), t))),
      ...some([el("p", {class: "honest"}, "The network was never trained without a branch: this shows how much it relies on one, not how well it would do "
        + "if trained without. The blocks keep the maps of the whole network.")]))));

  function choose(i) {
    if (chosen === i) return;
    chosen = i;
    tiles.forEach((g, j) => {
      g.classList.toggle("on", i === j);
      g.setAttribute("aria-selected", i === j);
      g.setAttribute("tabindex", i === j ? 0 : -1);
    });
    const b = blocks[i], facts = [b.shape, b.facts].filter(Boolean).join(", ");
    panel.replaceChildren(
      el("div", {class: "maps"}, figure(stack(layers(b.m)), b.m === "prediction" ? "Whole network" : b.what ?? ""), ...(b.c ?? []).map(([k, s]) => figure(stack([s]), `channel ${k}`, "few"))),
      el("h3", {}, b.l), el("p", {}, b.t), el("p", {class: "fact num"}, facts), el("pre", {}, el("code", {}, b.code)), el("p", {class: "fact"}, `${b.of} `, el("code", {}, b.path), `, ${b.file}`));
    say(`${b.l}. ${facts}. ${b.t}`);
  }
  function answer() {
    const [layer, text] = states[[...off].sort((a, b) => a - b).join(",")], show = s => stack(base ? [p.image, s] : [s]);
    answers.forEach(e => e.setAttribute("href", uri(layer)));
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", off.includes(i)));
    reset.disabled = !off.length;
    p.edges.forEach((e, i) => lines[i].classList.toggle("off", off.includes(e.s)));
    compare.replaceChildren(...(p.truth ? [figure(show(p.truth), "Truth")] : []), figure(show(whole), "Whole network"),
      ...(off.length ? [figure(show(layer), "With the branch off")] : []));
    change.textContent = off.length ? `Off: ${off.map(i => p.switches[i]).join(", ")}. ${text}` : text;
    if (off.length) say(change.textContent);
  }
  new ResizeObserver(() => {
    const width = svg.getBoundingClientRect().width || W;
    svg.style.setProperty("--u", W / width);
    svg.classList.toggle("small", width < 400);
  }).observe(svg);
  choose(p.start);
  answer();
}

function strip(root, p) {
  const line = el("p", {class: "words"});
  const steps = p.steps.map((s, i) => {
    const b = {x: 17, y: 36 - s.h / 4, w: s.w / 2, h: s.h / 2, k: s.k}, at = s.here ? {"aria-current": "step"} : {}, show = () => choose(i);
    return el("button", {type: "button", class: s.here ? "here" : "", ...at, onclick: show, onpointerenter: show, onfocus: show},
      part("svg", {viewBox: "0 0 44 38", "aria-hidden": "true"}, ...sheets(b), part("rect", {class: "front", ...area(b)})), s.l);
  });
  const say = card(root, `${p.name}, as a strip`, CSS + `
    .card { padding: 8px 12px; } .steps { display: flex; flex-wrap: wrap; gap: 2px 4px; align-items: flex-end; }
    button { display: flex; flex-direction: column; align-items: center; background: none; border-color: transparent; padding: 1px 5px 2px; font-size: 13px; line-height: 1.25; }
    svg { width: 40px; } button[aria-pressed=true] { background: var(--wash); border-color: var(--line); }
    .here, .here[aria-pressed=true] { border: 2px solid var(--accent); font-weight: 600; } .here .front { fill: color-mix(in srgb, var(--orange) 55%, var(--bg)); }
    .steps span { align-self: center; color: var(--soft); } .words { margin: 4px 0 0; font-size: 13px; color: var(--soft); min-height: 1.4em; }`,
    el("div", {class: "steps"}, ...steps.flatMap((s, i) => i ? [el("span", {"aria-hidden": "true"}, "→"), s] : [s])), line);
  function choose(i) {
    const s = p.steps[i];
    steps.forEach((e, j) => e.setAttribute("aria-pressed", i === j));
    line.replaceChildren(...(s.here ? [el("b", {class: "mark"}, "You are here. ")] : []), `${p.name}, ${s.l}${s.shape ? ` (${s.shape})` : ""}: ${s.t}`);
    say(line.textContent);
  }
  choose(Math.max(0, p.steps.findIndex(s => s.here)));
}
