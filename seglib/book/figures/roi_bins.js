// One box on a small map: the rounded bins of RoI Pooling beside the bins and samples of RoIAlign, and what both give.

// To the nearest whole number, halves away from zero as in C.
export const round = v => Math.sign(v) * Math.floor(Math.abs(v) + 0.5);

// The bins of RoI Pooling, row by row, as half-open ranges of cells. box: x0, y0, x1, y1 in cells.
export function poolBins(box, size, height, width) {
  const [x0, y0, x1, y1] = box.map(round);
  const range = (i, begin, end, length) => {
    const side = Math.max(end - begin + 1, 1) / size;
    return [Math.floor(i * side), Math.ceil((i + 1) * side)].map(v => clamp(v + begin, 0, length));
  };
  const bins = [];
  for (let p = 0; p < size; p++) for (let q = 0; q < size; q++) {
    const [top, bottom] = range(p, y0, y1, height), [left, right] = range(q, x0, x1, width);
    bins.push({top, bottom, left, right});
  }
  return bins;
}

// The largest cell of each bin and where it is; 0 and nowhere in a bin without a cell.
export function roiPool(map, box, size) {
  return poolBins(box, size, map.length, map[0].length).map(({top, bottom, left, right}) => {
    let best = {value: 0, row: -1, column: -1};
    for (let row = top; row < bottom; row++) for (let column = left; column < right; column++)
      if (best.row < 0 || map[row][column] > best.value) best = {value: map[row][column], row, column};
    return best;
  });
}

// Where RoIAlign's bins begin and how large they are, in indices: cell i lies at i, so its left edge at i - 1/2.
export function grid(box, size, aligned) {
  const [x0, y0, x1, y1] = box.map(v => v - (aligned ? 0.5 : 0)), least = aligned ? -Infinity : 1;
  return {x: x0, y: y0, width: Math.max(x1 - x0, least) / size, height: Math.max(y1 - y0, least) / size};
}

// The sample points of every bin, row by row: lists of [y, x] in indices.
export function samples(box, size, ratio, aligned) {
  const g = grid(box, size, aligned), bins = [];
  for (let p = 0; p < size; p++) for (let q = 0; q < size; q++) {
    const points = [];
    for (let i = 0; i < ratio; i++) for (let j = 0; j < ratio; j++)
      points.push([g.y + (p + (i + 0.5) / ratio) * g.height, g.x + (q + (j + 0.5) / ratio) * g.width]);
    bins.push(points);
  }
  return bins;
}

// The map between its cells; the border's value up to one cell outside, 0 further out.
export function bilinear(map, y, x) {
  const height = map.length, width = map[0].length;
  if (!(y >= -1 && y <= height && x >= -1 && x <= width)) return 0;
  [y, x] = [clamp(y, 0, height - 1), clamp(x, 0, width - 1)];
  const top = Math.floor(y), left = Math.floor(x), fy = y - top, fx = x - left;
  const bottom = Math.min(top + 1, height - 1), right = Math.min(left + 1, width - 1);
  return (1 - fy) * ((1 - fx) * map[top][left] + fx * map[top][right])
    + fy * ((1 - fx) * map[bottom][left] + fx * map[bottom][right]);
}

export const roiAlign = (map, box, size, ratio, aligned) => samples(box, size, ratio, aligned).map(points =>
  points.reduce((sum, [y, x]) => sum + bilinear(map, y, x), 0) / points.length);

const CORNERS = [["top left", 0, 1], ["top right", 2, 1], ["bottom left", 0, 3], ["bottom right", 2, 3]];
const STEP = 0.1, LEAST = 0.2;

