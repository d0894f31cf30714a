// Prototypes of a whole image, a slider for the coefficient of each, and the mask that their sum makes.

// Σ c_i P_i in every cell.
export const assemble = (maps, c) => maps[0].map((_, j) => maps.reduce((sum, map, i) => sum + c[i] * map[j], 0));

// The map with 0 where a cell's column i or row i doesn't lie in the box: x0 − p ≤ i < x1 + p. box: x0, y0, x1, y1 in cells.
export function crop(map, w, [x0, y0, x1, y1], p) {
  const inside = (i, low, high) => i >= low - p && i < high + p;
  return map.map((v, j) => inside(j % w, x0, x1) && inside(Math.floor(j / w), y0, y1) ? v : 0);
}

export const render = (root, p) => unpackMaps(p.maps, p.scales, p.h, p.w, maps => start(root, p, maps));

function start(root, p, maps) {
  const {h, w, names, coefficients, boxes} = p, [H, W] = p.size, k = maps.length;
  const limit = Math.max(1, ...coefficients.flat().map(v => Math.ceil(Math.abs(v))));
  let chosen = 0, c = [...coefficients[0]], cut = !!boxes, threshold = p.threshold, pixels;
  const rows = halves(h, H), columns = halves(w, W), text = v => v.toFixed(2).replace("-", "−");
  const probabilities = (values, on, d) => {
    const map = assemble(maps, values).map(sigmoid);
    return on ? crop(map, w, boxes[d], p.padding) : map;
  };
  const mask = (map, t) => Uint8Array.from(resample(map, h, w, rows, columns), v => v > t);
  const own = coefficients.map((values, d) => mask(probabilities(values, !!boxes, d), p.threshold));

  const heatmap = el("canvas", {width: w, height: h, role: "img"}), scene = el("canvas", {width: W, height: H, role: "img"});
  const frame = (name, fine) => el("svg", {viewBox: fine ? `0 0 ${W} ${H}` : `0 0 ${w} ${h}`, "aria-hidden": "true"}, el("rect", {class: name}));
  const frames = [frame("box", false), frame("box", true)], status = el("p", {class: "status num"});
  const pane = (name, canvas, over, note) => el("div", {class: "pane"}, el("div", {class: "name"}, name), el("div", {class: "stage"}, canvas, over), el("p", {class: "note"}, note));
  const button = (label, click, more = {}) => el("button", {type: "button", onclick: click, ...more}, label);
  const set = values => { c = [...values]; draw(); };
  const presets = names.map((name, d) => button(name, () => { chosen = d; set(coefficients[d]); }));
  const none = button("All 0", () => set(c.map(() => 0)));
  const crops = button("Crop by the box", () => { cut = !cut; draw(); });
  const level = slider("Threshold", {min: 0, max: 1, step: 0.01, value: threshold, show: v => v.toFixed(2)}, v => { threshold = v; draw(); });
  const cells = maps.map((map, i) => {
    const small = el("canvas", {width: w, height: h, "aria-hidden": "true"}), label = `Coefficient ${i}`;
    heat(small, map, ...range(map));
    const control = slider("", {min: -limit, max: limit, step: 0.01, value: c[i], show: text}, v => { c[i] = v; draw(); });
    const input = control.root.querySelector("input");
    input.setAttribute("aria-label", label);
    const alone = button(el("span", {class: "map"}, small, el("span", {class: "number"}, `${i}`)), () => set(c.map((_, j) => +(i === j))), {class: "small", "aria-label": `Prototype ${i} alone`, title: `Prototype ${i} alone`});
    const flip = button("±", () => { c[i] = -c[i]; draw(); }, {class: "flip", "aria-label": `Flip the sign of coefficient ${i}`, title: "Flip the sign"});
    const root = el("div", {class: "cell", role: "group", "aria-label": `Prototype ${i}`}, alone, control.root, flip);
    return {root, set: (v, any) => { control.set(v); root.classList.toggle("zero", any && v === 0); }};
  });
  const say = card(root, "Prototypes, coefficients and the mask that they make", MAPS + `
    .box { fill: none; stroke: #fff; stroke-width: 2px; stroke-dasharray: 5 3; vector-effect: non-scaling-stroke; filter: drop-shadow(0 0 1px #000); }
    .pane { max-width: 300px; } .controls { gap: 6px 8px; } .controls .range { margin-left: 8px; }
    .cells { display: grid; grid-template-columns: repeat(auto-fill, minmax(164px, 1fr)); gap: 8px 14px; margin-top: 14px; }
    .cell { display: grid; grid-template-columns: 52px minmax(0, 1fr) auto; gap: 0 8px; align-items: center; }
    .small { padding: 0; border-radius: 4px; overflow: hidden; min-height: 0; } .map { display: block; position: relative; }
    .number { position: absolute; left: 3px; top: 1px; color: #fff; font-size: 12px; line-height: 1.3; text-shadow: 0 0 2px #000, 0 0 2px #000; } .zero .small { opacity: .5; }
    .cell label.range { display: grid; gap: 0; } .cell input[type=range] { width: 100%; } .range b { font-size: 13px; line-height: 1.2; }
    .zero .range b { color: var(--soft); font-weight: 400; } .flip { padding: 0 8px; }
    @media (max-width: 480px) { .cells { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 10px; max-height: 300px; overflow-y: auto; padding: 4px; margin: 10px -4px 0; }
      .cell { grid-template-columns: 40px minmax(0, 1fr) auto; gap: 0 5px; } .flip { padding: 0 5px; } }`,
    el("p", {class: "lead"}, `All objects share ${k} prototypes of the whole image. Each brings ${k} coefficients of its own, and its mask is σ(Σ cᵢ Pᵢ). `
      + "Choose an object, then move its coefficients. A click on a prototype's map shows it alone."),
    el("div", {class: "panes"}, pane("σ(Σ cᵢ Pᵢ)", heatmap, frames[0], "Probability, from 0 (dark) to 1 (bright)"),
      pane("Mask", scene, frames[1], `Resized to the image, above ${p.threshold}`)),
    el("div", {class: "controls"}, ...presets, none, ...(boxes ? [crops] : []), level.root),
    el("div", {class: "cells"}, ...cells.map(e => e.root)), status);
  const note = scene.closest(".pane").querySelector(".note");

  // Which prototypes matter most inside the mask.
  function part(map) {
    const inside = [...map.keys()].filter(j => map[j] > threshold), parts = maps.map((m, i) => c[i] * inside.reduce((sum, j) => sum + m[j], 0) / inside.length);
    const most = parts.indexOf(Math.max(...parts)), least = parts.indexOf(Math.min(...parts));
    return (parts[most] > 0 ? `Inside it prototype ${most} adds most, ${text(parts[most])} on average. ` : "")
      + (parts[least] < 0 ? `Prototype ${least} takes most away, ${text(-parts[least])}.` : "");
  }

  function draw() {
    const map = probabilities(c, cut, chosen), found = mask(map, threshold), area = found.reduce((a, v) => a + v, 0);
    heat(heatmap, map, 0, 1);
    if (pixels) overlay(scene, pixels, found, own[chosen]);
    cells.forEach((e, i) => e.set(c[i], c.some(v => v)));
    presets.forEach((b, d) => b.setAttribute("aria-pressed", d === chosen));
    crops.setAttribute("aria-pressed", cut);
    frames.forEach((f, fine) => {
      f.style.display = cut ? "" : "none";
      if (!boxes) return;
      const scale = fine ? W / w : 1, [x0, y0, x1, y1] = boxes[chosen].map(v => v * scale);
      for (const [key, v] of Object.entries({x: x0, y: y0, width: x1 - x0, height: y1 - y0})) f.firstChild.setAttribute(key, v);
    });
    note.textContent = `Resized to the image, above ${threshold.toFixed(2)}. Dashes: ${names[chosen]}, as predicted`;
    status.textContent = `Mask: ${area} of ${W * H} pixels${cut ? ", cropped by the box with one cell around it" : ""}. IoU with the mask of ${names[chosen]} as predicted: ${maskIou(found, own[chosen]).toFixed(2)}. `
      + (c.some(v => v) ? part(map) : "All coefficients are 0: the probability is ½ everywhere.");
    heatmap.setAttribute("aria-label", `Probability in every cell, for ${names[chosen]}`);
    scene.setAttribute("aria-label", `Mask over the image: ${area} pixels`);
    say(status.textContent);
  }
  ground(p.image, W, H, found => { pixels = found; draw(); });
}
