// A ranked list of detections, right or wrong, to reorder: its precision-recall curve, the interpolation and AP follow.

// Precision and recall after each detection. right: 1 or 0 by falling score, objects: how many there are to find.
export function curve(right, objects) {
  let hits = 0;
  return right.map((r, i) => { hits += r; return {precision: hits / (i + 1), recall: hits / objects}; });
}

// The largest precision at each point or at a later one.
export function interpolate(precision) {
  const out = [...precision];
  for (let i = out.length - 2; i >= 0; i--) out[i] = Math.max(out[i], out[i + 1]);
  return out;
}

// COCO's AP: the mean of the interpolated precision at the recalls 0, 0.01, …, 1; 0 where a recall isn't reached.
export function ap(right, objects) {
  const points = curve(right, objects), level = interpolate(points.map(p => p.precision));
  let total = 0;
  for (let i = 0; i <= 100; i++) {
    const at = points.findIndex(p => p.recall >= (i === 100 ? 1 : i * 0.01));
    total += at < 0 ? 0 : level[at];
  }
  return total / 101;
}

// The area under the interpolated curve, without sampling it.
export function area(right, objects) {
  const level = interpolate(curve(right, objects).map(p => p.precision));
  return right.reduce((total, r, i) => total + r * level[i], 0) / objects;
}

// The list with the entry at one place moved to another.
export function moved(list, from, to) {
  const out = [...list];
  out.splice(to, 0, ...out.splice(from, 1));
  return out;
}

const LETTERS = "ABCDEFGHIJ", MOST = 10;
const X = v => 36 + 264 * v, Y = v => 212 - 196 * v;

