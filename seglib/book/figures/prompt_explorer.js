// A scene to click on: the three masks of a click, those of an object's box, and those after more clicks.

// A table of masks h × w in a black and white image → done(masks), masks[row][column] as arrays of 0 and 1.
export function unpackMasks(address, rows, columns, [h, w], done) {
  ground(address, columns * w, rows * h, (pixels, loaded) => {
    const of = (r, c) => Uint8Array.from({length: h * w}, (_, i) => pixels[4 * ((r * h + Math.floor(i / w)) * columns * w + c * w + i % w)] >> 7);
    if (loaded) done(Array.from({length: rows}, (_, r) => Array.from({length: columns}, (_, c) => of(r, c))));
  });
}

const show = percent => (percent / 100).toFixed(2).replace("-", "−");
export const highest = list => list.indexOf(Math.max(...list));

// What is said of a click: its object's name (or none), predicted IoU of each answer, and true IoU with each level.
export function tellClick(name, levels, said, true_) {
  if (!true_) return "No object lies under the click, so its answers have no true IoU.";
  const k = highest(said), own = true_.map(v => v[0]), best = highest(own), level = highest(true_[k]);
  const other = own[best] > own[k] ? ` Answer ${best + 1} would fit the object better: ${show(own[best])}.` : " No other answer fits the object better.";
  return `Under the click: ${name}. Answer ${k + 1} has the highest predicted IoU and is chosen; its IoU with the object is ${show(own[k])}`
    + (level ? `, with its ${levels[level]} ${show(true_[k][level])}.` : ".") + other;
}

// What is said of three answers for one object: from its box, or after more clicks (with the labels of the last two).
export const tellBox = (name, [centre, box, both]) => `IoU with the ${name}: ${show(centre)} from a click on its centre, ${show(box)} from its box, ${show(both)} from both.`;
export function tellMore(name, [one, two, three], labels) {
  const said = labels.map((label, i) => `The ${["second", "third"][i]} click ${label ? "adds what was missed" : "takes away what was too much"}.`);
  return `IoU with the ${name}: ${show(one)} after one click, ${show(two)} after two, ${show(three)} after three. ${said.join(" ")}`;
}

// The object that holds a place, else the one whose centre is nearest. x and y in pixels of the image.
export function pick(truth, centres, x, y, [H, W], [h, w]) {
  const at = Math.floor(y * h / H) * w + Math.floor(x * w / W), on = truth.findIndex(mask => mask[at]);
  const far = centres.map(([cx, cy]) => Math.hypot(cx + 0.5 - x, cy + 0.5 - y));
  return on >= 0 ? on : far.indexOf(Math.min(...far));
}

export function render(root, p) {
  const sheet = (address, rows, columns) => new Promise(done => unpackMasks(address, rows, columns, p.cells, done)), n = p.names.length;
  const each = p.models.map(m => Promise.all([sheet(m.clicks, p.grid, 3 * p.grid).then(rows => rows.flat()), sheet(m.stages, n, 5)]));
  Promise.all([sheet(p.truth, p.levels.length, n), ...each]).then(([truth, ...masks]) => start(root, p, truth, masks));
}

