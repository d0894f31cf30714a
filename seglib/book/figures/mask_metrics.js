// A mask to drag over the true one: pixel accuracy, IoU and Dice answer live.

// A house that fills the box, as two convex polygons: a roof on the upper 40%, walls below.
export function house([x0, y0, x1, y1]) {
  const w = x1 - x0, eaves = y0 + 0.4 * (y1 - y0), left = x0 + w / 10, right = x1 - w / 10;
  return [[[x0 + w / 2, y0], [x1, eaves], [x0, eaves]], [[left, eaves], [right, eaves], [right, y1], [left, y1]]];
}

// The area of a polygon, and the part of it inside a convex one: cut by one edge after the other.
export const area = points => Math.abs(points.reduce((sum, [x, y], i) => {
  const [u, v] = points[(i + 1) % points.length];
  return sum + x * v - u * y;
}, 0)) / 2;
export function clip(points, convex) {
  convex.forEach(([ax, ay], i) => {
    const [bx, by] = convex[(i + 1) % convex.length], side = ([x, y]) => (bx - ax) * (y - ay) - (by - ay) * (x - ax);
    points = points.flatMap((p, k) => {
      const q = points[(k + 1) % points.length], a = side(p), b = side(q), t = a / (a - b);
      const cut = a * b < 0 ? [[p[0] + t * (q[0] - p[0]), p[1] + t * (q[1] - p[1])]] : [];
      return a >= 0 ? [p, ...cut] : cut;
    });
  });
  return points;
}

// Exact areas and scores of two houses in a scene of `all` pixels; pred is null for an empty mask, and 0 / 0 is NaN.
export function scores(truth, pred, all) {
  const total = list => list.reduce((sum, p) => sum + area(p), 0), t = house(truth), p = pred ? house(pred) : [];
  const tp = total(t.flatMap(a => p.map(b => clip(a, b)))), fn = total(t) - tp, fp = total(p) - tp, tn = all - tp - fn - fp;
  return {tp, fp, fn, tn, accuracy: (tp + tn) / all, iou: tp / (tp + fp + fn), dice: 2 * tp / (2 * tp + fp + fn)};
}

// A box scaled about a point: object and prediction shrink together, so their relative error stays.
export const scaleBox = (box, [cx, cy], factor) => box.map((v, i) => (i % 2 ? cy : cx) + (v - (i % 2 ? cy : cx)) * factor);

const ROOF = ([x0, y0, x1, y1]) => {
  const w = x1 - x0, eaves = y0 + 0.4 * (y1 - y0);
  return [[x0 + w / 2, y0], [x1, eaves], [x1 - w / 10, eaves], [x1 - w / 10, y1], [x0 + w / 10, y1], [x0 + w / 10, eaves],
    [x0, eaves]].map(p => p.join()).join(" ");
};

