// Six pixels, four losses: the value of each loss and its gradient, while the background pixels multiply.

// One number per loss and its gradient by each pixel's logit. p: probabilities of object, y: 1 for object, n: how many
// pixels each background pixel stands for; its gradient is that of all of them together.
export function losses(p, y, n, gamma = 2) {
  const w = y.map(t => (t ? 1 : n)), all = w.reduce((a, b) => a + b), slope = p.map(v => v * (1 - v));
  const sum = f => p.reduce((total, _, i) => total + f(i), 0);
  const right = p.map((v, i) => (y[i] ? v : 1 - v)), sign = y.map(t => (t ? 1 : -1));
  const ce = right.map(q => -Math.log(q)), focal = right.map((q, i) => (1 - q) ** gamma * ce[i]);
  const inter = sum(i => w[i] * y[i] * p[i]), total = sum(i => w[i] * (p[i] + y[i]));
  const order = p.map((_, i) => i).sort((a, b) => right[a] - right[b]), steps = Array(p.length).fill(0);
  const objects = sum(i => y[i]);
  let missed = 0, wrong = 0, before = 0;
  for (const i of order) {
    if (y[i]) missed += 1; else wrong += n;
    const jaccard = 1 - (objects - missed) / (objects + wrong);
    steps[i] = jaccard - before;
    before = jaccard;
  }
  return {
    ce: {value: sum(i => w[i] * ce[i]) / all, grad: right.map((q, i) => -sign[i] * w[i] * (1 - q) / all)},
    focal: {value: sum(i => w[i] * focal[i]) / all,
      grad: right.map((q, i) => sign[i] * w[i] * (1 - q) ** gamma * (gamma * q * Math.log(q) - (1 - q)) / all)},
    dice: {value: 1 - 2 * inter / total, grad: p.map((_, i) => w[i] * slope[i] * 2 * (inter / total - y[i]) / total)},
    lovasz: {value: sum(i => steps[i] * (1 - right[i])), grad: p.map((_, i) => -sign[i] * steps[i] * slope[i])},
  };
}

// Of the whole gradient (the sum of its sizes), the part that acts on object pixels.
export function objectShare(grad, y) {
  const size = grad.map(Math.abs), all = size.reduce((a, b) => a + b);
  return size.reduce((total, g, i) => total + (y[i] ? g : 0), 0) / all;
}

const NAMES = {ce: "Cross-entropy", focal: "Focal", dice: "Dice", lovasz: "Lovász"};
const signed = g => (Math.abs(g) < 1e-12 ? "0" : (g < 0 ? "+" : "−") + (Math.abs(g) < 5e-4 ? Math.abs(g).toExponential(0) : Math.abs(g).toFixed(3).slice(1)));
const percent = v => (v < 0.0095 ? (100 * v).toPrecision(1) : Math.round(100 * v)) + "%";

