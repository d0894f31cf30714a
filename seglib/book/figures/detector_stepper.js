// A detector stopped after every stage: anchors, objectness, proposals, classes, refined boxes, masks, and all in the image.

// Intersection over union of two boxes x0, y0, x1, y1; 0 where both are empty.
export function overlap(a, b) {
  const side = (i, j) => Math.max(0, Math.min(a[j], b[j]) - Math.max(a[i], b[i]));
  const area = box => (box[2] - box[0]) * (box[3] - box[1]), inter = side(0, 2) * side(1, 3);
  const union = area(a) + area(b) - inter;
  return union > 0 ? inter / union : 0;
}

// Greedy NMS within each group: indices of the survivors by falling score, and for each box who dropped it (-1: nobody).
export function suppress(boxes, scores, groups, threshold) {
  const order = boxes.map((_, i) => i).sort((i, j) => scores[j] - scores[i] || i - j), kept = [], by = Array(boxes.length).fill(-1);
  for (const i of order) {
    const found = kept.find(k => groups[k] === groups[i] && overlap(boxes[k], boxes[i]) > threshold);
    if (found === undefined) kept.push(i);
    else by[i] = found;
  }
  return {kept, by};
}

// How many true boxes some box reaches with an IoU of one half or more; with labels, only boxes of the object's class.
export const reached = (truth, boxes, labels, own) =>
  truth.filter((t, n) => boxes.some((b, i) => (!labels || labels[i] === own[n]) && overlap(t, b) >= 0.5)).length;

// Everything that the settings decide: proposals (candidates' numbers), their answers above the score, and detections.
export function stages(p, nms, score, second) {
  const first = suppress(p.moved, p.scores, p.levels, nms), proposals = first.kept.slice(0, p.most), is = new Set(proposals);
  const above = p.answers.map((_, i) => i).filter(i => is.has(p.answers[i].of) && p.answers[i].score > score);
  const pick = key => above.map(i => p.answers[i][key]);
  const last = suppress(pick("box"), pick("score"), pick("label"), second);
  return {proposals, by: first.by, above, detections: last.kept.slice(0, p.most).map(i => above[i]), loser: last.by.map(i => i < 0 ? -1 : above[i]), of: above};
}

// Mask cells M × M in a box → probability at pixel (x, y) of the image; 0 beyond the mask.
export function read(mask, M, [x0, y0, x1, y1], x, y) {
  const u = (x + 0.5 - x0) / (x1 - x0) * M - 0.5, v = (y + 0.5 - y0) / (y1 - y0) * M - 0.5, i = Math.floor(u), j = Math.floor(v);
  const at = (r, c) => r < 0 || c < 0 || r >= M || c >= M ? 0 : mask[r * M + c];
  return (1 - v + j) * ((1 - u + i) * at(j, i) + (u - i) * at(j, i + 1)) + (v - j) * ((1 - u + i) * at(j + 1, i) + (u - i) * at(j + 1, i + 1));
}

const STAGES = ["Anchors", "Objectness", "Proposals", "Classes", "Refined boxes", "Masks", "In the image"];