export function render(root, {width: W, height: H, truth: T, prediction: P}) {
  // `full` is the prediction at full size, so that a smaller scene keeps its relative error. It rests on quarters of a pixel.
  let size = 1, raw = [...P], full = [...P], nothing = false;
  const centre = [(T[0] + T[2]) / 2, (T[1] + T[3]) / 2];
  const svg = el("svg", {viewBox: `-0.1 -0.1 ${W + 0.2} ${H + 0.2}`, role: "group", "aria-label": "Pixels of the scene"});
  svg.innerHTML = `<defs>
    <pattern id="fp" width=".5" height=".5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
      <rect width=".5" height=".5" style="fill:var(--fp)"/><rect width=".16" height=".5" style="fill:var(--bg)"/></pattern>
    <pattern id="fn" width=".5" height=".5" patternUnits="userSpaceOnUse">
      <rect width=".5" height=".5" style="fill:var(--fn)"/><circle cx=".25" cy=".25" r=".12" style="fill:var(--bg)"/></pattern>
    <pattern id="grid" width="1" height="1" patternUnits="userSpaceOnUse">
      <path d="M1 0H0V1" fill="none" stroke-width=".05" style="stroke:var(--line)"/></pattern>
    <clipPath id="inside"><polygon/></clipPath></defs>`;
  const fills = {tp: "var(--tp)", fp: "url(#fp)", fn: "url(#fn)", tn: "var(--wash)"};
  const shape = (fill, tag = "polygon", attributes = {}) => el(tag, {style: `fill:${fill}`, ...attributes});
  const ground = [fills.tn, "url(#grid)"].map(fill => shape(fill, "rect", {width: W, height: H}));
  const missed = shape(fills.fn), [invented, hit] = [fills.fp, fills.tp].map(fill => shape(fill, "polygon", {class: "said"})), inside = svg.querySelector("#inside polygon");
  hit.setAttribute("clip-path", "url(#inside)");
  const outline = el("polygon", {class: "truth"});
  const body = el("polygon", {class: "pred", tabindex: 0, role: "slider", "aria-label": "Position of the predicted mask",
    "aria-valuemin": 0, "aria-valuemax": W});
  const corner = el("g", {class: "corner", tabindex: 0, role: "slider", "aria-label": "Size of the predicted mask",
    "aria-valuemin": 1, "aria-valuemax": W}, el("circle", {r: 1.4, fill: "transparent"}), el("circle", {r: 0.55, class: "dot"}));
  svg.append(...ground, missed, invented, hit, outline, body, corner);

  const counts = {}, key = el("div", {class: "key num"});
  for (const [id, text] of [["tp", "TP hit"], ["fp", "FP false alarm"], ["fn", "FN missed"], ["tn", "TN rest"]]) {
    const swatch = el("svg", {viewBox: "0 0 1 1", class: "swatch", "aria-hidden": "true"},
      el("rect", {width: 1, height: 1, rx: 0.12, stroke: "var(--line)", "stroke-width": 0.06}));
    // A pattern is looked up in its own tree, so the swatch can use the big drawing's.
    swatch.firstChild.style.fill = fills[id];
    counts[id] = el("b");
    key.append(el("span", {}, swatch, text + " ", counts[id]));
  }
  const bars = {}, panel = el("div", {class: "panel num"});
  for (const [id, name] of [["accuracy", "Pixel accuracy"], ["iou", "IoU"], ["dice", "Dice"]]) {
    const b = bars[id] = {value: el("b"), fill: el("i"), sum: el("small")};
    panel.append(el("div", {class: "bar"}, el("div", {}, name, b.value), el("div", {class: "track"}, b.fill), b.sum));
  }
  const scale = slider("Object size", {min: 40, max: 100, step: 10, value: 100, show: v => v + "%"}, v => {
    size = v / 100;
    draw();
  });
  const none = el("button", {type: "button", "aria-pressed": "false", onclick: () => { nothing = !nothing; draw(); }},
    "Predict nothing");
  const reset = el("button", {type: "button", onclick: () => {
    [size, raw, full, nothing] = [1, [...P], [...P], false];
    scale.set(100);
    draw();
  }}, "Reset");
  const say = card(root, "Drag a mask, watch its scores", `
    :host { --tp: var(--green); --fp: var(--orange); --fn: #4aa3dc; }
    .scene { flex: 1 1 380px; min-width: 0; } .panel { flex: 1 1 230px; }
    .truth { fill: none; stroke: var(--ink); stroke-width: .13; pointer-events: none; }
    .pred { fill: transparent; stroke: var(--ink); stroke-width: .16; stroke-dasharray: .34 .26; cursor: move; }
    .corner { cursor: nwse-resize; } .dot { fill: var(--bg); stroke: var(--ink); stroke-width: .16; }
    .off .pred, .off .corner, .off .said { display: none; }
    .key { display: flex; flex-wrap: wrap; gap: 3px 16px; margin-top: 10px; } .key span { white-space: nowrap; }
    .swatch { display: inline-block; width: 14px; height: 14px; margin-right: 6px; vertical-align: -2px; }
    .bar { margin-bottom: 12px; } .bar > div:first-child { display: flex; justify-content: space-between; }
    .bar b { font-size: 18px; line-height: 1.1; } .bar small { color: var(--soft); font-size: 12.5px; white-space: pre-line; display: block; margin-top: 3px; }
    .track { height: 12px; border-radius: 6px; background: var(--wash); border: 1px solid var(--line); overflow: hidden; }
    .track i { display: block; height: 100%; background: var(--blue); }`,
    el("p", {class: "lead"}, "Drag the dashed prediction over the true house, or resize it by its corner. "
      + "Then shrink both: accuracy climbs, IoU and Dice stay as they are. Areas are exact, in pixels of the grid."),
    el("div", {class: "row"}, el("div", {class: "scene"}, svg, key), panel),
    el("div", {class: "controls"}, scale.root, none, reset));

  function draw() {
    const truth = scaleBox(T, centre, size), pred = scaleBox(full, centre, size), s = scores(truth, nothing ? null : pred, W * H);
    for (const e of [missed, outline, inside]) e.setAttribute("points", ROOF(truth));
    for (const e of [invented, hit, body]) e.setAttribute("points", ROOF(pred));
    corner.setAttribute("transform", `translate(${pred[2]} ${pred[3]})`);
    svg.classList.toggle("off", nothing);
    none.setAttribute("aria-pressed", nothing);
    const [tp, fp, fn, tn] = ["tp", "fp", "fn", "tn"].map(id => (counts[id].textContent = Math.abs(s[id]).toFixed(1)));
    const sums = {accuracy: `(TP + TN) / all\n= (${tp} + ${tn}) / ${W * H}`,
      iou: `TP / (TP + FP + FN)\n= ${tp} / (${tp} + ${fp} + ${fn})`,
      dice: `2 TP / (2 TP + FP + FN)\n= 2 · ${tp} / (2 · ${tp} + ${fp} + ${fn})`};
    for (const id in bars) {
      const v = s[id];
      bars[id].value.textContent = isNaN(v) ? "0 / 0" : v.toFixed(3);
      bars[id].fill.style.width = `${100 * (v || 0)}%`;
      bars[id].sum.textContent = sums[id];
    }
    const [x0, y0, x1, y1] = pred.map(v => v.toFixed(1));
    body.setAttribute("aria-valuenow", x0);
    body.setAttribute("aria-valuetext", `left ${x0}, top ${y0}`);
    corner.setAttribute("aria-valuenow", (x1 - x0).toFixed(1));
    corner.setAttribute("aria-valuetext", `${(x1 - x0).toFixed(1)} wide, ${(y1 - y0).toFixed(1)} high`);
    say(`Pixel accuracy ${bars.accuracy.value.textContent}, IoU ${bars.iou.value.textContent}, Dice ${bars.dice.value.textContent}.`);
  }
  const rest = next => { raw = next; full = raw.map(v => Math.round(4 * v) / 4); draw(); };
  drag(body, svg, (dx, dy) => {
    dx = clamp(dx / size, -raw[0], W - raw[2]);
    dy = clamp(dy / size, -raw[1], H - raw[3]);
    rest(raw.map((v, i) => v + (i % 2 ? dy : dx)));
  }, 0.5);
  drag(corner, svg, (dx, dy) =>
    rest([raw[0], raw[1], clamp(raw[2] + dx / size, raw[0] + 1, W), clamp(raw[3] + dy / size, raw[1] + 1, H)]), 0.5);
  draw();
}
