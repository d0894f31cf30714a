// A perfect mask, read from its box or from the whole cells around it, and pasted back into the box: what is lost?

export const W = 48, H = 32;

// The object, a tree that fills its box: for every pixel whether its centre lies in the crown or the trunk.
export function rasterise([x0, y0, x1, y1], width = W, height = H) {
  const inside = (u, v) => ((u - 0.5) / 0.5) ** 2 + ((v - 0.35) / 0.35) ** 2 <= 1 || Math.abs(u - 0.5) <= 0.14 && v >= 0.6 && v <= 1;
  return Array.from({length: height}, (_, i) => Array.from({length: width}, (_, j) =>
    +inside((j + 0.5 - x0) / (x1 - x0), (i + 0.5 - y0) / (y1 - y0))));
}

// What RoI Pooling reads for a box: from the nearest first cell to the end of the nearest last one, in pixels.
export function cells(box, stride) {
  const [x0, y0, x1, y1] = box.map(v => Math.floor(v / stride + 0.5));
  return [x0, y0, x1 + 1, y1 + 1].map(v => v * stride);
}

// Mixes the four numbers around (y, x); at(i, j) gives one of them.
function mix(at, y, x) {
  const top = Math.floor(y), left = Math.floor(x), fy = y - top, fx = x - left;
  return (1 - fy) * ((1 - fx) * at(top, left) + fx * at(top, left + 1)) + fy * ((1 - fx) * at(top + 1, left) + fx * at(top + 1, left + 1));
}

// RoIAlign of a mask at stride 1: M x M bins with 2 x 2 samples.
export function read(mask, [x0, y0, x1, y1], M) {
  const height = mask.length, width = mask[0].length, near = (v, n) => clamp(v, 0, n - 1);
  const sample = (y, x) => y < -1 || y > height || x < -1 || x > width ? 0
    : mix((i, j) => mask[near(i, height)][near(j, width)], near(y, height), near(x, width));
  const at = (low, high, k) => low - 0.5 + (k + 0.5) / (2 * M) * (high - low);
  return Array.from({length: M}, (_, p) => Array.from({length: M}, (_, q) => {
    let sum = 0;
    for (const i of [0, 1]) for (const j of [0, 1]) sum += sample(at(y0, y1, 2 * p + i), at(x0, x1, 2 * q + j));
    return sum / 4;
  }));
}

// A patch stretched over a box, with zeros around it, at the centre of every pixel.
export function paste(patch, [x0, y0, x1, y1], width = W, height = H) {
  const M = patch.length, at = (i, j) => patch[i]?.[j] ?? 0, place = (v, low, high) => (v + 0.5 - low) / (high - low) * M - 0.5;
  return Array.from({length: height}, (_, i) => Array.from({length: width}, (_, j) => mix(at, place(i, y0, y1), place(j, x0, x1))));
}

// Hits, missed and extra pixels of a pasted mask, as lists of [row, column].
export function judge(truth, pasted) {
  const found = {hits: [], missed: [], extra: []};
  truth.forEach((row, i) => row.forEach((t, j) => {
    const p = pasted[i][j] >= 0.5;
    if (t || p) found[t ? p ? "hits" : "missed" : "extra"].push([i, j]);
  }));
  return found;
}

export const score = ({hits, missed, extra}) => hits.length / Math.max(1, hits.length + missed.length + extra.length);

const LEAST = 6, STEP = 0.25;

