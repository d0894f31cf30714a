// A predicted boundary to move, roughen and grow, and a speck to add: Dice, HD, HD95 and NSD in mm answer live.

// The scene, in mm: the field of view, and an organ with flat sides about a centre.
export const FIELD = {width: 64, height: 40};
const CENTRE = {x: 25, y: 20}, HALF = {x: 16, y: 12}, POWER = 3;

// Distance in mm from the centre to the organ's border in a direction, and a fixed roughness in [-1, 1].
const radius = angle => ((Math.abs(Math.cos(angle)) / HALF.x) ** POWER + (Math.abs(Math.sin(angle)) / HALF.y) ** POWER) ** (-1 / POWER);
const roughness = angle => (Math.sin(9 * angle + 1) + Math.sin(14 * angle + 2.3) + Math.sin(23 * angle + 0.7)) / 3;

// The two masks as 0 and 1, row by row, on voxels of spacing [y, x] mm whose centres lie inside. shift: {x, y}, grow, rough and
// far in mm, speck in voxels: a block right of the organ, `far` mm beyond its border, filled column by column.
export function masks({shift, grow, rough, speck, far}, [sy, sx]) {
  const h = FIELD.height / sy, w = FIELD.width / sx;
  const rasterise = (dx, dy, more) => Array.from({length: h * w}, (_, i) => {
    const x = (i % w + 0.5) * sx - CENTRE.x - dx, y = (Math.floor(i / w) + 0.5) * sy - CENTRE.y - dy, angle = Math.atan2(y, x);
    return +(Math.hypot(x, y) <= radius(angle) + more(angle));
  });
  const target = rasterise(0, 0, () => 0), pred = rasterise(shift.x, shift.y, angle => grow + rough * roughness(angle));
  const rows = Math.floor(8 / sy), top = Math.floor((h - rows) / 2), last = Math.floor((CENTRE.x + HALF.x) / sx) - 1;
  for (let k = 0; k < speck; k++) pred[(top + k % rows) * w + last + Math.round(far / sx) + Math.floor(k / rows)] = 1;
  return {target, pred, h, w};
}

// The voxels of a mask with a neighbour outside it: up, down, left or right. Beyond the border of the map all is outside.
export function surface(mask, h, w) {
  const inside = (r, c) => r >= 0 && r < h && c >= 0 && c < w && mask[r * w + c];
  return mask.flatMap((v, i) => {
    const r = Math.floor(i / w), c = i % w;
    return v && !(inside(r - 1, c) && inside(r + 1, c) && inside(r, c - 1) && inside(r, c + 1)) ? [i] : [];
  });
}

// From each voxel of one surface to the nearest of the other: {mm, nearest} between centres.
export function distances(from, to, w, [sy, sx]) {
  return from.map(a => to.reduce((best, b) => {
    const mm = Math.hypot(sy * (Math.floor(a / w) - Math.floor(b / w)), sx * (a % w - b % w));
    return mm < best.mm ? {mm, nearest: b} : best;
  }, {mm: Infinity}));
}

