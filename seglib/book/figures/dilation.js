// Which input cells one output cell reads through 3×3 convolutions with dilation, and on how many paths, in two dimensions.

// Along one axis: on how many paths each of the cells reaches the output cell at `at`, through the layers one after another
// (the last rate is the last layer's). Every layer has zero padding as wide as its rate, so the map keeps its size, and a
// tap in the padding reads nothing.
export function line(rates, cells, at) {
  let counts = Array.from({length: cells}, (_, i) => +(i === at));
  for (const d of [...rates].reverse()) {
    const below = Array(cells).fill(0);
    counts.forEach((c, i) => { for (const a of [i - d, i, i + d]) if (a >= 0 && a < cells) below[a] += c; });
    counts = below;
  }
  return counts;
}

// The counts of the whole map, row by row: a 3×3 kernel of ones is rows times columns, so the counts are too. Side by side
// the layers are branches that read the same map, next to a 1×1 branch, and their counts add up.
export function counts(rates, parallel, cells, row, column) {
  const total = Array(cells * cells).fill(0);
  for (const stack of parallel ? [[], ...rates.map(d => [d])] : [rates]) {
    const rows = line(stack, cells, row), columns = line(stack, cells, column);
    rows.forEach((r, y) => { if (r) columns.forEach((c, x) => { total[y * cells + x] += r * c; }); });
  }
  return total;
}

// The side of the receptive field: every layer adds 2d; side by side the widest branch decides.
export const field = (rates, parallel) => 1 + 2 * (parallel ? Math.max(...rates) : rates.reduce((a, d) => a + d, 0));

// How many of the nine taps of a kernel with rate d lie on the map.
export function valid(d, cells, row, column) {
  const inside = at => [at - d, at, at + d].filter(a => a >= 0 && a < cells).length;
  return inside(row) * inside(column);
}

const PRESETS = {
  "1, 1, 1": [[1, 1, 1], false],
  "2, 2, 2": [[2, 2, 2], false],
  "1, 2, 5": [[1, 2, 5], false],
  "1, 2, 4, 8": [[1, 2, 4, 8], false],
  "ASPP 6, 12, 18": [[6, 12, 18], true],
  "ASPP 12, 24, 36": [[12, 24, 36], true],
};
const MOST = 4, WIDEST = 36;