export function render(root, {box: start, stride: s, grid: first}) {
  let raw = [...start], stride = s, M = first;
  const set = (e, values) => { for (const [key, v] of Object.entries(values)) e.setAttribute(key, v); };
  const frame = ([x0, y0, x1, y1]) => ({x: x0, y: y0, width: x1 - x0, height: y1 - y0});
  function panel(keys) {
    const slide = (name, high) => keys ? {tabindex: 0, role: "slider", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": high} : {"aria-hidden": "true"};
    const svg = el("svg", {viewBox: `-1 -1 ${W + 2} ${H + 2}`, role: "group", "aria-label": keys ? "Read from the box as it is" : "Read from whole cells"});
    const lines = el("path", {class: "lines"}), title = el("b", {class: "num"}), around = el("rect", {class: "around"});
    const marks = ["hits", "missed", "extra"].map(name => el("path", {class: name}));
    const body = el("rect", {class: "body", ...slide("Object", W)});
    const corner = el("g", {class: "corner", ...slide("Object, lower right corner", W)}, el("circle", {r: 1.8, fill: "transparent"}), el("circle", {r: 0.7, class: "dot"}));
    svg.append(el("rect", {class: "ground", width: W, height: H}), lines, ...marks, around, body, corner);
    drag(body, svg, (dx, dy) => {
      [dx, dy] = [clamp(dx, -raw[0], W - raw[2]), clamp(dy, -raw[1], H - raw[3])];
      raw = raw.map((v, k) => v + (k % 2 ? dy : dx));
      draw();
    }, STEP);
    drag(corner, svg, (dx, dy) => {
      const [x0, y0, x1, y1] = raw;
      raw = [x0, y0, clamp(x1 + dx, x0 + LEAST, W), clamp(y1 + dy, y0 + LEAST, H)];
      draw();
    }, STEP);
    return {svg, lines, title, around, marks, body, corner, root: el("div", {class: "panel"}, title, svg)};
  }
  const exact = panel(true), rounded = panel(false), status = el("p", {class: "status num"});
  const coarse = slider("Stride", {min: 2, max: 4, value: Math.log2(s), show: v => String(2 ** v)}, v => { stride = 2 ** v; draw(); });
  const fine = slider("Mask grid", {min: 7, max: 28, step: 7, value: first, show: v => `${v}×${v}`}, v => { M = v; draw(); });
  const reset = el("button", {type: "button", onclick: () => { raw = [...start]; draw(); }}, "Reset");
  const say = card(root, "A perfect mask, pasted back", `
    .panel { flex: 1 1 300px; min-width: 0; } .panel svg { overflow: hidden; } .ground { fill: var(--wash); stroke: var(--line); stroke-width: .1; }
    .lines { stroke: var(--line); stroke-width: .12; fill: none; } .hits { fill: color-mix(in srgb, var(--blue) 55%, var(--bg)); }
    .missed { fill: none; stroke: var(--accent); stroke-width: .22; } .extra { fill: var(--green); } path, .around { pointer-events: none; }
    .around { fill: none; stroke: var(--accent); stroke-width: .35; stroke-dasharray: 1 .7; }
    .body { fill: transparent; stroke: var(--ink); stroke-width: .3; cursor: move; } .corner { cursor: nwse-resize; --focus: var(--ink); }
    .dot { fill: var(--bg); stroke: var(--ink); stroke-width: .3; }`,
    el("p", {class: "lead"}, "A perfect mask is read on a grid, on the left from its box, on the right from the whole cells that RoI Pooling reads (dashed), and "
      + "pasted back into the box. Filled: right; hollow: missed; small squares: too much. Drag the box or its corner, or use the arrow keys."),
    el("div", {class: "row"}, exact.root, rounded.root), el("div", {class: "controls"}, coarse.root, fine.root, reset), status);

  function draw() {
    const box = raw.map(v => Math.round(v / STEP) * STEP), around = cells(box, stride), truth = rasterise(box), at = v => v.toFixed(2);
    const shape = {hits: ([i, j]) => `M${j} ${i}h1v1h-1z`, missed: ([i, j]) => `M${j + 0.2} ${i + 0.2}h.6v.6h-.6z`, extra: ([i, j]) => `M${j + 0.25} ${i + 0.25}h.5v.5h-.5z`};
    const ious = [[exact, box], [rounded, around]].map(([p, from]) => {
      const found = judge(truth, paste(read(truth, from, M), box)), value = score(found);
      p.marks.forEach(mark => mark.setAttribute("d", found[mark.getAttribute("class")].map(shape[mark.getAttribute("class")]).join("")));
      p.title.textContent = `${p === exact ? "The box as it is" : "Whole cells"}: IoU ${at(value)}`;
      set(p.body, frame(box));
      p.corner.setAttribute("transform", `translate(${box[2]} ${box[3]})`);
      set(p.around, frame(p === exact ? [0, 0, 0, 0] : around));
      return value;
    });
    let d = "";
    for (let x = stride; x < W; x += stride) d += `M${x} 0v${H}`;
    for (let y = stride; y < H; y += stride) d += `M0 ${y}h${W}`;
    rounded.lines.setAttribute("d", d);
    const [x0, y0, x1, y1] = box;
    set(exact.body, {"aria-valuenow": x0, "aria-valuetext": `left ${x0}, top ${y0}, IoU ${at(ious[0])} and ${at(ious[1])}`});
    set(exact.corner, {"aria-valuenow": x1, "aria-valuetext": `${x1 - x0} wide, ${y1 - y0} high, IoU ${at(ious[0])} and ${at(ious[1])}`});
    status.textContent = `The box reaches from x ${at(x0)} to ${at(x1)} and from y ${at(y0)} to ${at(y1)}; the cells from ${around[0]} to ${around[2]} and from ${around[1]} to `
      + `${around[3]}. They are ${((around[2] - around[0]) / (x1 - x0)).toFixed(2)} times as wide and ${((around[3] - around[1]) / (y1 - y0)).toFixed(2)} times as high, so the mask comes back that much smaller.`;
    say(`IoU ${at(ious[0])} from the box, ${at(ious[1])} from whole cells.`);
  }
  draw();
}
