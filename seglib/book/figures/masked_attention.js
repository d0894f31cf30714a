// A query's way through the decoder: its mask, the cells that it may attend to, its attention, and the next mask.

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// Attention weights of a text: the largest one is `peak`.
export const weightsOf = (text, peak) => Array.from(text, v => LETTERS.indexOf(v) / (LETTERS.length - 1) * peak);

// The cells that a query may attend to (true) and why: all without a mask, else those inside it; all if there is none.
export function allowed(inside, open) {
  const cells = Array.from(inside, v => v === "1"), some = cells.includes(true);
  return {inside: cells, may: open || !some ? cells.map(() => true) : cells, empty: !some};
}

const percent = v => v > 0 && v < 0.01 ? "under 1%" : `${Math.round(100 * v)}%`;
const cellsOf = n => n === 1 ? "1 cell" : `${n} cells`;

// What a layer does with a query, in words. cells: rows and columns; weights: attention of each cell.
export function step(layer, [h, w], {inside, may, empty}, weights, open) {
  const n = inside.filter(v => v).length, all = h * w, spent = percent(weights.reduce((sum, v, i) => sum + (inside[i] ? v : 0), 0));
  const start = `Layer ${layer} reads the map of ${h} × ${w} cells.`;
  if (empty) return `${start} The mask holds none of them` + (open ? ", and attention is open anyway: it may attend to all." : ": instead of nothing the query may attend to everything.");
  if (open) return `${start} Attention is open: the query may attend to all ${all}, and spends ${spent} of its attention inside its own mask (${cellsOf(n)}).`;
  if (n === all) return `${start} The mask covers all ${all}, so nothing is hidden.`;
  return `${start} The query may attend to ${n} of ${all}, those inside its mask: no attention goes elsewhere.`;
}

export function render(root, p) {
  Promise.all(p.passes.map(({maps, scales}) => new Promise(done => unpackMaps(maps, scales, ...p.mask, done)))).then(logits => start(root, p, logits));
}

