// Non-maximum suppression: boxes to drag, a score for each, and for every dropped box the one that dropped it.

// Intersection over union of two boxes x0, y0, x1, y1; 0 where both are empty.
export function iou(a, b) {
  const side = (i, j) => Math.max(0, Math.min(a[j], b[j]) - Math.max(a[i], b[i]));
  const area = box => (box[2] - box[0]) * (box[3] - box[1]), inter = side(0, 2) * side(1, 3);
  const union = area(a) + area(b) - inter;
  return union > 0 ? inter / union : 0;
}

// The boxes that survive, by falling score, and for each box who dropped it (-1 for nobody). Of equal scores the earlier
// box comes first; a box whose IoU equals the threshold stays.
export function nms(boxes, scores, threshold) {
  const order = boxes.map((_, i) => i).sort((i, j) => scores[j] - scores[i] || i - j), kept = [], by = Array(boxes.length).fill(-1);
  for (const i of order) {
    const found = kept.find(k => iou(boxes[k], boxes[i]) > threshold);
    if (found === undefined) kept.push(i);
    else by[i] = found;
  }
  return {order, kept, by};
}

// Why box i stays or goes, in words.
export function why(i, boxes, scores, threshold, name = j => "ABCDEFGH"[j]) {
  const {order, by} = nms(boxes, scores, threshold), before = order.slice(0, order.indexOf(i));
  const over = j => iou(boxes[i], boxes[j]).toFixed(2), mute = before.filter(j => by[j] >= 0 && iou(boxes[i], boxes[j]) > threshold);
  const note = mute.length ? ` ${name(mute[0])} overlaps it by ${over(mute[0])}, but was dropped before and drops nobody.` : "";
  if (by[i] >= 0) return `${name(i)} is dropped by ${name(by[i])}, which has a higher score: IoU ${over(by[i])}, above ${threshold.toFixed(2)}.` + note;
  const rivals = before.filter(j => by[j] < 0).sort((j, k) => iou(boxes[i], boxes[k]) - iou(boxes[i], boxes[j]));
  if (!rivals.length) return `${name(i)} survives: it has the highest score.`;
  return `${name(i)} survives: of the survivors before it ${name(rivals[0])} overlaps it most, IoU ${over(rivals[0])}.` + note;
}

const PRESETS = {
  "Duplicates": [[[4, 5, 14, 21], [5, 4, 16, 20], [3, 7, 13, 22], [25, 9, 36, 19], [26, 8, 38, 19]], [0.9, 0.8, 0.7, 0.85, 0.6]],
  "A chain": [[[6, 8, 18, 19], [9, 8, 21, 19], [12, 8, 24, 19], [15, 8, 27, 19], [18, 8, 30, 19]], [0.9, 0.8, 0.7, 0.6, 0.5]],
  "Two people": [[[10, 3, 21, 25], [14, 4, 25, 25], [9, 4, 20, 25], [15, 3, 26, 25]], [0.95, 0.9, 0.6, 0.55]],
};
const W = 42, H = 28;

