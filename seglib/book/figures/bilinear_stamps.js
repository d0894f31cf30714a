// Upsampling along one axis: every cell stamps its value times a kernel, and the stamps add up to the upsampled line.

// The weights of a cell: a tent of 2f pixels (bilinear) or a box of f (nearest), and the pixels cut off on either side.
export function weights(name, f) {
  if (name === "box") return {kernel: Array(f).fill(1), cut: 0};
  return {kernel: Array.from({length: 2 * f}, (_, t) => 1 - Math.abs(t + 0.5 - f) / f), cut: f / 2};
}

// The upsampled line after the first `steps` cells, n·f pixels.
export function upsampled(values, name, f, steps = Infinity) {
  const {kernel, cut} = weights(name, f), out = Array(values.length * f).fill(0);
  values.slice(0, steps).forEach((v, i) => kernel.forEach((w, t) => {
    const o = i * f + t - cut;
    if (o >= 0 && o < out.length) out[o] += v * w;
  }));
  return out;
}

const W = 420, H = 236, FLOOR = 196, TOP = 4, UNIT = 44, SIDE = 10;
const short = v => String(+v.toFixed(3));

export function render(root, {values: start, factor: F, kernel: name0}) {
  const values = [...start], n = values.length;
  let f = F, name = name0, step = n, pixel = Math.floor(n * F / 2), timer = null;
  const at = o => SIDE + (o + f / 2) * (W - 2 * SIDE) / (n * f + f); // left edge of pixel o
  const up = v => FLOOR - v * UNIT;
  const svg = el("svg", {viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": "Stamps and their sum"});
  const back_ = el("g"), lines = el("g"), marks = el("g"), status = el("p", {class: "status num"});
  const handles = values.map((_, i) => {
    const handle = el("circle", {r: 8, class: "knob", tabindex: 0, role: "slider", "aria-label": `Value of cell ${i}`, "aria-valuemin": 0, "aria-valuemax": TOP});
    let raw = values[i];
    handle.addEventListener("pointerdown", () => { raw = values[i]; });
    drag(handle, svg, (dx, dy) => {
      raw = clamp(raw - dy / UNIT, 0, TOP);
      values[i] = Math.round(raw * 4) / 4;
      draw();
    }, UNIT / 4);
    handle.addEventListener("click", e => e.stopPropagation());
    return handle;
  });
  svg.append(back_, lines, marks, ...handles);

  const stop = () => { clearInterval(timer); timer = null; };
  const go = to => { step = clamp(to, 0, n); draw(); };
  const button = (text, label, act) => el("button", {type: "button", "aria-label": label, onclick: act}, text);
  const back = button("‹", "One stamp back", () => { stop(); go(step - 1); });
  const play = button("▶", "Play", () => {
    if (timer) { stop(); return draw(); }
    if (step === n) step = 0;
    timer = setInterval(() => { if (step + 1 >= n || !play.isConnected) stop(); go(step + 1); }, 900);
    go(step + 1);
  });
  const next = button("›", "One stamp on", () => { stop(); go(step + 1); });
  const steps = slider("Stamped cells", {min: 0, max: n, value: step, show: v => `${v} of ${n}`}, v => { stop(); go(v); });
  const factors = slider("Factor f", {min: 2, max: 8, step: 2, value: f}, v => { pixel = Math.floor(pixel * v / f); f = v; draw(); });
  const choose = kind => el("button", {type: "button", onclick: () => { name = kind; draw(); }});
  const kinds = {tent: choose("tent"), box: choose("box")};
  const pick = o => { pixel = clamp(o, 0, n * f - 1); draw(); };
  svg.addEventListener("click", e => {
    const box = svg.getBoundingClientRect(), x = (e.clientX - box.left) * W / box.width;
    pick(Math.floor((x - at(0)) / (at(1) - at(0))));
  });
  const pixels = slider("Chosen pixel", {min: 0, max: n * f - 1, value: pixel}, pick);

  const say = card(root, "Stamps that add up to an interpolation", `
    svg { max-width: 640px; margin: 0 auto; cursor: pointer; }
    svg text { fill: var(--soft); font-size: 11px; text-anchor: middle; pointer-events: none; }
    .sum { fill: color-mix(in srgb, var(--blue) 34%, var(--bg)); } .sum.chosen { fill: var(--accent); }
    .stamp { fill: none; stroke: var(--ink); stroke-width: 1.4; opacity: .75; } .stamp.new { stroke: var(--accent); stroke-width: 2.6; opacity: 1; }
    .axis { stroke: var(--line); } .edge { stroke: var(--soft); stroke-dasharray: 4 3; }
    .knob { fill: var(--bg); stroke: var(--blue); stroke-width: 3; cursor: ns-resize; } .status { min-height: 4.4em; }`,
    el("p", {class: "lead"}, "Each cell stamps its value times the kernel (lines); the bars are the sum so far. Drag a ring to "
      + "change a value, pick a pixel to see its sum."),
    svg, status, el("div", {class: "controls"}, back, play, next, steps.root),
    el("div", {class: "controls"}, pixels.root, factors.root, kinds.tent, kinds.box));

  function draw() {
    const {kernel, cut} = weights(name, f), out = upsampled(values, name, f, step), wide = at(1) - at(0);
    back_.replaceChildren(...out.map((v, o) => el("rect", {class: o === pixel ? "sum chosen" : "sum", "data-value": short(v),
      x: at(o) + wide * 0.08, width: wide * 0.84, y: Math.min(up(v), FLOOR - 1.5), height: Math.max(v * UNIT, 1.5)})));
    lines.replaceChildren(el("line", {class: "axis", x1: 0, x2: W, y1: FLOOR, y2: FLOOR}),
      ...[0, n * f].map(o => el("line", {class: "edge", x1: at(o), x2: at(o), y1: 10, y2: FLOOR + 6})),
      ...values.slice(0, step).map((v, i) => {
        const dots = kernel.map((w, t) => [at(i * f + t - cut + 0.5), up(v * w)]);
        const first = at(i * f - cut), last = at(i * f + kernel.length - cut);
        const line = name === "box" ? [[first, FLOOR], [first, up(v)], [last, up(v)], [last, FLOOR]] : dots;
        return el("path", {class: i === step - 1 ? "stamp new" : "stamp", d: "M" + line.map(p => p.map(c => c.toFixed(1)).join(" ")).join("L")});
      }));
    marks.replaceChildren(...values.map((_, i) => el("text", {x: at(f * (i + 0.5)), y: FLOOR + 18}, `cell ${i}`)), el("text", {x: W / 2, y: H - 6}, `${n * f} pixels of the large map`));
    handles.forEach((handle, i) => {
      handle.setAttribute("cx", at(f * (i + 0.5)));
      handle.setAttribute("cy", up(values[i]));
      handle.setAttribute("aria-valuenow", values[i]);
    });
    const terms = values.slice(0, step).map((v, i) => [v, kernel[pixel - i * f + cut]]).filter(([, w]) => w);
    const total = terms.reduce((sum, [, w]) => sum + w, 0);
    const sum = terms.length ? terms.map(([v, w]) => `${short(v)} · ${short(w)}`).join(" + ") + ` = ${short(out[pixel])}` : "no stamp yet";
    const rim = step === n && total < 0.999 ? " Beyond the border there is no cell, so the weights here sum to less than 1." : "";
    status.textContent = `Pixel ${pixel}: ${sum}. ${terms.length ? `Its weights sum to ${short(total)}.` : ""}${rim} `
      + (name === "tent" ? `The tent has k = 2f = ${2 * f} weights: linear interpolation.` : `The box has k = f = ${f} weights: nearest neighbour.`);
    pixels.set(pixel, n * f - 1);
    steps.set(step);
    play.textContent = timer ? "❚❚" : "▶";
    play.setAttribute("aria-label", timer ? "Pause" : "Play");
    back.disabled = step === 0;
    next.disabled = step === n;
    for (const [kind, key] of Object.entries(kinds)) {
      key.textContent = kind === "tent" ? `Tent, k = ${2 * f}` : `Box, k = ${f}`;
      key.setAttribute("aria-pressed", kind === name);
    }
    say(status.textContent);
  }
  draw();
}