export function render(root, p) {
  const [H, W] = p.size, show = v => v.toFixed(2), name = k => p.names[k];
  let stage = 2, chosen = p.start, masks = null, pixels = null, all, settings = {nms: p.nms, score: 0.5, second: 0.5};
  const canvas = el("canvas", {width: W, height: H, "aria-hidden": "true"});
  const svg = el("svg", {viewBox: `0 0 ${W} ${H}`, tabindex: 0, role: "slider", "aria-label": "Boxes by falling score; arrow keys go on to the next", "aria-valuemin": 1});
  const status = el("p", {class: "status num"}), story = el("ol", {class: "story num"}), recall = el("p", {class: "recall num"});
  const buttons = STAGES.map((text, i) => el("button", {type: "button", onclick: () => { stage = i; draw(); }}, `${i + 1} ${text}`));
  const set = (key, label, min, max) => slider(label, {min, max, step: 0.01, value: settings[key], show}, v => { settings[key] = v; all = null; draw(); }).root;
  const say = card(root, "The stages of a detector", `
    .stage { flex: 1 1 300px; min-width: 0; position: relative; } .side { flex: 1 1 240px; min-width: 0; }
    canvas { position: absolute; inset: 0; width: 100%; height: 100%; image-rendering: pixelated; }
    svg { position: relative; touch-action: manipulation; cursor: pointer; overflow: hidden; }
    svg rect { fill: none; vector-effect: non-scaling-stroke; } .story { margin: 0; padding-left: 1.5em; }
    .story li { margin: 2px 0; color: var(--soft); } .story li.now { color: var(--ink); font-weight: 600; }
    .recall { font-weight: 600; margin: 0 0 8px; } .status { min-height: 1.5em; }`,
    el("p", {class: "lead"}, "Step through the stages. Click or tap a box to follow it; the arrow keys go from box to box."),
    el("div", {class: "controls"}, ...buttons),
    el("div", {class: "row controls"}, el("div", {class: "stage"}, canvas, svg), el("div", {class: "side"}, recall, story)),
    el("div", {class: "controls"}, set("nms", "NMS of proposals", 0.05, 1), set("score", "score above", 0.05, 0.95), set("second", "NMS of detections", 0.05, 1)), status);

  // What a stage shows, by falling score: the box, the candidate that it comes from, its opacity, colour and answer.
  function shown() {
    const {proposals, detections} = all, answer = i => ({...p.answers[i], id: i, tone: 1, color: p.colors[p.answers[i].label]});
    if (stage < 2) return p.moved.map((_, i) => i).sort((i, j) => p.scores[j] - p.scores[i])
      .map(i => ({box: p.anchors[i], of: i, tone: stage ? Math.max(0.03, sigmoid(p.scores[i])) : 0.25, color: "#ffd400"}));
    if (stage === 2) return proposals.map(i => ({box: p.moved[i], of: i, tone: 0.85, color: "#ffd400"}));
    if (stage === 3) return all.above.map(answer).sort((a, b) => b.score - a.score).map(a => ({...a, box: p.moved[a.of]}));
    return detections.map(answer);
  }

  const best = of => p.answers.map((a, i) => ({...a, id: i})).filter(a => a.of === of).sort((a, b) => b.score - a.score)[0];
  // The life of the followed candidate, a line for each stage that it reaches.
  function life() {
    const i = chosen, size = b => `${(b[2] - b[0]).toFixed(0)} × ${(b[3] - b[1]).toFixed(0)}`, a = best(i);
    const lines = [`Anchor of ${size(p.anchors[i])} pixels`, `Objectness ${show(sigmoid(p.scores[i]))}`];
    if (all.by[i] >= 0) return [...lines, `Moved, then dropped by a box of its level with a higher score: IoU ${show(overlap(p.moved[i], p.moved[all.by[i]]))}`];
    if (!all.proposals.includes(i)) return [...lines, `Moved, but not among the best ${p.most}`];
    lines.push(`Proposal of ${size(p.moved[i])} pixels`);
    if (!a) return [...lines, "Background: no class above 0.05"];
    lines.push(`Most likely class: ${name(a.label)}, ${show(a.score)}`);
    if (a.score <= settings.score) return [...lines, "Dropped: its score is too low"];
    const k = all.of.indexOf(a.id);
    if (all.loser[k] >= 0) return [...lines, `Refined, then dropped by another ${name(a.label)}: IoU ${show(overlap(a.box, p.answers[all.loser[k]].box))}`];
    return [...lines, `Refined to ${size(a.box)} pixels`, "Mask of 28 × 28 cells", "Pasted into the image"];
  }

  function paint(list) {
    const pen = canvas.getContext("2d"), out = new ImageData(W, H);
    if (pixels) out.data.set(pixels);
    if (masks && stage > 4) for (const {box, id, color} of [...list].reverse()) {
      const rgb = [1, 3, 5].map(k => parseInt(color.slice(k, k + 2), 16));
      for (let y = Math.max(0, Math.floor(box[1])); y < Math.min(H, box[3]); y++) for (let x = Math.max(0, Math.floor(box[0])); x < Math.min(W, box[2]); x++) {
        const v = read(masks[id], p.cells, box, x, y), share = stage === 5 ? 0.85 : 0.65 * (v >= 0.5), paint = stage === 5 ? viridis(v) : rgb;
        for (let k = 0; k < 3; k++) out.data[4 * (y * W + x) + k] = (1 - share) * out.data[4 * (y * W + x) + k] + share * paint[k];
      }
    }
    pen.putImageData(out, 0, 0);
  }

  function draw() {
    all = all || stages(p, settings.nms, settings.score, settings.second);
    const list = shown(), at = list.findIndex(b => b.of === chosen), frame = ([x0, y0, x1, y1], stroke, width, opacity, dash = "") =>
      el("rect", {x: x0, y: y0, width: x1 - x0, height: y1 - y0, stroke, "stroke-width": width, "stroke-opacity": opacity, "stroke-dasharray": dash});
    paint(list);
    const own = at >= 0 ? list[at].box : stage < 2 ? p.anchors[chosen] : p.moved[chosen];
    svg.replaceChildren(...list.map(b => frame(b.box, b.color, 1.5, b.tone)).reverse(),
      frame(own, "#000", 5, 1, at < 0 ? "4 4" : ""), frame(own, "#fff", 2.5, 1, at < 0 ? "4 4" : ""));
    const labels = stage > 2 ? list.map(b => b.label) : null, N = p.truth.length;
    recall.textContent = `${reached(p.truth, list.map(b => b.box), labels, p.labels)} of ${N} objects reached`;
    const lines = life();
    story.replaceChildren(...lines.map((text, i) => el("li", {class: i === stage ? "now" : ""}, text)));
    status.textContent = `${STAGES[stage]}: ${list.length} ${stage < 2 ? "anchors" : stage === 2 ? "proposals" : stage === 3 ? "answers" : "detections"}. `
      + `An object is reached by a box with an IoU of 0.5 or more${stage > 2 ? " and its class" : ""}.`;
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === stage));
    const values = {"aria-valuemax": Math.max(1, list.length), "aria-valuenow": Math.max(1, at + 1), "aria-valuetext": lines[Math.min(stage, lines.length - 1)]};
    for (const [key, v] of Object.entries(values)) svg.setAttribute(key, v);
    say(`${recall.textContent}. ${status.textContent}`);
  }

  svg.addEventListener("pointerdown", e => {
    const box = svg.getBoundingClientRect(), x = (e.clientX - box.left) / box.width * W, y = (e.clientY - box.top) / box.height * H;
    const area = b => (b[2] - b[0]) * (b[3] - b[1]);
    const under = shown().filter(({box: b}) => b[0] <= x && x <= b[2] && b[1] <= y && y <= b[3]).sort((a, b) => area(a.box) - area(b.box));
    if (!under.length) return;
    chosen = under[(under.findIndex(b => b.of === chosen) + 1) % under.length].of;
    draw();
  });
  arrows(svg, (dx, dy) => {
    const list = shown(), at = list.findIndex(b => b.of === chosen);
    if (list.length) chosen = list[at < 0 ? 0 : (at + dx + dy + list.length) % list.length].of;
    draw();
  });
  ground(p.image, W, H, read => { pixels = read; draw(); });
  unpackMaps(p.masks, p.scales, p.cells, p.cells, found => { masks = found; draw(); });
}