function start(root, p, logits) {
  const [H, W] = p.size, [h, w] = p.mask, n = p.queries.length, L = p.cells.length, rows = halves(h, H), columns = halves(w, W);
  let who = p.start, layer = 1, open = p.open, pixels, timer = null;
  const calm = matchMedia("(prefers-reduced-motion: reduce)"), cache = new Map();
  // The mask of a query after a layer at the image's size.
  const maskOf = (pass, l, q) => {
    const key = [pass, l, q].join();
    if (!cache.has(key)) cache.set(key, Uint8Array.from(resample(logits[pass][l * n + q], h, w, rows, columns), v => v >= 0));
    return cache.get(key);
  };
  const answer = l => `${p.names[p.passes[open].classes[l][who]]} ${p.passes[open].probs[l][who].toFixed(2)}`;
  const titles = p.queries.map((q, i) => `${p.names[p.passes[p.open].classes[L][i]]} (${q})`);

  const pane = () => {
    const canvas = el("canvas", {width: W, height: H, role: "img"}), name = el("div", {class: "name"}), note = el("p", {class: "note num"});
    return {canvas, name, note, root: el("div", {class: "pane"}, name, el("div", {class: "stage"}, canvas), note)};
  };
  const [before, may, attends, after] = Array.from({length: 4}, pane), status = el("p", {class: "status num"}), honest = el("p", {class: "note"});
  const button = (text, click, more = {}) => el("button", {type: "button", onclick: click, ...more}, text);
  const choices = titles.map((title, i) => button(title, () => { who = i; draw(); }));
  const go = (to, playing) => {
    if (!playing) { clearInterval(timer); timer = null; }
    layer = clamp(to, 1, L);
    draw();
  };
  const back = button("‹", () => go(layer - 1), {"aria-label": "One layer back"}), next = button("›", () => go(layer + 1), {"aria-label": "One layer on"});
  const play = button("", () => {
    if (timer || calm.matches) return go(timer ? layer : L);
    timer = setInterval(() => go(layer + 1, layer + 1 < L && play.isConnected), 1600);
    go(layer === L ? 1 : layer + 1, true);
  });
  const place = slider("Layer", {min: 1, max: L, value: 1, show: v => `${v} of ${L}`}, v => go(v));
  const free = button("Open the mask", () => { open = 1 - open; draw(); });
  const say = card(root, "What a query may attend to, layer by layer", MAPS + `
    .panes { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px 12px; } .pane { max-width: none; } .name { font-size: 13.5px; line-height: 1.3; }
    .who { gap: 6px; margin: 0 0 12px; } .who button { padding: 2px 8px; font-size: 13px; } .note { min-height: 2.6em; } .note:empty { display: none; }
    :host { container-type: inline-size; } @container (max-width: 560px) { .panes { grid-template-columns: repeat(2, minmax(0, 1fr)); } }`,
    el("p", {class: "lead"}, "Choose a query (its final class, and its number) and step through the layers of the decoder. Its mask says where it may attend; what it finds there makes the next mask. Dashes: its final mask."),
    el("div", {class: "controls who", role: "group", "aria-label": "Query"}, ...choices),
    el("div", {class: "panes"}, before.root, may.root, attends.root, after.root),
    el("div", {class: "controls"}, back, play, next, place.root, free), status, honest);

  // Paints the image with every pixel changed by the cell that it lies in: tone(base, cell) → RGB.
  function grid({canvas}, [gh, gw], tone) {
    const painted = new ImageData(W, H);
    for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) {
      const i = y * W + x, edge = x * gw % W < gw && x || y * gh % H < gh && y, base = [0, 1, 2].map(k => pixels[4 * i + k]);
      const color = tone(base, Math.floor(y * gh / H) * gw + Math.floor(x * gw / W));
      painted.data.set([...(edge ? color.map(v => 0.8 * v + 26) : color), 255], 4 * i);
    }
    canvas.getContext("2d").putImageData(painted, 0, 0);
  }

  function draw() {
    const pass = p.passes[open], cells = p.cells[layer - 1], weights = weightsOf(pass.weights[layer - 1][who], pass.peaks[layer - 1][who]);
    const may_ = allowed(pass.inside[layer - 1][who], open), count = may_.may.filter(v => v).length, final = maskOf(p.open, L, who), masks = [layer - 1, layer].map(l => maskOf(open, l, who));
    const ious = masks.map(m => maskIou(m, final).toFixed(2)), peak = Math.max(...weights);
    if (pixels) {
      masks.forEach((m, i) => overlay([before, after][i].canvas, pixels, m, final));
      grid(may, cells, (base, i) => may_.may[i] ? base : base.map(v => 0.2 * v + 20));
      grid(attends, cells, (_, i) => may_.may[i] ? viridis(weights[i] / peak) : [110, 110, 110]);
    }
    before.name.textContent = layer > 1 ? `Mask after layer ${layer - 1}` : "Mask as learned";
    may.name.textContent = "May attend to";
    attends.name.textContent = `Attention, layer ${layer}`;
    after.name.textContent = `Mask after layer ${layer}`;
    before.note.textContent = answer(layer - 1);
    may.note.textContent = `${count} of ${cellsOf(may_.may.length)}, stride ${Math.round(H / cells[0])}`;
    attends.note.textContent = `0 (dark) to ${peak.toPrecision(2)}${count < weights.length ? ". Grey: hidden" : ""}`;
    after.note.textContent = answer(layer);
    for (const {canvas, name, note} of [before, may, attends, after]) canvas.setAttribute("aria-label", `${name.textContent}: ${note.textContent}`);
    choices.forEach((b, i) => b.setAttribute("aria-pressed", i === who));
    free.setAttribute("aria-pressed", !!open);
    place.set(layer);
    back.disabled = layer === 1;
    next.disabled = layer === L;
    play.textContent = timer ? "❚❚" : calm.matches ? "»" : "▶";
    play.setAttribute("aria-label", timer ? "Pause" : calm.matches ? "To the last layer" : "Play");
    status.textContent = `${step(layer, cells, may_, weights, open)} Its answer: ${answer(layer - 1)} → ${answer(layer)}; IoU with its final mask${open === p.open ? "" : " as trained"}: ${ious[0]} → ${ious[1]}.`;
    honest.textContent = open === p.open ? "" : `The network was trained with the mask ${open ? "closed" : "open"}: this shows how much it relies on that, not how well it would do if trained otherwise.`;
    say(`${titles[who]}. ${status.textContent}`);
  }
  ground(p.image, W, H, found => { pixels = found; draw(); });
}
