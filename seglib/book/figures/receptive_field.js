// Which input cells one output cell reads, through a stack of convolutions with padding (k − 1) / 2, in one dimension.

// For every level (0 is the input): number of cells, receptive field r, jump j (the total stride) and the centre of cell 0.
//   r ← r + (k − 1)·j,  centre ← centre + ((k − 1)/2 − p)·j,  j ← j·s
export function levels(layers, cells) {
  let now = {cells, field: 1, jump: 1, centre: 0.5};
  const all = [now];
  for (const {k, s} of layers) {
    const p = Math.floor((k - 1) / 2);
    now = {
      cells: Math.floor((now.cells + 2 * p - k) / s) + 1,
      field: now.field + (k - 1) * now.jump,
      jump: now.jump * s,
      centre: now.centre + ((k - 1) / 2 - p) * now.jump,
    };
    all.push(now);
  }
  return all;
}

// For every level, on how many paths each cell reaches the output cell: what a stack of all-ones kernels would weigh it by.
export function paths(layers, cells, cell) {
  const all = levels(layers, cells);
  let counts = Array.from({length: all[layers.length].cells}, (_, i) => +(i === cell));
  const out = [counts];
  for (let l = layers.length - 1; l >= 0; l--) {
    const {k, s} = layers[l], p = Math.floor((k - 1) / 2), below = Array(all[l].cells).fill(0);
    counts.forEach((c, i) => {
      for (let a = i * s - p; a < i * s - p + k; a++) if (a >= 0 && a < below.length) below[a] += c;
    });
    out.unshift(counts = below);
  }
  return out;
}

const PRESETS = {
  "three 3×3": [[3, 1], [3, 1], [3, 1]],
  "one 7×7": [[7, 1]],
  "3×3 with strides": [[3, 2], [3, 2], [3, 1]],
  "VGG start": [[3, 1], [3, 1], [2, 2], [3, 1], [3, 1]],
};
const MOST = 5;