// The q-th percentile of numbers, linear between two of them.
export function percentile(values, q) {
  const sorted = [...values].sort((a, b) => a - b), at = q / 100 * (sorted.length - 1), low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

// Every score of two masks that are not empty; distances and tolerance in mm.
export function scores(pred, target, h, w, spacing, tolerance) {
  const p = surface(pred, h, w), t = surface(target, h, w), [forth, back] = [distances(p, t, w, spacing), distances(t, p, w, spacing)];
  const [a, b] = [forth, back].map(list => list.map(d => d.mm)), sum = list => list.reduce((s, v) => s + v, 0), near = list => list.filter(v => v <= tolerance).length;
  return {
    p, t, forth, back,
    dice: 2 * sum(pred.map((v, i) => v & target[i])) / (sum(pred) + sum(target)),
    hd: Math.max(...a, ...b),
    directed: [percentile(a, 95), percentile(b, 95)],
    larger: Math.max(percentile(a, 95), percentile(b, 95)),
    pooled: percentile([...a, ...b], 95),
    nsd: (near(a) + near(b)) / (a.length + b.length),
  };
}

const STILL = {shift: {x: 0, y: 0}, grow: 0, rough: 0, speck: 0, far: 14};
const GRIDS = [["1 × 1 mm", [1, 1]], ["2 × 2 mm", [2, 2]], ["4 × 1 mm", [4, 1]]];

// presets: [name, changes to a prediction that equals the target (and the grid), what to see].
export function render(root, {presets: PRESETS, preset: first, tolerance: start}) {
  const W = FIELD.width, H = FIELD.height;
  let state = {...STILL}, grid = 0, tolerance = start, ignored = false, raw = {x: 0, y: 0}, loaded = null;
  const scene = el("svg", {viewBox: `-.2 -.2 ${W + 0.4} ${H + 0.4}`, role: "group", "aria-label": "Boundary voxels of the target and of the prediction"});
  const layer = name => el("path", {class: name});
  const [lines, inside, targetNear, targetFar, predNear, predFar] = ["lines", "inside", "t near", "t far", "p near", "p far"].map(layer);
  const worst = el("g", {class: "worst"}), body = el("path", {class: "body", tabindex: 0, role: "slider", "aria-label": "Shift of the prediction",
    "aria-valuemin": -8, "aria-valuemax": 8});
  const bar = el("g", {class: "bar"}, el("path", {d: `M1.5 ${H - 1.5}h10m0 -.6v1.2m-10 0v-1.2`}), el("text", {x: 6.5, y: H - 2.4, "text-anchor": "middle"}, "10 mm"));
  scene.append(lines, inside, targetNear, targetFar, predNear, predFar, worst, body, bar);
  const plot = el("svg", {viewBox: "0 0 340 196", class: "plot", role: "img"});

  const button = (text, onclick) => el("button", {type: "button", onclick}, text);
  const group = (label, ...parts) => el("div", {class: "controls", role: "group", "aria-label": label}, el("span", {}, label), ...parts);
  const own = change => v => { change(v); loaded = null; draw(); };
  const mm = v => `${v} mm`.replace("-", "−");
  const sliders = {
    grow: slider("Grow", {min: -5, max: 3, step: 0.5, value: 0, show: mm}, own(v => { state.grow = v; })),
    rough: slider("Roughen", {min: 0, max: 4, step: 0.5, value: 0, show: mm}, own(v => { state.rough = v; })),
    speck: slider("Speck", {min: 0, max: 12, value: 0, show: v => `${v} voxels`}, own(v => { state.speck = v; })),
    far: slider("Speck is off by", {min: 2, max: 16, value: 14, show: mm}, own(v => { state.far = v; })),
  };
  const limit = slider("Tolerance", {min: 0, max: 5, step: 0.5, value: start, show: mm}, v => { tolerance = v; draw(); });
  const presets = PRESETS.map(([name], k) => button(name, () => load(k)));
  const grids = GRIDS.map(([name], k) => button(name, () => { grid = k; loaded = null; draw(); }));
  const ignore = button("Ignore the spacing", () => { ignored = !ignored; draw(); });
  const status = el("p", {class: "status num"}), scoreboard = el("tbody");
  const swatch = name => el("svg", {viewBox: "0 0 24 10", class: "swatch", "aria-hidden": "true"}, el("path", {class: name, d: "M1 5H23"}));
  const keys = [["forth", "prediction → target"], ["back", "target → prediction"], ["all", "both, pooled"]];
  const say = card(root, "Dice and surface distances of a prediction to move", `
    :host { --target: color-mix(in srgb, var(--blue) 75%, var(--ink)); } .half { flex: 1 1 320px; min-width: 0; } .controls { gap: 6px 10px; } .controls > span { min-width: 62px; color: var(--soft); }
    .lines { fill: none; stroke: var(--line); stroke-width: .06; } .inside { fill: ${tint("blue", 0.12)}; }
    .t { fill: ${tint("blue", 0.4)}; } .t.far { fill: var(--target); } .p { fill: ${tint("orange", 0.6)}; stroke: var(--bg); stroke-width: .1; } .p.far { fill: var(--orange); stroke: var(--ink); }
    .body { fill: transparent; cursor: move; } .body:focus-visible { stroke: var(--accent); stroke-width: 2px; }
    .worst path { stroke: var(--ink); stroke-width: .3; stroke-dasharray: .8 .5; fill: none; } .worst text, .bar text { fill: var(--ink); font-size: 2.3px; } .worst text { paint-order: stroke; stroke: var(--bg); stroke-width: .7; }
    .bar path { stroke: var(--ink); stroke-width: .25; fill: none; } .worst, .bar { pointer-events: none; }
    .plot text { fill: var(--ink); font-size: 11px; } .axis { stroke: var(--line); } .mark { stroke: var(--soft); stroke-dasharray: 4 3; }
    .forth, .back, .all { fill: none; stroke-width: 2.4; } .forth { stroke: var(--orange); } .back { stroke: var(--target); stroke-dasharray: 7 3; } .all { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 2 2.5; }
    circle.forth { fill: var(--orange); } circle.back { fill: var(--target); } circle.all { fill: var(--ink); } .plot circle { stroke: var(--bg); stroke-width: 1; stroke-dasharray: none; }
    .swatch { display: inline-block; width: 24px; height: 10px; margin-right: 6px; } .key { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin: 4px 0 0; }
    table { border-collapse: collapse; width: 100%; } th, td { font-weight: inherit; text-align: left; padding: 4px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
    td { text-align: right; font-weight: 700; font-size: 16px; white-space: nowrap; padding-left: 8px; } small { display: block; color: var(--soft); font-size: 12.5px; }
    .status { min-height: 5.8em; }`,
  el("p", {class: "lead"}, "Drag the prediction (orange) over the target (blue), or take a preset. Squares are boundary voxels; strong ones lie beyond the tolerance from the other boundary."),
  group("Preset", ...presets),
  el("div", {class: "row", style: "margin-top: 12px"}, el("div", {class: "half"}, scene, plot, el("p", {class: "key"}, ...keys.map(([name, text]) => el("span", {}, swatch(name), text)))),
    el("div", {class: "half"}, el("table", {class: "num"}, scoreboard), status)),
  group("Prediction", ...Object.values(sliders).map(s => s.root)), group("Voxels", ...grids, ignore, limit.root));

  function load(k) {
    const {grid: g = 0, ...changes} = PRESETS[k][1];
    [state, grid, ignored, loaded] = [{...STILL, ...changes}, g, false, k];
    raw = {...state.shift};
    draw();
  }

  const cells = (list, w, [sy, sx], inset) => list.map(i => {
    const d = inset * Math.min(sx, sy);
    return `M${i % w * sx + d} ${Math.floor(i / w) * sy + d}h${sx - 2 * d}v${sy - 2 * d}h${2 * d - sx}z`;
  }).join("");

  function draw() {
    const spacing = GRIDS[grid][1], [sy, sx] = spacing, {target, pred, h, w} = masks(state, spacing);
    const s = scores(pred, target, h, w, ignored ? [1, 1] : spacing, tolerance);
    const split = (voxels, found, far) => voxels.filter((_, k) => found[k].mm > tolerance === far);
    const set = (path, d) => path.setAttribute("d", d), filled = mask => mask.flatMap((v, i) => v ? [i] : []);
    set(lines, Array.from({length: h + 1}, (_, r) => `M0 ${r * sy}H${W}`).join("") + Array.from({length: w + 1}, (_, c) => `M${c * sx} 0V${H}`).join(""));
    set(inside, cells(filled(target), w, spacing, 0));
    set(body, cells(filled(pred), w, spacing, 0));
    for (const [near, far, voxels, found, inset] of [[targetNear, targetFar, s.t, s.back, 0], [predNear, predFar, s.p, s.forth, 0.18]]) {
      set(near, cells(split(voxels, found, false), w, spacing, inset));
      set(far, cells(split(voxels, found, true), w, spacing, inset));
    }
    const pairs = [...s.p.map((v, k) => [v, s.forth[k]]), ...s.t.map((v, k) => [v, s.back[k]])], [from, {nearest}] = pairs.find(([, d]) => d.mm === s.hd);
    const middle = i => [(i % w + 0.5) * sx, (Math.floor(i / w) + 0.5) * sy], [[x0, y0], [x1, y1]] = [middle(from), middle(nearest)];
    worst.replaceChildren(...s.hd ? [el("path", {d: `M${x0} ${y0}L${x1} ${y1}`}), el("text", {x: Math.min(Math.max(x0, x1) + 1, W - 9), y: (y0 + y1) / 2 + 0.8}, `HD ${s.hd.toFixed(1)}`)] : []);
    body.setAttribute("aria-valuenow", state.shift.x);
    body.setAttribute("aria-valuetext", `${mm(state.shift.x)} to the right, ${mm(state.shift.y)} down`);
    for (const [name, item] of Object.entries(sliders)) item.set(state[name]);
    const press = (buttons, on) => buttons.forEach((b, k) => b.setAttribute("aria-pressed", on(k)));
    press(presets, k => k === loaded);
    press(grids, k => k === grid);
    press([ignore], () => ignored);
    curves(s);

    const unit = ignored ? "voxels" : "mm", value = v => `${v.toFixed(2)} ${unit}`;
    const rows = [
      ["Dice", "overlap of the areas", s.dice.toFixed(3)],
      ["HD", "the largest distance of all", value(s.hd)],
      ["HD95, larger of two directions", `to the target ${s.directed[0].toFixed(2)}, from it ${s.directed[1].toFixed(2)}`, value(s.larger)],
      ["HD95, pooled", "both directions in one list", value(s.pooled)],
      [`NSD at ${tolerance} ${tolerance === 1 ? unit.replace("voxels", "voxel") : unit}`, "boundary voxels within the tolerance", s.nsd.toFixed(3)],
    ];
    scoreboard.replaceChildren(...rows.map(([name, text, v]) => el("tr", {}, el("th", {scope: "row"}, name, el("small", {}, text)), el("td", {}, v))));
    const beyond = (found, whose) => `${found.filter(d => d.mm > tolerance).length} of ${found.length} boundary voxels of the ${whose}`;
    let text = `Beyond the tolerance: ${beyond(s.forth, "prediction")} and ${beyond(s.back, "target")}.`;
    if (ignored) text += ` Every number counts voxels; in millimetres HD95 is ${scores(pred, target, h, w, spacing, tolerance).larger.toFixed(2)}.`;
    status.textContent = loaded === null ? text : `${PRESETS[loaded][2]} ${text}`;
    say(`${rows.map(([name, , v]) => `${name} ${v}`).join(", ")}. ${status.textContent}`);
  }

  // The sorted distances: height at 95 % is HD95, at 100 % HD; NSD is the share below the tolerance.
  function curves(s) {
    const lists = {all: [...s.forth, ...s.back], back: s.back, forth: s.forth}, most = Math.max(4, tolerance, Math.ceil(s.hd / 2) * 2);
    const X = share => 30 + 290 * share, Y = v => 160 - 140 * v / most, parts = [];
    for (const share of [0, 0.25, 0.5, 0.75, 1]) parts.push(el("line", {class: "axis", x1: X(share), x2: X(share), y1: Y(0), y2: Y(most)}),
      el("text", {x: X(share), y: 175, "text-anchor": "middle"}, `${100 * share}%`));
    for (let k = 0; k <= 4; k++) parts.push(el("line", {class: "axis", x1: X(0), x2: X(1), y1: Y(most * k / 4), y2: Y(most * k / 4)}),
      el("text", {x: 25, y: Y(most * k / 4) + 4, "text-anchor": "end"}, most * k / 4));
    parts.push(el("text", {x: X(0.5), y: 191, "text-anchor": "middle"}, "share of the boundary voxels, by distance"), el("text", {x: 4, y: 10}, ignored ? "voxels" : "mm"),
      el("line", {class: "mark", x1: X(0.95), x2: X(0.95), y1: Y(0), y2: 14}), el("text", {x: X(0.95), y: 10, "text-anchor": "middle"}, "95%"),
      el("line", {class: "mark", x1: X(0), x2: X(1), y1: Y(tolerance), y2: Y(tolerance)}), el("text", {x: X(0) + 4, y: Y(tolerance) - 4}, "tolerance"));
    for (const [name, found] of Object.entries(lists)) {
      const values = found.map(d => d.mm).sort((a, b) => a - b), last = Math.max(values.length - 1, 1);
      parts.push(el("path", {class: name, d: "M" + values.map((v, k) => `${X(k / last).toFixed(1)} ${Y(v).toFixed(1)}`).join("L")}),
        el("circle", {class: name, cx: X(0.95), cy: Y(percentile(values, 95)), r: 4}));
    }
    plot.replaceChildren(...parts);
    plot.setAttribute("aria-label", `Sorted distances. At 95 %: ${s.directed[0].toFixed(2)} from prediction to target, ${s.directed[1].toFixed(2)} from target to prediction, ${s.pooled.toFixed(2)} pooled`);
  }

  drag(body, scene, (dx, dy) => {
    raw = {x: clamp(raw.x + dx, -8, 8), y: clamp(raw.y + dy, -8, 8)};
    state.shift = {x: Math.round(raw.x), y: Math.round(raw.y)};
    loaded = null;
    draw();
  }, 1);
  load(first);
}
