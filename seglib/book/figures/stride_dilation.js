// A stride that becomes a dilation: two layers of three weights over a signal, and the strided networks that their twin holds.

// What a layer of three weights makes of `map` at `place`, its taps `d` cells apart; beside the map are zeros.
const reads = (map, weights, place, d) => weights.reduce((sum, w, t) => sum + w * (map[place + (t - 1) * d] ?? 0), 0);

// The answers of the strided network that starts at cell `start`: layer 1 has stride `s`, layer 2 reads neighbours.
export function strided(x, a, b, s, start) {
  const first = [];
  for (let at = start; at < x.length; at += s) first.push(reads(x, a, at, 1));
  return first.map((_, j) => reads(first, b, j, 1));
}

// The dense twin: layer 1 without a stride, the taps of layer 2 `s` cells apart.
export function twin(x, a, b, s) {
  const first = x.map((_, i) => reads(x, a, i, 1));
  return first.map((_, i) => reads(first, b, i, s));
}

// Cells of layer 1 and of the input that one output reads, without those beside the map.
export function read(n, s, output) {
  const inside = cells => [...new Set(cells)].filter(i => i >= 0 && i < n).sort((p, q) => p - q);
  const first = inside([output - s, output, output + s]);
  return {first, input: inside(first.flatMap(i => [i - 1, i, i + 1]))};
}

const COLORS = ["blue", "orange", "green", "ink"], ROWS = ["output", "layer 1", "input"], LEFT = 3.1, STEP = 2.4;

export function render(root, {x, first: a, second: b, stride}) {
  const n = x.length;
  let s = stride, start = 0, output = 6;
  const svg = el("svg", {tabindex: 0, role: "slider", viewBox: `0 0 ${n + LEFT + 0.1} ${2 * STEP + 1.3}`, "aria-label": "Output",
    "aria-valuemin": 0, "aria-valuemax": n - 1});
  const lines = el("g"), cells = el("g");
  svg.append(lines, cells);
  ROWS.forEach((name, row) => {
    const label = el("text", {x: 0, y: row * STEP + 0.75, class: "name"});
    label.textContent = name;
    svg.append(label);
  });
  const status = el("p", {class: "status num"}), starts = el("div", {class: "controls starts", role: "group", "aria-label": "Network"});
  const size = slider("Stride s of layer 1", {min: 1, max: 4, value: s}, v => {
    s = v;
    start = start === null ? null : Math.min(start, s - 1);
    settle();
    build();
  });
  const say = card(root, "A stride becomes a dilation", `
    svg { cursor: pointer; touch-action: pan-y; margin-top: 14px; } svg text { fill: var(--ink); font-size: .52px; pointer-events: none; }
    text.name { font-size: .6px; } line { stroke: var(--soft); stroke-width: .06; }
    .chosen { stroke: var(--accent); stroke-width: .14; } .starts button { min-width: 2.6em; }`,
    el("p", {class: "lead"}, "Layer 1 has a stride, so only every s-th cell is computed. Start the strided network at the other cells "
      + "too, and interleave: that is the dense twin, whose layer 2 has dilation s. Choose an output to see what it reads."),
    el("div", {class: "controls"}, size.root), starts, svg, status);

  // The buttons are made anew only when their number changes, so that a pressed one keeps its focus.
  function build() {
    const choices = [...Array(s).keys(), null];
    starts.replaceChildren("Show", ...choices.map(at => el("button", {type: "button", onclick: () => { start = at; settle(); draw(); }},
      at === null ? "all: the dense twin" : `strided, from cell ${at}`)));
    draw();
  }

  // The nearest output that the chosen network has.
  function settle() {
    if (start === null) return;
    const own = [...Array(n).keys()].filter(i => i % s === start);
    output = own.reduce((best, i) => (Math.abs(i - output) < Math.abs(best - output) ? i : best));
  }

  function draw() {
    [...starts.querySelectorAll("button")].forEach((button, i) => button.setAttribute("aria-pressed", (i < s ? i : null) === start));
    const answers = twin(x, a, b, s), first = x.map((_, i) => reads(x, a, i, 1)), seen = read(n, s, output);
    const place = i => i + LEFT + 0.5, joins = [];
    for (const i of seen.first) {
      joins.push([output, 0.9, i, STEP]);
      for (const t of [i - 1, i, i + 1]) if (t >= 0 && t < n) joins.push([i, STEP + 0.9, t, 2 * STEP]);
    }
    lines.replaceChildren(...joins.map(([p, y1, q, y2]) => el("line", {x1: place(p), y1, x2: place(q), y2})));
    cells.replaceChildren(...[answers, first, x].flatMap((values, row) => values.flatMap((value, i) => {
      const shown = row === 2 || start === null || i % s === start;
      const chosen = [[output], seen.first, seen.input][row].includes(i);
      const square = el("rect", {x: i + LEFT + 0.05, y: row * STEP, width: 0.9, height: 0.9, rx: 0.14});
      square.style.fill = !shown ? "var(--wash)" : tint(row === 2 ? "ink" : COLORS[i % s], row === 2 ? 0.14 : 0.42);
      if (chosen) square.setAttribute("class", "chosen");
      const text = el("text", {x: i + LEFT + 0.5, y: row * STEP + 0.64, "text-anchor": "middle"});
      text.textContent = shown ? String(value).replace("-", "−") : "";
      return [square, text];
    })));
    const from = output % s, at = (output - from) / s, said = v => String(v).replace("-", "−");
    const where = `answer ${at} of the strided network from cell ${from}`;
    const value = said(answers[output]), input = `input cells ${seen.input.join(", ")}`;
    svg.setAttribute("aria-valuenow", output);
    svg.setAttribute("aria-valuetext", `Output ${output} is ${value}, ${where}; it reads ${input}`);
    status.textContent = start === null
      ? `The dense twin has ${n} outputs. Its layer 2 has dilation ${s}. Output ${output} is ${value}: ${where}. It reads ${input}.`
      : `${[...Array(n).keys()].filter(i => i % s === start).length} answers: ${strided(x, a, b, s, start).map(said).join(", ")}. `
        + `Answer ${at} is ${value} and reads ${input}.`;
    say(status.textContent);
  }

  const go = to => { output = clamp(to, 0, n - 1); settle(); draw(); };
  arrows(svg, dx => {
    const to = output + dx * (start === null ? 1 : s);
    if (dx && to >= 0 && to < n) go(to);
  });
  const follow = e => {
    const box = svg.getBoundingClientRect();
    go(Math.floor((e.clientX - box.left) / box.width * (n + LEFT + 0.1) - LEFT));
  };
  svg.addEventListener("pointerdown", e => { svg.setPointerCapture(e.pointerId); follow(e); });
  svg.addEventListener("pointermove", e => { if (e.buttons) follow(e); });
  settle();
  build();
}
