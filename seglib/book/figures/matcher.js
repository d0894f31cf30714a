// Anchors on a grid and one or two objects to drag and resize: which anchors become foreground, ignored or background.

export const W = 56, H = 40, STRIDE = 8, RATIOS = [0.5, 1, 2];

// All anchors x0, y0, x1, y1, by row, column and ratio. Sides are whole quarters of a pixel, so that anchors which lie
// alike around an object have equal IoUs to the last bit.
export function anchors(size) {
  const found = [], quarter = v => Math.round(4 * v) / 8;
  for (let y = STRIDE / 2; y < H; y += STRIDE) for (let x = STRIDE / 2; x < W; x += STRIDE) for (const ratio of RATIOS) {
    const w = quarter(size / Math.sqrt(ratio)), h = quarter(size * Math.sqrt(ratio));
    found.push([x - w, y - h, x + w, y + h]);
  }
  return found;
}

// Intersection over union of two boxes; 0 where both are empty.
export function iou(a, b) {
  const side = (i, j) => Math.max(0, Math.min(a[j], b[j]) - Math.max(a[i], b[i]));
  const area = box => (box[2] - box[0]) * (box[3] - box[1]), inter = side(0, 2) * side(1, 3);
  const union = area(a) + area(b) - inter;
  return union > 0 ? inter / union : 0;
}

// The object of each anchor, -1 for background or -2 for ignored, from the IoUs of objects (rows) with anchors.
export function match(ious, foreground, background, lowQuality) {
  const highest = ious.map(row => Math.max(...row));
  return (ious[0] ?? []).map((_, a) => {
    const column = ious.map(row => row[a]), best = Math.max(...column), object = column.indexOf(best);
    const lifted = lowQuality && column.some((v, n) => v > 0 && v === highest[n]);
    return best >= foreground || lifted ? object : best < background ? -1 : -2;
  });
}

// What became of object n, in words.
export function tell(n, ious, found, foreground, name = i => "AB"[i]) {
  const own = found.filter(m => m === n).length, best = Math.max(...ious[n]), at = ious[n].indexOf(best);
  if (best === 0) return `${name(n)} touches no anchor.`;
  const start = `${name(n)}: best IoU ${best.toFixed(2)}, `;
  if (own) return start + `${own} anchor${own > 1 ? "s" : ""}.`;
  if (found[at] >= 0) return start + `no anchor: its best one overlaps ${name(found[at])} more, by ${ious[found[at]][at].toFixed(2)}.`;
  return start + `no anchor: that is below ${foreground.toFixed(2)}, and low-quality matches are off.`;
}

const PRESETS = {
  "Thin": [[6, 18, 50, 23]], "Small": [[33, 9, 38, 14]], "Two want one": [[12, 12, 28, 28], [14, 14, 26, 26]],
};
const LEAST = 2;