export function render(root, {boxes: first, scores: marks, threshold: limit}) {
  let boxes, scores, threshold = limit, chosen = 0, parts = [];
  const svg = el("svg", {viewBox: `-1.5 -1.5 ${W + 3} ${H + 3}`, role: "group", "aria-label": "Boxes to drag"});
  const list = el("div", {class: "list num"}), status = el("p", {class: "status num"});
  const cut = slider("IoU threshold", {min: 0, max: 1, step: 0.01, value: limit, show: v => v.toFixed(2)}, v => { threshold = v; draw(); });
  const starts = {"Reset": [first, marks], ...PRESETS};
  const buttons = Object.entries(starts).map(([name, start]) => el("button", {type: "button", onclick: () => build(...start)}, name));
  const say = card(root, "Non-maximum suppression", `
    .stage { flex: 1 1 320px; min-width: 0; } .side { flex: 1 1 280px; }
    .ground { fill: var(--wash); stroke: var(--line); stroke-width: .1; }
    .box { cursor: move; --focus: var(--ink); --line: color-mix(in srgb, var(--blue) 80%, var(--ink)); }
    .box rect { fill: transparent; stroke: var(--line); stroke-width: .42; }
    .box circle { fill: var(--bg); stroke: var(--line); stroke-width: .3; }
    .box text { font-size: 1.7px; font-weight: 600; fill: var(--ink); text-anchor: middle; pointer-events: none; }
    .gone { --line: var(--accent); } .gone rect { stroke-width: .25; stroke-dasharray: .8 .6; }
    .gone circle { stroke-width: .2; } .gone text { font-weight: 400; }
    .chosen rect { fill: color-mix(in srgb, var(--line) 14%, transparent); }
    .link { stroke: var(--accent); stroke-width: .25; stroke-dasharray: .1 .5; stroke-linecap: round; pointer-events: none; }
    .list > div { display: flex; flex-wrap: wrap; align-items: center; gap: 0 10px; border-bottom: 1px solid var(--line); padding: 2px 0; }
    .list input { width: 80px; } .list .fate { flex: 1 1 96px; color: var(--soft); } .list .stays { color: var(--ink); font-weight: 600; }`,
    el("p", {class: "lead"}, "Solid boxes survive; a dotted line leads from a dropped box to the one that dropped it. Drag the boxes or move them by the "
      + "arrow keys, change their scores and the threshold."),
    el("div", {class: "row"}, el("div", {class: "stage"}, svg), el("div", {class: "side"}, list)),
    el("div", {class: "controls"}, cut.root), status, el("div", {class: "controls"}, ...buttons));

  function build(startBoxes, startScores) {
    [boxes, scores, chosen] = [startBoxes.map(b => [...b]), [...startScores], 0];
    parts = boxes.map((_, i) => {
      const letter = "ABCDEFGH"[i], frame = el("rect"), dot = el("circle", {r: 1.25}), text = el("text");
      const g = el("g", {class: "box", tabindex: 0, role: "slider", "aria-label": `Box ${letter}`, "aria-valuemin": 0, "aria-valuemax": W},
        frame, dot, text);
      const link = el("line", {class: "link"}), fate = el("span", {class: "fate"});
      const score = slider(letter, {min: 0, max: 1, step: 0.01, value: scores[i], show: v => v.toFixed(2)}, v => { scores[i] = v; chosen = i; draw(); });
      score.root.querySelector("input").setAttribute("aria-label", `Score of ${letter}`);
      g.addEventListener("focus", () => { chosen = i; draw(); });
      drag(g, svg, (dx, dy) => {
        const b = boxes[i];
        [dx, dy] = [clamp(dx, -b[0], W - b[2]), clamp(dy, -b[1], H - b[3])];
        boxes[i] = b.map((v, k) => v + (k % 2 ? dy : dx));
        chosen = i;
        draw();
      }, 0.5);
      text.textContent = letter;
      return {g, frame, dot, text, link, fate, row: el("div", {}, score.root, fate), letter};
    });
    const area = i => (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]);
    const below = parts.map((_, i) => i).sort((i, j) => area(j) - area(i));  // small boxes on top, so that all can be grasped
    svg.replaceChildren(el("rect", {class: "ground", width: W, height: H}), ...parts.map(p => p.link), ...below.map(i => parts[i].g));
    list.replaceChildren(...parts.map(p => p.row));
    draw();
  }

  function draw() {
    const {kept, by} = nms(boxes, scores, threshold);
    // The letters sit at different corners, so that those of boxes that lie together stay apart.
    const at = i => { const [x0, y0, x1, y1] = boxes[i], k = i % 4; return [k % 2 ? x1 : x0, k < 2 ? y0 : y1]; };
    const set = (e, values) => { for (const [key, v] of Object.entries(values)) e.setAttribute(key, v); };
    parts.forEach((p, i) => {
      const [x0, y0, x1, y1] = boxes[i], gone = by[i] >= 0, j = gone ? by[i] : i;
      p.g.classList.toggle("gone", gone);
      p.g.classList.toggle("chosen", i === chosen);
      set(p.frame, {x: x0, y: y0, width: x1 - x0, height: y1 - y0});
      const [x, y] = at(i), [toX, toY] = at(j);
      set(p.dot, {cx: x, cy: y});
      set(p.text, {x, y: y + 0.6});
      set(p.link, {x1: x, y1: y, x2: toX, y2: toY});
      p.link.style.display = gone ? "" : "none";
      p.fate.textContent = gone ? `dropped by ${parts[j].letter}, IoU ${iou(boxes[i], boxes[j]).toFixed(2)}` : "survives";
      p.fate.classList.toggle("stays", !gone);
      set(p.g, {"aria-valuenow": x0.toFixed(1), "aria-valuetext": `left ${x0.toFixed(1)}, top ${y0.toFixed(1)}, ${p.fate.textContent}`});
    });
    status.textContent = `${kept.length} of ${boxes.length} boxes survive: ${kept.map(i => parts[i].letter).join(", ")}. `
      + why(chosen, boxes, scores, threshold);
    say(status.textContent);
  }
  build(first, marks);
}
