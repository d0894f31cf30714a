// Transposed convolution as stamping: each input cell adds its value times the kernel to the output.

// out = (n − 1)·s − 2·p + k
export const outputSize = (n, s, k, p) => (n - 1) * s - 2 * p + k;

// The k × k kernel that interpolates bilinearly by a factor of f = ceil(k / 2).
export function bilinear(k) {
  const line = Array.from({length: k}, (_, i) => 1 - Math.abs(i - (k - 1) / 2) / Math.ceil(k / 2));
  return line.map(a => line.map(b => a * b));
}

// The output after the first `steps` input cells (row by row) have been stamped.
export function transposedConv(input, kernel, s, p, steps = Infinity) {
  const n = input.length, k = kernel.length, size = outputSize(n, s, k, p);
  const out = Array.from({length: size}, () => Array(size).fill(0));
  for (let cell = 0; cell < Math.min(steps, n * n); cell++) {
    const row = Math.floor(cell / n), column = cell % n;
    for (let a = 0; a < k; a++)
      for (let b = 0; b < k; b++) {
        const y = row * s + a - p, x = column * s + b - p;
        if (y >= 0 && y < size && x >= 0 && x < size) out[y][x] += input[row][column] * kernel[a][b];
      }
  }
  return out;
}

const ones = (n, v = 1) => Array.from({length: n}, () => Array(n).fill(v));
const short = v => String(+v.toFixed(2)).replace(/^0\./, ".");