export function render(root, {map, box: start, size: P, ratio: S}) {
  const H = map.length, W = map[0].length, most = Math.max(...map.flat());
  let raw = [...start], size = P, ratio = S, aligned = true, before = null;
  const box = () => raw.map(v => Math.round(100 * v) / 100);  // steps of a tenth meet the half exactly
  const set = (e, values) => { for (const [key, v] of Object.entries(values)) e.setAttribute(key, v); };
  const rect = (name, x, y, width, height) => el("rect", {class: name, x, y, width: Math.max(width, 0), height: Math.max(height, 0)});

  // Both panels can be dragged; the keyboard has the handles of the first one.
  function panel(title, keys) {
    const svg = el("svg", {viewBox: `-.7 -.7 ${W + 1.4} ${H + 1.4}`, class: "map", role: "group", "aria-label": `${title}: map and box`});
    map.forEach((row, y) => row.forEach((v, x) => {
      const cell = rect("cell", x + 0.02, y + 0.02, 0.96, 0.96);
      cell.style.fill = tint("blue", 0.5 * v / most);
      svg.append(cell, el("text", {x: x + 0.09, y: y + 0.33, "font-size": 0.3}, v));
    }));
    const marks = el("g", {class: "marks"}), slides = (name, high) => keys ? {tabindex: 0, role: "slider", "aria-label": name,
      "aria-valuemin": 0, "aria-valuemax": high} : {"aria-hidden": "true"};
    const body = el("rect", {class: "body", ...slides("Position of the box", W)});
    const corners = CORNERS.map(([name]) => el("g", {class: "corner", ...slides(`Box, ${name} corner`, W)},
      el("circle", {r: 0.42, fill: "transparent"}), el("circle", {r: 0.15, class: "dot"})));
    svg.append(marks, body, ...corners);
    drag(body, svg, move, STEP);
    corners.forEach((corner, i) => drag(corner, svg, (dx, dy) => {
      const [, h, v] = CORNERS[i], next = [...raw];
      next[h] = h ? clamp(raw[h] + dx, raw[0] + LEAST, W) : clamp(raw[h] + dx, 0, raw[2] - LEAST);
      next[v] = v > 1 ? clamp(raw[v] + dy, raw[1] + LEAST, H) : clamp(raw[v] + dy, 0, raw[3] - LEAST);
      change(next);
    }, STEP));
    const result = el("svg", {class: "result", role: "img"});
    return {title, svg, marks, body, corners, result, root: el("div", {class: "panel"}, el("b", {}, title), svg, result)};
  }
  const pool = panel("RoI Pooling", true), align = panel("RoIAlign", false), status = el("p", {class: "status num"});
  const bins = slider("Bins P", {min: 1, max: 4, value: size}, v => { size = v; change(raw); });
  const points = slider("Samples a bin", {min: 1, max: 4, value: ratio, show: v => `${v}×${v}`}, v => { ratio = v; change(raw); });
  const half = el("button", {type: "button", onclick: () => { aligned = !aligned; change(raw); }}, "aligned");
  const nudge = (text, label, dx, dy) => el("button", {type: "button", "aria-label": label, onclick: () => move(dx, dy)}, text);
  const reset = el("button", {type: "button", onclick: () => { before = null; change(start); }}, "Reset");
  const say = card(root, "RoI Pooling and RoIAlign of one box", `
    .panel { flex: 1 1 300px; min-width: 0; max-width: 356px; } .map text { fill: var(--soft); pointer-events: none; }
    .marks { pointer-events: none; } .bin { fill: color-mix(in srgb, var(--green) 9%, transparent); stroke: var(--green); stroke-width: .06; }
    .won, .sample { stroke: var(--bg); stroke-width: .03; } .won { fill: var(--green); } .sample { fill: var(--accent); }
    .thin { fill: none; stroke: var(--accent); stroke-width: .035; stroke-dasharray: .12 .08; }
    .body { fill: transparent; stroke: var(--accent); stroke-width: .09; cursor: move; --focus: var(--ink); } .corner { cursor: crosshair; --focus: var(--ink); }
    .dot { fill: var(--bg); stroke: var(--accent); stroke-width: .07; }
    .result { max-width: 190px; margin: 8px auto 0; } .result text { fill: var(--ink); }`,
    el("p", {class: "lead"}, "Drag the box or its corners, or move it by tenths of a cell. Green: the cells that RoI Pooling reads, "
      + "with a dot on each bin's largest. Orange dots: RoIAlign's samples. Below: what each gives."),
    el("div", {class: "row"}, pool.root, align.root),
    el("div", {class: "controls"}, nudge("← 0.1", "Box 0.1 to the left", -STEP, 0), nudge("0.1 →", "Box 0.1 to the right", STEP, 0),
      nudge("↑ 0.1", "Box 0.1 up", 0, -STEP), nudge("0.1 ↓", "Box 0.1 down", 0, STEP), bins.root, points.root, half, reset), status);

  function move(dx, dy) {
    dx = clamp(dx, -raw[0], W - raw[2]);
    dy = clamp(dy, -raw[1], H - raw[3]);
    change(raw.map((v, i) => v + (i % 2 ? dy : dx)));
  }

  function show(p, values) {
    set(p.result, {viewBox: `0 0 ${size} ${size * 0.62}`, "aria-label": `${p.title}: ${values.map(v => v.toFixed(2)).join(", ")}`});
    p.result.replaceChildren(...values.flatMap((v, i) => {
      const x = i % size, y = 0.62 * Math.floor(i / size), cell = rect("", x + 0.02, y + 0.02, 0.96, 0.58);
      cell.style.fill = tint("blue", 0.5 * v / most);
      return [cell, el("text", {x: x + 0.5, y: y + 0.31 + 0.025 * size, "text-anchor": "middle", "font-size": 0.075 * size + 0.04}, v.toFixed(2))];
    }));
  }

  function change(next) {
    raw = [...next];
    const b = box(), [x0, y0, x1, y1] = b, g = grid(b, size, aligned), best = roiPool(map, b, size);
    const found = [best.map(w => w.value), roiAlign(map, b, size, ratio, aligned)];
    pool.marks.replaceChildren(
      ...poolBins(b, size, H, W).map(r => rect("bin", r.left + 0.05, r.top + 0.05, r.right - r.left - 0.1, r.bottom - r.top - 0.1)),
      ...best.filter(w => w.row >= 0).map(w => el("circle", {class: "won", cx: w.column + 0.5, cy: w.row + 0.5, r: 0.13})));
    align.marks.replaceChildren(
      ...samples(b, size, ratio, aligned).flatMap((_, i) =>
        [rect("thin", g.x + 0.5 + i % size * g.width, g.y + 0.5 + Math.floor(i / size) * g.height, g.width, g.height)]),
      ...samples(b, size, ratio, aligned).flat().map(([y, x]) => el("circle", {class: "sample", cx: x + 0.5, cy: y + 0.5, r: 0.09})));
    for (const p of [pool, align]) {
      set(p.body, {x: x0, y: y0, width: x1 - x0, height: y1 - y0});
      p.corners.forEach((corner, i) => set(corner, {transform: `translate(${b[CORNERS[i][1]]} ${b[CORNERS[i][2]]})`}));
    }
    const at = b.map(v => v.toFixed(2));
    set(pool.body, {"aria-valuenow": at[0], "aria-valuetext": `left ${at[0]}, top ${at[1]}, right ${at[2]}, bottom ${at[3]}`});
    CORNERS.forEach(([, h, v], i) => set(pool.corners[i], {"aria-valuenow": at[h], "aria-valuetext": `x ${at[h]}, y ${at[v]}`}));
    show(pool, found[0]);
    show(align, found[1]);
    half.setAttribute("aria-pressed", aligned);
    const [c0, r0, c1, r1] = b.map(round), last = (v, n) => Math.min(v, n - 1);
    let text = `Box: x ${at[0]} to ${at[2]}, y ${at[1]} to ${at[3]}. RoI Pooling reads columns ${c0} to ${last(c1, W)} and rows ${r0} to ${last(r1, H)}.`;
    if (before && before[0].length === found[0].length) {
      const [a, c] = [0, 1].map(k => Math.max(...found[k].map((v, i) => Math.abs(v - before[k][i]))).toFixed(2));
      text += ` The last change moved a bin of RoI Pooling by up to ${a}, of RoIAlign by up to ${c}.`;
    }
    if (!aligned) text += " Not aligned: all samples lie half a cell too far right and down.";
    before = found;
    status.textContent = text;
    say(text);
  }
  change(raw);
}