export function render(root, {right: R, scores: S, objects: G}) {
  const start = () => R.map((r, i) => ({name: LETTERS[i], right: r}));
  let list = start(), objects = G, held = null;
  const score = i => (S[i] ?? Math.max(0.01, S[S.length - 1] - 0.05 * (i - S.length + 1))).toFixed(2);
  const hits = () => list.filter(d => d.right).length;
  const svg = el("svg", {viewBox: "0 0 312 250", class: "plot", role: "img", "aria-label": "Precision over recall"});
  const rows = Array.from({length: MOST}, (_, i) => {
    const grip = el("button", {type: "button", class: "grip"}), kind = el("button", {type: "button", class: "kind"});
    const row = el("li", {}, grip, el("span", {class: "score num"}), kind);
    kind.addEventListener("click", () => {
      list[i].right = 1 - list[i].right;
      objects = Math.max(objects, hits());
      draw();
    });
    grip.addEventListener("pointerdown", e => { e.preventDefault(); grip.focus(); grip.setPointerCapture(e.pointerId); held = i; draw(); });
    grip.addEventListener("pointermove", e => {
      if (held === null) return;
      const box = board.getBoundingClientRect();
      go(held, Math.floor((e.clientY - box.top) / box.height * list.length));
    });
    for (const end of ["pointerup", "pointercancel"])
      grip.addEventListener(end, () => { if (held !== null) rows[held].grip.focus(); held = null; draw(); });
    arrows(grip, (dx, dy) => { if (dy) rows[go(i, i + dy)].grip.focus(); });
    return {row, grip, kind, score: row.children[1]};
  });
  const board = el("ol", {class: "board", "aria-label": "Detections by falling score"}, ...rows.map(r => r.row));
  function go(from, to) {
    to = clamp(to, 0, list.length - 1);
    if (to !== from) {
      list = moved(list, from, to);
      if (held !== null) held = to;
      draw();
    }
    return to;
  }
  const many = slider("Objects", {min: 1, max: 8, value: G}, v => { objects = Math.max(v, hits()); draw(); });
  const button = (text, act) => el("button", {type: "button", onclick: () => { act(); draw(); }}, text);
  const add = button("Add a wrong one", () => {
    list.push({name: [...LETTERS].find(c => !list.some(d => d.name === c)), right: 0});
  });
  const drop = button("Remove the last", () => { list.pop(); });
  const status = el("p", {class: "status num"}), value = el("b"), other = el("span");
  const say = card(root, "Reorder detections, watch average precision", `
    .left { flex: 1 1 210px; max-width: 290px; } .right { flex: 1 1 300px; min-width: 0; max-width: 430px; }
    .board { list-style: none; margin: 0; padding: 0; }
    .board li { display: flex; align-items: center; gap: 8px; padding: 2px 4px; border-radius: 8px; }
    .board li[hidden] { display: none; } .held { background: ${tint("blue", 0.2)}; }
    .grip { cursor: grab; touch-action: none; min-width: 58px; font-weight: 600; text-align: left; } .held .grip { cursor: grabbing; }
    .grip::before { content: "⋮⋮ "; color: var(--soft); letter-spacing: -.1em; } .score { min-width: 2.6em; color: var(--soft); }
    .kind { flex: 1; min-width: 84px; } .kind[aria-pressed=true] { background: ${tint("green", 0.3)}; border-color: var(--green); }
    .kind[aria-pressed=false] { background: ${tint("orange", 0.22)}; border-color: var(--orange); }
    .big { margin: 0 0 6px; } .big b { font-size: 22px; } .big span { color: var(--soft); }
    .plot text { fill: var(--ink); font-size: 11px; } .axis { stroke: var(--soft); } .grid { stroke: var(--line); }
    .fill { fill: ${tint("blue", 0.22)}; } .level { fill: none; stroke: var(--blue); stroke-width: 3; }
    .raw { fill: none; stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 3 3; } .dot { stroke: var(--bg); stroke-width: 1.5; }`,
  el("p", {class: "lead"}, "Drag a letter up or down, or focus it and press the arrow keys. Press a label to make a detection right or wrong. "
    + "The scores stay where they are: AP sees the order alone."),
  el("div", {class: "row"}, el("div", {class: "left"}, board),
    el("div", {class: "right"}, el("p", {class: "big num"}, "AP ", value, other), svg)),
  el("div", {class: "controls"}, many.root, add, drop,
    button("Best order", () => { list = [...list].sort((a, b) => b.right - a.right); }),
    button("Worst order", () => { list = [...list].sort((a, b) => a.right - b.right); }),
    button("Reset", () => { list = start(); objects = G; })), status);

  function draw() {
    const right = list.map(d => d.right), points = curve(right, objects), level = interpolate(points.map(p => p.precision));
    many.set(objects);
    add.disabled = list.length === MOST;
    drop.disabled = list.length === 1;
    rows.forEach(({row, grip, kind, score: text}, i) => {
      row.hidden = i >= list.length;
      if (row.hidden) return;
      const {name, right: r} = list[i];
      row.classList.toggle("held", held === i);
      grip.textContent = name;
      grip.setAttribute("aria-label", `Detection ${name}, place ${i + 1} of ${list.length}; arrow keys move it`);
      text.textContent = score(i);
      kind.textContent = r ? "✓ right" : "✗ wrong";
      kind.setAttribute("aria-pressed", !!r);
      kind.setAttribute("aria-label", `Detection ${name} is right`);
    });
    const parts = [];
    for (const v of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(el("line", {x1: X(0), x2: X(1), y1: Y(v), y2: Y(v), class: v ? "grid" : "axis"}),
        el("line", {x1: X(v), x2: X(v), y1: Y(0), y2: Y(1), class: v ? "grid" : "axis"}),
        el("text", {x: X(0) - 5, y: Y(v) + 4, "text-anchor": "end"}, v), el("text", {x: X(v), y: Y(0) + 15, "text-anchor": "middle"}, v));
    }
    parts.push(el("text", {x: X(0.5), y: Y(0) + 32, "text-anchor": "middle"}, "recall"),
      el("text", {x: 0, y: 8}, "precision"));
    const steps = [];  // at a right detection the level goes on from the recall before it to its own
    let before = 0;
    points.forEach((p, i) => { if (right[i]) { steps.push(`${X(before)} ${Y(level[i])}L${X(p.recall)} ${Y(level[i])}`); before = p.recall; } });
    if (steps.length) {
      parts.push(el("path", {class: "fill", d: `M${X(0)} ${Y(0)}L${steps.join("L")}L${X(before)} ${Y(0)}z`}),
        el("path", {class: "level", d: `M${steps.join("L")}L${X(before)} ${Y(0)}`}));
    }
    parts.push(el("path", {class: "raw", d: "M" + points.map(p => `${X(p.recall)} ${Y(p.precision)}`).join("L")}));
    points.forEach((p, i) => {
      const r = right[i], dot = el("circle", {cx: X(p.recall), cy: Y(p.precision), r: 4.5, class: "dot"});
      dot.style.fill = r ? "var(--green)" : "var(--orange)";
      const side = p.recall > 0.93 || (!r && p.recall > 0.05) ? -8 : 8;
      parts.push(dot, el("text", {x: X(p.recall) + side, y: Y(p.precision) + (r ? -5 : 10), "text-anchor": side < 0 ? "end" : "start"}, list[i].name));
    });
    svg.replaceChildren(...parts);
    const last = points[points.length - 1], found = hits();
    value.textContent = ap(right, objects).toFixed(3);
    other.textContent = ` at 101 recalls; the area itself is ${area(right, objects).toFixed(3)}`;
    status.textContent = `${found} of ${objects} objects found by ${list.length} detections: at the end recall ${last.recall.toFixed(2)}, precision ${last.precision.toFixed(2)}.`
      + (list.length > 1 && !right[list.length - 1] ? " What is wrong after the last right one costs nothing." : "");
    say(`AP ${value.textContent}. ${status.textContent}`);
  }
  draw();
}