export function render(root, {objects: first, foreground: fg, background: bg, size: side}) {
  let raw, parts = [], low = true, grid = anchors(side);
  const set = (e, values) => { for (const [key, v] of Object.entries(values)) e.setAttribute(key, v); };
  const box = n => raw[n].map(v => Math.round(2 * v) / 2);
  const frame = ([x0, y0, x1, y1]) => ({x: x0, y: y0, width: x1 - x0, height: y1 - y0});
  const svg = el("svg", {viewBox: `-1 -1 ${W + 2} ${H + 2}`, role: "group", "aria-label": "Objects over a grid of anchors"});
  const frames = el("g"), marks = el("g"), status = el("p", {class: "status num"}), counts = el("div", {class: "counts num"});
  const share = v => v.toFixed(2);
  const upper = slider("Foreground IoU", {min: 0.05, max: 1, step: 0.05, value: fg, show: share}, v => { fg = v; if (bg > v) below.set(bg = v); draw(); });
  const below = slider("Background IoU", {min: 0, max: 1, step: 0.05, value: bg, show: share}, v => { bg = v; if (fg < v) upper.set(fg = v); draw(); });
  const scale = slider("Anchor size", {min: 8, max: 32, step: 2, value: side}, v => { grid = anchors(v); draw(); });
  const quality = el("button", {type: "button", onclick: () => { low = !low; draw(); }}, "Low-quality matches");
  const buttons = Object.entries({"Reset": first, ...PRESETS}).map(([name, start]) => el("button", {type: "button", onclick: () => build(start)}, name));
  const say = card(root, "Matching anchors to objects", `
    .stage { flex: 1 1 340px; min-width: 0; } .side { flex: 1 1 200px; }
    .ground { fill: var(--wash); stroke: var(--line); stroke-width: .1; } .A { --own: var(--blue); } .B { --own: var(--green); }
    .object { --focus: var(--ink); cursor: move; } .object rect { fill: color-mix(in srgb, var(--own) 16%, transparent); stroke: var(--own); stroke-width: .7; }
    .object text { font-size: 2.4px; font-weight: 700; fill: var(--ink); pointer-events: none; } .corner { cursor: nwse-resize; --focus: var(--ink); }
    .dot { fill: var(--bg); stroke: var(--own); stroke-width: .4; } .frame { fill: none; stroke: var(--own); stroke-width: .3; pointer-events: none; }
    .low { stroke-dasharray: 1 .7; } .mark { pointer-events: none; stroke-width: .25; }
    .fore { fill: var(--own); stroke: var(--own); } .ignored { fill: var(--bg); stroke: var(--accent); }
    .back { fill: color-mix(in srgb, var(--ink) 22%, var(--bg)); stroke: none; }
    .counts div { display: flex; align-items: center; gap: 8px; padding: 3px 0; border-bottom: 1px solid var(--line); }
    .counts svg { width: 16px; flex: none; } .counts b { margin-left: auto; }`,
    el("p", {class: "lead"}, "Three anchors stand at every cell: flat, square and upright. Drag an object, pull its corner, or use the arrow keys. "
      + "Frames show the foreground anchors, dashed where a low-quality match brought them in."),
    el("div", {class: "row"}, el("div", {class: "stage"}, svg), el("div", {class: "side"}, counts)),
    el("div", {class: "controls"}, upper.root, below.root, scale.root, quality), status, el("div", {class: "controls"}, ...buttons));

  function build(start) {
    raw = start.map(b => [...b]);
    parts = raw.map((_, n) => {
      const letter = "AB"[n], rect = el("rect"), text = el("text");
      text.textContent = letter;
      const slide = (name, high) => ({tabindex: 0, role: "slider", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": high});
      const body = el("g", {class: `object ${letter}`, ...slide(`Object ${letter}`, W)}, rect, text);
      const corner = el("g", {class: `corner ${letter}`, ...slide(`Object ${letter}, lower right corner`, W)},
        el("circle", {r: 2.2, fill: "transparent"}), el("circle", {r: 0.9, class: "dot"}));
      drag(body, svg, (dx, dy) => {
        const b = raw[n];
        [dx, dy] = [clamp(dx, -b[0], W - b[2]), clamp(dy, -b[1], H - b[3])];
        raw[n] = b.map((v, k) => v + (k % 2 ? dy : dx));
        draw();
      }, 0.5);
      drag(corner, svg, (dx, dy) => {
        const [x0, y0, x1, y1] = raw[n];
        raw[n] = [x0, y0, clamp(x1 + dx, x0 + LEAST, W), clamp(y1 + dy, y0 + LEAST, H)];
        draw();
      }, 0.5);
      return {rect, text, body, corner};
    });
    svg.replaceChildren(el("rect", {class: "ground", width: W, height: H}), marks, frames, ...parts.map(p => p.body), ...parts.map(p => p.corner));
    draw();
  }

  function draw() {
    const boxes = raw.map((_, n) => box(n)), ious = boxes.map(b => grid.map(a => iou(b, a))), found = match(ious, fg, bg, low);
    const lifted = found.map((m, a) => m >= 0 && ious[m][a] < fg);
    const look = m => m >= 0 ? `fore ${"AB"[m]}` : m === -2 ? "ignored" : "back";
    marks.replaceChildren(...found.map((m, a) => {
      const [x0, y0, x1, y1] = grid[a], k = a % 3, w = [2, 1.4, 1][k], h = [1, 1.4, 2][k];
      return el("rect", {class: `mark ${look(m)}`, ...frame([-w / 2, -h / 2, w / 2, h / 2].map((v, i) => v + (i % 2 ? y0 + y1 : x0 + x1 + 4.6 * (k - 1)) / 2))});
    }));
    frames.replaceChildren(...found.flatMap((m, a) => m < 0 ? [] : [el("rect", {class: `frame ${"AB"[m]}${lifted[a] ? " low" : ""}`, ...frame(grid[a])})]));
    parts.forEach((p, n) => {
      const [x0, y0, x1, y1] = boxes[n], own = found.filter(m => m === n).length;
      set(p.rect, frame(boxes[n]));
      set(p.text, {x: x0 + (y0 < 3 ? 0.8 : -0.3), y: y0 + (y0 < 3 ? 2.6 : -0.9)});
      p.corner.setAttribute("transform", `translate(${x1} ${y1})`);
      set(p.body, {"aria-valuenow": x0, "aria-valuetext": `left ${x0}, top ${y0}, ${own} anchors`});
      set(p.corner, {"aria-valuenow": x1, "aria-valuetext": `${x1 - x0} wide, ${y1 - y0} high, ${own} anchors`});
    });
    quality.setAttribute("aria-pressed", low);
    const of = test => found.filter(test).length, rows = [["fore", "foreground", of(m => m >= 0)],
      ["fore", "of these low-quality", lifted.filter(Boolean).length], ["ignored", "ignored", of(m => m === -2)], ["back", "background", of(m => m === -1)]];
    counts.replaceChildren(...rows.map(([name, text, count], i) => {
      const owners = name === "fore" ? ["A", "B"].slice(0, raw.length) : [""], width = 2.4 / owners.length;  // each object has its colour
      const key = el("svg", {viewBox: "-2 -2 4 4", "aria-hidden": "true"}, ...owners.map((own, k) =>
        el("rect", {class: `${i === 1 ? "frame low" : `mark ${name}`} ${own}`, x: k * width - 1.2, y: -1.2, width, height: 2.4})));
      const number = el("b");
      number.textContent = count;
      return el("div", {}, key, text, number);
    }));
    status.textContent = `Foreground: ${of(m => m >= 0)} of ${grid.length} anchors. ` + boxes.map((_, n) => tell(n, ious, found, fg)).join(" ");
    say(status.textContent);
  }
  build(first);
}