function start(root, p, truth, masks) {
  const [VH, VW] = p.view, [H, W] = p.size, [h, w] = p.cells, g = p.grid, rows = halves(h, VH), columns = halves(w, VW), unit = Math.max(W, H) / 36;
  const PROMPTS = ["One click", "A box", "More clicks"];
  let who = 0, prompt = 0, [cx, cy] = p.start, object = Math.max(0, p.under[cy * g + cx]), pixels = null, dotted = null;
  const none = new Uint8Array(VH * VW), seen = new WeakMap();
  // A mask at the resolution of the image that is shown.
  const fine = mask => {
    if (!seen.has(mask)) seen.set(mask, Uint8Array.from(resample(mask, h, w, rows, columns), v => v >= 0.5));
    return seen.get(mask);
  };
  const pane = (...more) => {
    const canvas = el("canvas", {width: VW, height: VH, role: "img"}), over = el("svg", {viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true"});
    const name = el("div", {class: "name"}), note = el("p", {class: "note num"}), stage = el("div", {class: "stage"}, canvas, over);
    return {canvas, over, name, note, stage, root: el("div", {class: "pane"}, name, stage, note, ...more)};
  };
  const scale = el("span", {class: "scale"}, "0", el("i"), "1.");
  const scene = pane(), answers = [pane(), pane(), pane()], status = el("p", {class: "status num"}), mean = el("p", {class: "note mean"});
  const buttons = (names, press) => names.map((name, i) => el("button", {type: "button", onclick: () => { press(i); draw(); }}, name));
  const models = buttons(p.models.map(m => m.name), i => { who = i; }), prompts = buttons(PROMPTS, i => { prompt = i; });
  const group = (label, list) => el("div", {class: "controls", role: "group", "aria-label": label}, el("b", {}, label), ...list);
  const dots = el("g"), asked = el("g");
  scene.over.append(dots, asked);
  scene.root.classList.add("scene");
  scene.stage.tabIndex = 0;
  scene.stage.setAttribute("role", "slider");
  const say = card(root, "A scene to click on, and the masks that answer", MAPS + `
    .board { display: grid; grid-template-columns: minmax(0, 1.75fr) repeat(3, minmax(0, 1fr)); gap: 8px 12px; margin-top: 12px; } .pane { max-width: none; }
    .scene { grid-row: 1 / 3; } .scene .stage { cursor: crosshair; touch-action: pan-y; } .says { grid-column: 2 / 5; } .status { margin: 0; min-height: 5.8em; }
    .controls { margin: 6px 0 0; gap: 6px 8px; } .controls b { min-width: 3.6em; } .name { font-size: 13.5px; line-height: 1.3; min-height: 1.3em; }
    .chosen .stage { outline: 3px solid var(--accent); } .chosen .name { color: var(--accent); } .answer .note { white-space: pre-line; min-height: 2.6em; }
    .scale { white-space: nowrap; } .scale i { display: inline-block; width: 74px; height: 9px; margin: 0 5px; background: linear-gradient(90deg, ${[0, 1, 2, 3, 4].map(i => `rgb(${viridis(i / 4)})`)}); }
    .mean { margin: 8px 0 0; min-height: 2.6em; } .frame { fill: none; } :host { container-type: inline-size; }
    @container (max-width: 560px) { .board { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; } .scene { grid-row: auto; } .scene, .says { grid-column: 1 / 4; }
      .answer .note { min-height: 3.9em; } }`,
    el("p", {class: "lead"}, "Move over the scene, or use the arrow keys. Orange: the mask that the model answers. Dashes: the true one that it fits best."),
    ...p.models.length > 1 ? [group("Model", models)] : [], group("Prompt", prompts),
    el("div", {class: "board"}, scene.root, ...answers.map(a => a.root), el("div", {class: "says"}, status, mean)));
  answers.forEach(a => a.root.classList.add("answer"));

  const spot = i => [i % g, Math.floor(i / g)].map((v, k) => Math.floor((v + 0.5) * [W, H][k] / g) + 0.5);
  // Clicks and boxes as they were asked: a disc with a plus on the object, a square with a minus on the background.
  const click = ([x, y, label = 1], r) => {
    const sign = `M${x - 0.55 * r} ${y}h${1.1 * r}` + (label ? `M${x} ${y - 0.55 * r}v${1.1 * r}` : "");
    const shape = label ? el("circle", {cx: x, cy: y, r}) : el("rect", {x: x - r, y: y - r, width: 2 * r, height: 2 * r});
    for (const [key, v] of Object.entries({fill: label ? "#0b7a3e" : "#b3261e", stroke: "#fff", "stroke-width": r / 4})) shape.setAttribute(key, v);
    return [shape, el("path", {d: sign, stroke: "#fff", "stroke-width": r / 3})];
  };
  const frame = ([x0, y0, x1, y1]) => [["#000", 0.4], ["#fff", 0.2]].map(([stroke, share]) => el("rect", {x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: "frame", stroke, "stroke-width": share * unit}));
  const dot = ([x, y], r, fill, opacity) => el("circle", {cx: x, cy: y, r, fill, "fill-opacity": opacity, stroke: "#000", "stroke-width": r / 5, "stroke-opacity": opacity});

  // The three panes of the prompt: name, mask, predicted IoU, true IoU with each level, and the marks of what was asked.
  function found() {
    const m = p.models[who], [grid, stages] = masks[who];
    if (!prompt) {
      const i = cy * g + cx, k = highest(m.said[i]);
      return m.said[i].map((said, a) => ({name: `Answer ${a + 1}`, chosen: a === k, mask: grid[3 * i + a], said, ious: m.true[i] && m.true[i][a], object: p.under[i], clicks: [spot(i)]}));
    }
    const clicks = m.steps[object].clicks.map(([x, y, label]) => [x + 0.5, y + 0.5, label]), box = p.boxes[object];
    const list = prompt === 1 ? [["Its centre", 0, 1, null], ["Its box", 3, 0, box], ["Box and centre", 4, 1, box]] : ["One click", "Two clicks", "Three clicks"].map((name, i) => [name, i, i + 1, null]);
    return list.map(([name, s, count, frame]) => ({name, mask: stages[object][s], said: m.steps[object].said[s], ious: [m.steps[object].true[s]], object, clicks: clicks.slice(0, count), box: frame}));
  }

  function draw() {
    const m = p.models[who], i = cy * g + cx, list = found(), at = list[0].object, true_ = list.map(a => a.ious);
    if (pixels) {
      overlay(scene.canvas, pixels, none, at >= 0 ? fine(truth[0][at]) : null);
      list.forEach((a, k) => overlay(answers[k].canvas, pixels, fine(a.mask), at >= 0 ? fine(truth[highest(a.ious)][at]) : null));
    }
    const last = list[2], marks = (a, r) => [...a.box ? frame(a.box) : [], ...a.clicks.flatMap(c => click(c, r))];
    if (dotted !== [who, !prompt].join()) {
      const own = k => m.true[k][highest(m.said[k])][0] / 100, r = Math.min(W, H) / g / 5;
      dots.replaceChildren(...prompt ? p.centres.map(([x, y]) => dot([x + 0.5, y + 0.5], 0.5 * unit, "#fff", 1))
        : p.under.map((o, k) => o < 0 ? dot(spot(k), 0.6 * r, "#fff", 0.45) : dot(spot(k), r, `rgb(${viridis(own(k))})`, 1)));
      dotted = [who, !prompt].join();
    }
    asked.replaceChildren(...marks(last, 0.75 * unit));
    list.forEach((a, k) => {
      const {root: tile, name, note, over, canvas} = answers[k], level = a.ious ? highest(a.ious) : 0;
      tile.classList.toggle("chosen", !!a.chosen);
      name.textContent = a.chosen ? `${a.name} ✓` : a.name;
      note.textContent = `predicted ${show(a.said)}\n${a.ious ? `true ${show(a.ious[level])}${level ? ` (${p.levels[level]})` : ""}` : "no true IoU"}`;
      over.replaceChildren(...marks(a, 1.1 * unit));
      canvas.setAttribute("aria-label", `${a.name}${a.chosen ? ", chosen" : ""}: ${note.textContent.replace("\n", ", ")}`);
    });
    scene.name.textContent = prompt ? `Object ${object + 1} of ${p.names.length}: ${p.names[object]}` : `Click: column ${cx + 1}, row ${cy + 1}`;
    scene.note.replaceChildren(...prompt ? ["Dots: centres of the objects"] : ["Chosen answer's IoU: ", scale, " White dots: no object."]);
    scene.canvas.setAttribute("aria-label", "The scene");
    status.textContent = !prompt ? tellClick(p.names[at], p.levels, m.said[i], true_[0] && true_)
      : (prompt === 1 ? tellBox : tellMore)(p.names[at], true_.map(v => v[0]), last.clicks.slice(1).map(c => c[2]));
    mean.textContent = prompt || !m.on ? "" : `Of all ${m.on} clicks on objects: mean IoU ${show(m.mean[0])} of the chosen answer, ${show(m.mean[1])} of the best of three.`;
    models.forEach((b, k) => b.setAttribute("aria-pressed", k === who));
    prompts.forEach((b, k) => b.setAttribute("aria-pressed", k === prompt));
    const values = prompt ? ["Object; arrow keys go on to the next", object, p.names.length - 1] : ["Click; arrow keys move it", i, g * g - 1];
    ["aria-label", "aria-valuenow", "aria-valuemax"].forEach((key, k) => scene.stage.setAttribute(key, values[k]));
    scene.stage.setAttribute("aria-valuemin", 0);
    scene.stage.setAttribute("aria-valuetext", `${scene.name.textContent}${prompt ? "" : `: ${at < 0 ? "no object" : p.names[at]}`}`);
    say(`${scene.name.textContent}. ${status.textContent}`);
  }

  function follow(e) {
    const box = scene.stage.getBoundingClientRect(), x = (e.clientX - box.left) / box.width, y = (e.clientY - box.top) / box.height;
    if (prompt) choose(pick(truth[0], p.centres, x * W, y * H, p.size, p.cells));
    else go(Math.floor(x * g), Math.floor(y * g));
  }
  function go(x, y) {
    const before = [cx, cy].join();
    [cx, cy] = [clamp(x, 0, g - 1), clamp(y, 0, g - 1)];
    if (p.under[cy * g + cx] >= 0) object = p.under[cy * g + cx];
    if ([cx, cy].join() !== before) draw();
  }
  function choose(i) {
    const before = object;
    object = i;
    if (i !== before) draw();
  }
  scene.stage.addEventListener("pointerdown", follow);
  scene.stage.addEventListener("pointermove", follow);
  arrows(scene.stage, (dx, dy) => prompt ? choose((object + dx + dy + p.names.length) % p.names.length) : go(cx + dx, cy + dy));
  ground(p.image, VW, VH, read => { pixels = read; draw(); });
}