export function render(root, {layers: start, cells: N}) {
  let layers = start.map(([k, s]) => ({k, s})), cell = 0, left = 0, span = N;
  const svg = el("svg", {tabindex: 0, role: "slider", "aria-label": "Output cell", "aria-valuemin": 0});
  const table = el("table", {class: "num"}), status = el("p", {class: "status num"});
  const middle = () => Math.floor((levels(layers, N).pop().cells - 1) / 2);
  const set = change => { change(); cell = middle(); build(); };
  const add = el("button", {type: "button", onclick: () => set(() => layers.push({k: 3, s: 1}))}, "Add a layer");
  const presets = Object.entries(PRESETS).map(([name, list]) =>
    el("button", {type: "button", onclick: () => set(() => { layers = list.map(([k, s]) => ({k, s})); })}, name));

  const say = card(root, "The receptive field of one output cell", `
    svg { cursor: pointer; touch-action: pan-y; }
    .cell { stroke: var(--bg); stroke-width: .06; } .funnel { fill: var(--accent); opacity: .16; }
    .chosen { fill: none; stroke: var(--accent); stroke-width: .16; }
    svg text { fill: var(--soft); } .scroll { overflow-x: auto; margin-top: 10px; }
    table { border-collapse: collapse; } th, td { padding: 3px 14px 3px 0; text-align: left; font-weight: 400; }
    th { color: var(--soft); font-size: 13px; } td b { font-size: 15px; } td select, td button { padding: 1px 6px; }
    th, td:first-child { white-space: nowrap; } @media (max-width: 480px) { th, td { padding-right: 8px; } }`,
    el("p", {class: "lead"}, "Pick a cell of the top row and see what it reads below. "
      + "The stronger its colour, the more paths lead to a cell. Change the layers and watch the field grow."),
    svg, status, el("div", {class: "scroll"}, table), el("div", {class: "controls"}, add), el("div", {class: "controls"}, "Try", ...presets));

  function pick(label, values, value, change) {
    const select = el("select", {"aria-label": label, onchange: () => set(() => change(+select.value))},
      ...values.map(v => el("option", v === value ? {value: v, selected: ""} : {value: v}, String(v))));
    return el("td", {}, select);
  }

  // The table is rebuilt only when the layers change, so that a select keeps its focus while the cell moves.
  function build() {
    const all = levels(layers, N), L = layers.length;
    const head = el("tr", {}, ...["", "k", "stride", "cells", "jump", "field", ""].map(t => el("th", {scope: "col"}, t)));
    const rows = layers.map((layer, i) => el("tr", {}, el("td", {}, `layer ${i + 1}`),
      pick(`Kernel of layer ${i + 1}`, [1, 2, 3, 5, 7], layer.k, v => { layer.k = v; }),
      pick(`Stride of layer ${i + 1}`, [1, 2], layer.s, v => { layer.s = v; }),
      ...[all[i + 1].cells, all[i + 1].jump].map(v => el("td", {}, String(v))), el("td", {}, el("b", {}, String(all[i + 1].field))),
      el("td", {}, L > 1 ? el("button", {type: "button", "aria-label": `Remove layer ${i + 1}`,
        onclick: () => set(() => layers.splice(i, 1))}, "×") : "")));
    const focused = root.activeElement?.getAttribute("aria-label");
    table.replaceChildren(head, ...rows);
    if (focused) table.querySelector(`[aria-label="${focused}"]`)?.focus();
    add.disabled = L >= MOST;
    draw();
  }

  function draw() {
    const all = levels(layers, N), L = layers.length, counts = paths(layers, N, cell);
    // Wide cells stick out over the border of the input; text and rows keep their size on screen at any width.
    left = Math.min(...all.map(({centre, jump}) => centre - jump / 2)) - 0.1;
    span = Math.max(...all.map(({centre, jump, cells}) => centre + (cells - 0.5) * jump)) + 0.1 - left;
    const px = span / (svg.clientWidth || 640), font = 12 * px, tall = 20 * px;
    const base = level => (L - level) * (tall + 32 * px) + 18 * px;
    svg.setAttribute("viewBox", `${left} 0 ${span} ${base(0) + tall + 3 * px}`);
    svg.replaceChildren();
    const edges = level => {
      const hit = counts[level].map((c, i) => (c ? i : -1)).filter(i => i >= 0), {centre, jump} = all[level];
      return [centre + (hit[0] - 0.5) * jump, centre + (hit[hit.length - 1] + 0.5) * jump];
    };
    for (let level = L; level > 0; level--) {
      const [a, b] = edges(level), [c, d] = edges(level - 1);
      svg.append(el("polygon", {class: "funnel", points: `${a},${base(level) + tall} ${b},${base(level) + tall} ${d},${base(level - 1)} ${c},${base(level - 1)}`}));
    }
    counts.forEach((row, level) => {
      const {centre, jump, cells} = all[level], top = Math.max(...row);
      row.forEach((v, i) => {
        const r = el("rect", {class: "cell", x: centre + (i - 0.5) * jump + 0.04, y: base(level), width: jump - 0.08, height: tall, rx: 0.14});
        r.style.fill = v ? tint(level === L ? "orange" : "blue", 0.25 + 0.7 * v / top) : "color-mix(in srgb, var(--ink) 11%, var(--bg))";
        svg.append(r);
      });
      const name = level ? `layer ${level}: k ${layers[level - 1].k}, s ${layers[level - 1].s}` : "input";
      svg.append(el("text", {x: left + 0.1, y: base(level) - 5 * px, "font-size": font}, `${name} · ${cells} cells`));
    });
    const {centre, jump, field, cells} = all[L], chosen = centre + (cell - 0.5) * jump;
    svg.append(el("rect", {class: "chosen", x: chosen, y: base(L), width: jump, height: tall, rx: 0.14}));
    const read = counts[0].filter(c => c).length, from = counts[0].findIndex(c => c);
    svg.setAttribute("aria-valuemax", cells - 1);
    svg.setAttribute("aria-valuenow", cell);
    const first = `Output cell ${cell} reads ${read} input cells, ${from} to ${from + read - 1}`;
    svg.setAttribute("aria-valuetext", first);
    status.textContent = `${first}${read < field ? ` (its field of ${field} reaches over the border into ${field - read} cells of zero padding)` : ""}. `
      + `The receptive field is r = 1 + ${layers.map(({k}, i) => `${k - 1}·${all[i].jump}`).join(" + ")} = ${field}; `
      + `neighbouring output cells look ${jump} input cell${jump > 1 ? "s" : ""} apart.`;
    say(status.textContent);
  }

  const move = to => { cell = clamp(to, 0, levels(layers, N).pop().cells - 1); draw(); };
  arrows(svg, (dx, dy) => move(cell + dx - dy));
  const follow = e => {
    const box = svg.getBoundingClientRect(), {centre, jump} = levels(layers, N).pop();
    move(Math.round(((e.clientX - box.left) / box.width * span + left - centre) / jump));
  };
  svg.addEventListener("pointerdown", e => { svg.setPointerCapture(e.pointerId); follow(e); });
  svg.addEventListener("pointermove", e => { if (e.buttons) follow(e); });
  new ResizeObserver(() => draw()).observe(svg.parentNode);
  cell = middle();
  build();
}