export function render(root, {rates: start, parallel: beside, cells: N}) {
  let rates = [...start], parallel = beside, middle = Math.floor(N / 2), row = middle, column = middle;
  const svg = el("svg", {tabindex: 0, role: "slider", viewBox: `-0.2 -0.2 ${N + 0.4} ${N + 0.4}`, "aria-label": "Output cell",
    "aria-valuemin": 0, "aria-valuemax": N * N - 1});
  const squares = [], numbers = [];
  for (let i = 0; i < N * N; i++) {
    const x = i % N, y = Math.floor(i / N);
    squares.push(el("rect", {x: x + 0.03, y: y + 0.03, width: 0.94, height: 0.94, rx: 0.12}));
    numbers.push(el("text", {x: x + 0.5, y: y + 0.72, "text-anchor": "middle"}));
  }
  const frame = el("rect", {class: "field"}), ring = el("rect", {class: "chosen", width: 1.3, height: 1.3, rx: 0.2});
  svg.append(...squares, ...numbers, frame, ring);
  const list = el("div", {class: "rates"}), status = el("p", {class: "status num"});
  const add = el("button", {type: "button", onclick: () => { rates.push(1); build(); }}, "Add a layer");
  const ways = [["One after another", false], ["Side by side, with a 1×1", true]].map(([name, way]) =>
    el("button", {type: "button", onclick: () => { parallel = way; build(); }}, name));
  const presets = Object.entries(PRESETS).map(([name, [list, way]]) =>
    el("button", {type: "button", onclick: () => { [rates, parallel, row, column] = [[...list], way, middle, middle]; build(); }}, name));

  const say = card(root, "Which cells a stack of dilated convolutions reads", `
    .row { align-items: stretch; } .map { flex: 1 1 330px; max-width: 430px; } .side { flex: 1 1 210px; }
    svg { cursor: crosshair; touch-action: pan-y; } svg text { fill: var(--ink); pointer-events: none; }
    .field { fill: none; stroke: var(--accent); stroke-width: .16; stroke-dasharray: .5 .3; }
    .chosen { fill: none; stroke: var(--accent); stroke-width: .26; }
    .rates > div { display: flex; align-items: center; gap: 8px; margin-bottom: 6px; } .rates button { padding: 1px 8px; }
    .controls:first-child { margin-top: 0; } .side .controls { margin: 8px 0 12px; }`,
    el("p", {class: "lead"}, "Every cell shows on how many paths the framed output cell reads it; a pale cell inside the dashed "
      + "receptive field is a gap. Change the rates, or move the output cell."),
    el("div", {class: "row"}, el("div", {class: "map"}, svg),
      el("div", {class: "side"}, list, el("div", {class: "controls"}, add), el("div", {class: "controls"}, ...ways), status)),
    el("div", {class: "controls"}, "Try", ...presets));

  // The sliders are made anew only when the number of layers changes, so that a slider keeps its focus while it moves.
  function build() {
    list.replaceChildren(...rates.map((d, i) => {
      const rate = slider(`Rate ${i + 1}`, {min: 1, max: WIDEST, value: d}, v => { rates[i] = v; draw(); });
      const drop = el("button", {type: "button", "aria-label": `Remove layer ${i + 1}`, onclick: () => { rates.splice(i, 1); build(); }}, "×");
      drop.disabled = rates.length < 2;
      return el("div", {}, rate.root, drop);
    }));
    add.disabled = rates.length >= MOST;
    ways.forEach((button, i) => button.setAttribute("aria-pressed", parallel === !!i));
    draw();
  }

  function draw() {
    const found = counts(rates, parallel, N, row, column), most = Math.max(...found), side = field(rates, parallel);
    const readable = (svg.clientWidth || 400) / N > 11;  // pixels a cell: below, numbers would be specks
    found.forEach((c, i) => {
      squares[i].style.fill = c ? tint("blue", (readable ? 0.25 : 0.5) + (readable ? 0.35 : 0.5) * Math.sqrt(c / most)) : "color-mix(in srgb, var(--ink) 7%, var(--bg))";
      numbers[i].textContent = c && readable ? c : "";
      numbers[i].setAttribute("font-size", c > 99 ? 0.48 : c > 9 ? 0.6 : 0.7);
    });
    // The field may reach over the border; the frame ends there.
    const [top, left] = [row, column].map(at => Math.max(at - (side - 1) / 2, 0));
    const [bottom, right] = [row, column].map(at => Math.min(at + (side + 1) / 2, N));
    for (const [key, v] of Object.entries({x: left, y: top, width: right - left, height: bottom - top})) frame.setAttribute(key, v);
    ring.setAttribute("x", column - 0.15);
    ring.setAttribute("y", row - 0.15);
    const read = found.filter(c => c).length, area = (bottom - top) * (right - left);
    const share = Math.round(100 * read / area), least = Math.min(...found.filter(c => c));
    const first = `Output cell in column ${column}, row ${row} reads ${read} of the ${area} cells of its field`
      + `${area < side * side ? " that lie on the map" : ""} (${share}%)`;
    svg.setAttribute("aria-valuenow", row * N + column);
    svg.setAttribute("aria-valuetext", first);
    const taps = rates.map(d => `${valid(d, N, row, column)} of 9 at rate ${d}`).join(", ");
    status.textContent = `${first}, each on ${least === most ? most : `${least} to ${most}`} path${most > 1 ? "s" : ""}. `
      + (parallel ? `The widest branch makes the field 1 + 2·${Math.max(...rates)} = ${side} cells wide. Taps on the map: ${taps}.`
        : `The field is 1 + ${rates.map(d => `2·${d}`).join(" + ")} = ${side} cells wide.`);
    say(status.textContent);
  }

  const move = (x, y) => { [column, row] = [clamp(x, 0, N - 1), clamp(y, 0, N - 1)]; draw(); };
  arrows(svg, (dx, dy, e) => move(column + dx * (e.shiftKey ? 5 : 1), row + dy * (e.shiftKey ? 5 : 1)));
  const follow = e => {
    const box = svg.getBoundingClientRect(), at = v => Math.floor(v / box.width * (N + 0.4) - 0.2);
    move(at(e.clientX - box.left), at(e.clientY - box.top));
  };
  svg.addEventListener("pointerdown", e => { svg.setPointerCapture(e.pointerId); follow(e); });
  svg.addEventListener("pointermove", e => { if (e.buttons) follow(e); });
  new ResizeObserver(() => draw()).observe(svg.parentNode);
  build();
}