export function render(root, {p: P, y: Y}) {
  let p = [...P], y = [...Y], power = 0;
  const copies = () => 10 ** power;
  const board = el("div", {class: "board num"}), rows = {};
  const pixels = p.map((_, i) => {
    const bar = el("rect", {x: 4, width: 32}), value = el("text", {x: 20, "text-anchor": "middle"});
    const svg = el("svg", {viewBox: "0 0 40 124", class: "pixel", tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 1,
      "aria-label": `Pixel ${i + 1}: probability of object`},
    el("rect", {x: 4, y: 12, width: 32, height: 100, rx: 4, class: "well"}), bar, value);
    const follow = e => {
      const box = svg.getBoundingClientRect();
      set(1.12 - (e.clientY - box.top) / box.height * 1.24);
    };
    const set = v => { p[i] = clamp(Math.round(100 * v) / 100, 0.01, 0.99); draw(); };
    let held = false;
    svg.addEventListener("pointerdown", e => { e.preventDefault(); svg.focus(); svg.setPointerCapture(e.pointerId); held = true; follow(e); });
    svg.addEventListener("pointermove", e => { if (held) follow(e); });
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { held = false; });
    arrows(svg, (dx, dy, e) => set(p[i] + (dx - dy) * (e.shiftKey ? 0.01 : 0.05)));
    const kind = el("button", {type: "button", class: "kind", onclick: () => {
      if (y[i] && y.filter(Boolean).length === 1) return;
      y[i] = 1 - y[i];
      draw();
    }});
    return {svg, bar, value, kind};
  });
  board.append(el("span", {class: "name"}, "p, object"), ...pixels.map(c => c.svg), el("span"));
  board.append(el("span", {class: "name"}, "y, truth"), ...pixels.map(c => c.kind), el("span", {class: "share"}, "object's part"));
  for (const [id, name] of Object.entries(NAMES)) {
    const row = rows[id] = {value: el("b"), share: el("b"), cells: p.map(() => ({svg: el("svg", {viewBox: "0 0 40 50", "aria-hidden": "true"}), text: el("small")}))};
    board.append(el("span", {class: "name"}, name, row.value),
      ...row.cells.map(c => el("span", {class: "cell"}, c.svg, c.text)), el("span", {class: "share"}, row.share));
  }
  const many = slider("Each background pixel stands for", {min: 0, max: 3, value: 0, show: v => `${10 ** v} pixel${v ? "s" : ""}`}, v => { power = v; draw(); });
  const button = (text, act) => el("button", {type: "button", onclick: () => { act(); draw(); }}, text);
  const status = el("p", {class: "status num"});
  const say = card(root, "Six pixels, four losses", `
    .board { display: grid; grid-template-columns: minmax(66px, 1.5fr) repeat(6, minmax(0, 1fr)) minmax(48px, .9fr); gap: 6px 3px; align-items: center; }
    .name { font-weight: 600; font-size: 13px; overflow-wrap: anywhere; } .name b { display: block; font-size: 17px; line-height: 1.2; }
    .share { text-align: right; font-size: 13px; color: var(--soft); } .share b { font-size: 15px; color: var(--ink); }
    .pixel { cursor: ns-resize; touch-action: none; max-width: 64px; margin: 0 auto; } .well { fill: var(--wash); stroke: var(--line); }
    .pixel text { fill: var(--ink); font-size: 12px; font-weight: 600; }
    .kind { padding: 2px 0; min-height: 26px; width: 100%; max-width: 64px; margin: 0 auto; }
    .kind[aria-pressed=true] { background: ${tint("orange", 0.3)}; border-color: var(--orange); }
    .cell { text-align: center; } .cell svg { max-width: 56px; margin: 0 auto; } .cell small { font-size: 11px; letter-spacing: -.02em; white-space: nowrap; color: var(--soft); display: block; }
    .zero { stroke: var(--line); stroke-width: 1.5; } .up { fill: var(--green); } .down { fill: var(--accent); }`,
  el("p", {class: "lead"}, "Drag the probabilities or use the arrow keys; press a label to change it. Under each pixel an arrow for every loss "
    + "shows its negative gradient: which way and how far gradient descent moves the logit (scaled within the row). Then let each "
    + "background pixel stand for many."),
  board, el("div", {class: "controls"}, many.root, button("Before training", () => { p = p.map((_, i) => 0.5 + [-1, 1, 0, 2, -2, 0][i] / 100); }),
    button("Reset", () => { [p, y, power] = [[...P], [...Y], 0]; many.set(0); })), status);

  function draw() {
    const n = copies(), found = losses(p, y, n), objects = y.filter(Boolean).length;
    pixels.forEach((c, i) => {
      const top = 112 - 100 * p[i];
      for (const [k, v] of Object.entries({y: top, height: 100 * p[i], rx: Math.min(4, 50 * p[i])})) c.bar.setAttribute(k, v);
      c.bar.style.fill = tint(y[i] ? "orange" : "blue", 0.55);
      c.value.setAttribute("y", p[i] > 0.88 ? top + 14 : top - 4);
      c.value.textContent = p[i].toFixed(2).slice(1);
      c.svg.setAttribute("aria-valuenow", p[i].toFixed(2));
      c.svg.setAttribute("aria-valuetext", `${p[i].toFixed(2)}, truth: ${y[i] ? "object" : "background"}`);
      c.kind.textContent = y[i];
      c.kind.setAttribute("aria-pressed", !!y[i]);
      c.kind.setAttribute("aria-label", `Pixel ${i + 1} is object`);
    });
    const shares = {};
    for (const [id, row] of Object.entries(rows)) {
      const {value, grad} = found[id], top = Math.max(...grad.map(Math.abs), 1e-12);
      shares[id] = objectShare(grad, y);
      row.value.textContent = value.toFixed(3);
      row.share.textContent = percent(shares[id]);
      row.cells.forEach((c, i) => {
        const step = -grad[i] / top, up = step > 0, length = 23 * Math.abs(step), tip = up ? 25 - length : 25 + length;
        const head = Math.min(8, length), neck = up ? tip + head : tip - head;
        c.svg.replaceChildren(el("line", {x1: 8, x2: 32, y1: 25, y2: 25, class: "zero"}));
        if (length > 0.4) c.svg.append(el("path", {class: up ? "up" : "down",
          d: `M17 25V${neck}H${20 - head}L20 ${tip}L${20 + head} ${neck}H23V25z`}));
        c.text.textContent = signed(grad[i]);
      });
    }
    const share = percent(objects / (objects + n * (6 - objects)));
    status.textContent = `The object holds ${share} of the pixels. Its part of the gradient: cross-entropy ${percent(shares.ce)}, focal ${percent(shares.focal)}, `
      + `Dice ${percent(shares.dice)}, Lovász ${percent(shares.lovasz)}.`;
    say(status.textContent);
  }
  draw();
}
