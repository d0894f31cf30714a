// A mask to drag over the true one: pixel accuracy, IoU and Dice answer live.

// The cells (1 or 0, row by row) whose centres lie in a house that fills the box: a roof on the upper 40%, walls below.
export function house([x0, y0, x1, y1], width, height) {
  const cells = [];
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const u = (column + 0.5 - x0) / (x1 - x0) - 0.5, v = (row + 0.5 - y0) / (y1 - y0);
      cells.push(+(v >= 0 && v < 1 && Math.abs(u) < (v < 0.4 ? v / 0.8 : 0.4)));
    }
  return cells;
}

// Counts and scores of two masks; 0 / 0 is NaN.
export function scores(truth, pred) {
  let tp = 0, fp = 0, fn = 0, tn = 0;
  truth.forEach((t, i) => { if (t && pred[i]) tp++; else if (pred[i]) fp++; else if (t) fn++; else tn++; });
  return {tp, fp, fn, tn, accuracy: (tp + tn) / truth.length, iou: tp / (tp + fp + fn), dice: 2 * tp / (2 * tp + fp + fn)};
}

// A box scaled about a point: object and prediction shrink together, so their relative error stays.
export const scaleBox = (box, [cx, cy], factor) => box.map((v, i) => (i % 2 ? cy : cx) + (v - (i % 2 ? cy : cx)) * factor);

const ROOF = ([x0, y0, x1, y1]) => {
  const w = x1 - x0, eaves = y0 + 0.4 * (y1 - y0);
  return [[x0 + w / 2, y0], [x1, eaves], [x1 - w / 10, eaves], [x1 - w / 10, y1], [x0 + w / 10, y1], [x0 + w / 10, eaves],
    [x0, eaves]].map(p => p.join()).join(" ");
};

export function render(root, {width: W, height: H, truth: T, prediction: P}) {
  let size = 1, pred = [...P], nothing = false;
  const centre = [(T[0] + T[2]) / 2, (T[1] + T[3]) / 2];
  const svg = el("svg", {viewBox: `-0.1 -0.1 ${W + 0.2} ${H + 0.2}`, role: "group", "aria-label": "Pixels of the scene"});
  svg.innerHTML = `<defs>
    <pattern id="fp" width=".5" height=".5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
      <rect width=".5" height=".5" style="fill:var(--fp)"/><rect width=".16" height=".5" style="fill:var(--bg)"/></pattern>
    <pattern id="fn" width=".5" height=".5" patternUnits="userSpaceOnUse">
      <rect width=".5" height=".5" style="fill:var(--fn)"/><circle cx=".25" cy=".25" r=".12" style="fill:var(--bg)"/></pattern></defs>`;
  const fills = {tp: "var(--tp)", fp: "url(#fp)", fn: "url(#fn)", tn: "var(--wash)"};
  const cells = Array.from({length: W * H}, (_, i) =>
    el("rect", {x: i % W + 0.04, y: Math.floor(i / W) + 0.04, width: 0.92, height: 0.92, rx: 0.08}));
  const outline = el("polygon", {class: "truth"});
  const body = el("polygon", {class: "pred", tabindex: 0, role: "slider", "aria-label": "Position of the predicted mask",
    "aria-valuemin": 0, "aria-valuemax": W});
  const corner = el("g", {class: "corner", tabindex: 0, role: "slider", "aria-label": "Size of the predicted mask",
    "aria-valuemin": 1, "aria-valuemax": W}, el("circle", {r: 1.4, fill: "transparent"}), el("circle", {r: 0.55, class: "dot"}));
  svg.append(...cells, outline, body, corner);

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
    pred = scaleBox(pred, centre, v / 100 / size);
    size = v / 100;
    draw();
  });
  const none = el("button", {type: "button", "aria-pressed": "false", onclick: () => { nothing = !nothing; draw(); }},
    "Predict nothing");
  const reset = el("button", {type: "button", onclick: () => {
    [size, pred, nothing] = [1, [...P], false];
    scale.set(100);
    draw();
  }}, "Reset");
  const say = card(root, "Drag a mask, watch its scores", `
    :host { --tp: var(--green); --fp: var(--orange); --fn: #4aa3dc; }
    .scene { flex: 1 1 380px; min-width: 0; } .panel { flex: 1 1 230px; }
    .truth { fill: none; stroke: var(--ink); stroke-width: .13; pointer-events: none; }
    .pred { fill: transparent; stroke: var(--ink); stroke-width: .16; stroke-dasharray: .34 .26; cursor: move; }
    .corner { cursor: nwse-resize; } .dot { fill: var(--bg); stroke: var(--ink); stroke-width: .16; }
    .pred:focus-visible, .corner:focus-visible { outline-offset: 4px; }
    .off .pred, .off .corner { display: none; }
    .key { display: flex; flex-wrap: wrap; gap: 3px 16px; margin-top: 10px; } .key span { white-space: nowrap; }
    .swatch { display: inline-block; width: 14px; height: 14px; margin-right: 6px; vertical-align: -2px; }
    .bar { margin-bottom: 12px; } .bar > div:first-child { display: flex; justify-content: space-between; }
    .bar b { font-size: 18px; line-height: 1.1; } .bar small { color: var(--soft); font-size: 12.5px; white-space: pre-line; display: block; margin-top: 3px; }
    .track { height: 12px; border-radius: 6px; background: var(--wash); border: 1px solid var(--line); overflow: hidden; }
    .track i { display: block; height: 100%; background: var(--blue); }`,
    el("p", {class: "lead"}, "Drag the dashed prediction over the true house, or resize it by its corner. "
      + "Then shrink both: accuracy climbs, IoU and Dice do not follow."),
    el("div", {class: "row"}, el("div", {class: "scene"}, svg, key), panel),
    el("div", {class: "controls"}, scale.root, none, reset));

  function draw() {
    const truth = scaleBox(T, centre, size);
    const t = house(truth, W, H), p = nothing ? t.map(() => 0) : house(pred, W, H), s = scores(t, p);
    cells.forEach((c, i) => { c.style.fill = fills[t[i] ? (p[i] ? "tp" : "fn") : p[i] ? "fp" : "tn"]; });
    outline.setAttribute("points", ROOF(truth));
    body.setAttribute("points", ROOF(pred));
    corner.setAttribute("transform", `translate(${pred[2]} ${pred[3]})`);
    svg.classList.toggle("off", nothing);
    none.setAttribute("aria-pressed", nothing);
    for (const id in counts) counts[id].textContent = s[id];
    const {tp, fp, fn, tn} = s;
    const sums = {accuracy: `(TP + TN) / all\n= (${tp} + ${tn}) / ${t.length}`,
      iou: `TP / (TP + FP + FN)\n= ${tp} / (${tp} + ${fp} + ${fn})`,
      dice: `2 TP / (2 TP + FP + FN)\n= ${2 * tp} / (${2 * tp} + ${fp} + ${fn})`};
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
  drag(body, svg, (dx, dy) => {
    dx = clamp(dx, -pred[0], W - pred[2]);
    dy = clamp(dy, -pred[1], H - pred[3]);
    pred = pred.map((v, i) => v + (i % 2 ? dy : dx));
    draw();
  }, 0.5);
  drag(corner, svg, (dx, dy) => {
    pred = [pred[0], pred[1], clamp(pred[2] + dx, pred[0] + 1, W), clamp(pred[3] + dy, pred[1] + 1, H)];
    draw();
  }, 0.5);
  draw();
}