export function render(root, {input, stride: S, kernel: K, padding: P, weights}) {
  const n = input.length;
  let s = S, k = K, p = P, step = n * n, bil = weights === "bilinear", counting = false, timer = null;
  const maxPadding = () => Math.min(2, Math.floor((outputSize(n, s, k, 0) - 1) / 2));

  // A square of cells in a drawing whose side is `side` cells of the largest grid, so all cells look the same size.
  function board(name) {
    const svg = el("svg", {role: "img"}), title = el("div", {class: "title"});
    return {root: el("figure", {class: name}, title, svg), svg, title};
  }
  const boards = {input: board("input"), kernel: board("kernel"), output: board("output")};
  function paint({svg, title}, name, values, color, {pad = 0, mark, pick, seen} = {}) {
    const size = values.length, full = size + 2 * pad, top = Math.max(...values.flat(), 1e-9);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `-0.08 -0.08 ${full + 0.16} ${full + 0.16}`);
    svg.style.width = `${full * 40}px`;
    title.innerHTML = name;
    for (let y = 0; y < full; y++)
      for (let x = 0; x < full; x++) {
        const v = values[y - pad]?.[x - pad], share = 0.6 * (v || 0) / top;
        const cell = el("rect", {x: x + 0.03, y: y + 0.03, width: 0.94, height: 0.94, rx: 0.09, class: v === undefined ? "cut" : "cell"});
        if (v !== undefined) cell.style.fill = v ? tint(color, share) : "var(--wash)";
        if (pick) { cell.style.cursor = "pointer"; cell.addEventListener("click", () => pick(y * full + x + 1)); }
        svg.append(cell);
        if (v !== undefined && (seen?.[y - pad][x - pad] ?? true)) svg.append(el("text", {x: x + 0.5, y: y + 0.63}, short(v)));
      }
    if (mark) svg.append(el("rect", {class: "mark", x: mark[0], y: mark[1], width: mark[2], height: mark[2], rx: 0.12}));
    svg.setAttribute("aria-label", values.map(r => r.map(short).join(" ")).join("; "));
  }

  const stop = () => { clearInterval(timer); timer = null; };
  const go = to => { step = clamp(to, 0, n * n); draw(); };
  const steps = slider("Stamped cells", {min: 0, max: n * n, value: step, show: v => `${v} of ${n * n}`}, v => { stop(); go(v); });
  const button = (text, label, act) => el("button", {type: "button", "aria-label": label, onclick: act}, text);
  const play = button("▶", "Play", () => {
    if (timer) { stop(); return draw(); }
    if (step === n * n) step = 0;
    timer = setInterval(() => { if (step + 1 >= n * n || !play.isConnected) stop(); go(step + 1); }, 700);
    go(step + 1);
  });
  const back = button("‹", "One step back", () => { stop(); go(step - 1); });
  const next = button("›", "One step on", () => { stop(); go(step + 1); });
  const change = set => v => { stop(); set(v); p = Math.min(p, maxPadding()); draw(); };
  const strides = slider("Stride s", {min: 1, max: 3, value: s}, change(v => { s = v; }));
  const kernels = slider("Kernel k", {min: 2, max: 4, value: k}, change(v => { k = v; }));
  const pads = slider("Padding p", {min: 0, max: 2, value: p}, change(v => { p = v; }));
  const toggle = (text, act) => el("button", {type: "button", "aria-pressed": "false", onclick: () => { act(); draw(); }}, text);
  const smooth = toggle("Bilinear kernel", () => { bil = !bil; });
  const count = toggle("Count overlaps", () => { counting = !counting; });
  const formula = el("p", {class: "formula num"}), status = el("p", {class: "status num"});

  const say = card(root, "Transposed convolution, stamp by stamp", `
    figure { margin: 0; min-width: 0; } .side { display: flex; flex-wrap: wrap; gap: 14px 22px; flex: 0 1 auto; }
    .title { font-weight: 600; margin-bottom: 4px; } .title small { font-weight: 400; color: var(--soft); font-size: 13px; }
    figure svg { max-width: 100%; } .output { flex: 1 1 300px; } .side svg { max-width: 128px; }
    text { fill: var(--ink); font-size: .34px; text-anchor: middle; pointer-events: none; }
    .cell { stroke: var(--line); stroke-width: .03; }
    .cut { fill: none; stroke: var(--line); stroke-width: .04; stroke-dasharray: .12 .1; }
    .mark { fill: none; stroke: var(--accent); stroke-width: .13; pointer-events: none; }
    .formula { margin: 12px 0 0; font-weight: 600; } .status { margin-top: 4px; color: var(--soft); }
    .row { min-height: 250px; }`,
    el("p", {class: "lead"}, "Every input cell multiplies the kernel and stamps it onto the output, s cells further each time. "
      + "Where stamps overlap they add up."),
    el("div", {class: "row"}, el("div", {class: "side"}, boards.input.root, boards.kernel.root), boards.output.root),
    formula, status,
    el("div", {class: "controls"}, back, play, next, steps.root),
    el("div", {class: "controls"}, strides.root, kernels.root, pads.root),
    el("div", {class: "controls"}, smooth, count));

  function draw() {
    const values = counting ? ones(n) : input, kernel = bil && !counting ? bilinear(k) : ones(k);
    const out = transposedConv(values, kernel, s, p, step), size = out.length, cell = step - 1;
    const row = Math.floor(cell / n), column = cell % n;
    paint(boards.input, `Input <small>${n} × ${n}</small>`, values, "orange",
      {mark: step ? [column, row, 1] : null, pick: v => { stop(); go(v); }});
    paint(boards.kernel, `Kernel <small>${k} × ${k}</small>`, kernel, "green");
    paint(boards.output, counting ? "Overlaps <small>stamps per cell</small>" : `Output <small>${size} × ${size}</small>`, out, "blue",
      {pad: p, mark: step ? [column * s, row * s, k] : null, seen: transposedConv(ones(n), ones(k), s, p, step)});
    steps.set(step);
    pads.set(p, maxPadding());
    play.textContent = timer ? "❚❚" : "▶";
    play.setAttribute("aria-label", timer ? "Pause" : "Play");
    back.disabled = step === 0;
    next.disabled = step === n * n;
    smooth.setAttribute("aria-pressed", bil);
    smooth.disabled = counting;
    count.setAttribute("aria-pressed", counting);
    formula.textContent = `output = (input − 1)·s − 2·p + k = (${n} − 1)·${s} − 2·${p} + ${k} = ${size}`;
    const now = step ? `Input cell at row ${row}, column ${column} (${short(values[row][column])}) stamps rows ${row * s - p} to ${row * s - p + k - 1}, `
      + `columns ${column * s - p} to ${column * s - p + k - 1}. ` : "Nothing is stamped yet. ";
    const even = k % s ? `k = ${k} is not a multiple of s = ${s}: inner cells get different numbers of stamps, a checkerboard.`
      : `k = ${k} is a multiple of s = ${s}: every inner cell gets ${(k / s) ** 2} stamp${k === s ? "" : "s"}.`;
    status.textContent = now + even + (p ? ` Padding cuts ${p} dashed cell${p > 1 ? "s" : ""} off every side.` : "");
    say(`${step} of ${n * n}. ${status.textContent} Output ${size} by ${size}.`);
  }
  draw();
}
