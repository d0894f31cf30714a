// A prediction to edit beside its truth: matched pairs, TP, FP, FN and what is ignored, then SQ, RQ and PQ.

// The outline of a segment, d inside its border.
export function outline(ids, id, w, d) {
  const inside = (x, y) => x >= 0 && x < w && ids[y * w + x] === id;
  return ids.map((v, i) => {
    const x = i % w, y = Math.floor(i / w);
    return v !== id ? "" : [[1, 0], [0, 1], [-1, 0], [0, -1]].filter(([p, q]) => !inside(x + p, y + q)).map(([p, q]) => {
      const [a, b] = [-1, 1].map(sign => {
        const u = -q * sign, v = p * sign, reach = 0.5 + (!inside(x + u, y + v) ? -d : inside(x + u + p, y + v + q) ? d : 0);
        return `${(x + 0.5 + p * (0.5 - d) + u * reach).toFixed(2)} ${(y + 0.5 + q * (0.5 - d) + v * reach).toFixed(2)}`;
      });
      return `M${a}L${b}`;
    }).join("");
  }).join("");
}

// Where the label of a segment has most room: a cell, how far right of it in cells, whether the class fits (3 cells in a row)
// and whether the mark goes below it.
function room(ids, id, w) {
  const inside = (x, y) => x >= 0 && x < w && ids[y * w + x] === id, reach = (x, y, dx, dy) => inside(x + dx, y + dy) ? 1 + reach(x + dx, y + dy, dx, dy) : 0;
  const own = ids.flatMap((v, i) => v === id ? [[i % w, Math.floor(i / w)]] : []), [mx, my] = [0, 1].map(k => own.reduce((sum, c) => sum + c[k], 0) / own.length);
  return own.map(([x, y]) => {
    const [l, r, u, d] = [[-1, 0], [1, 0], [0, -1], [0, 1]].map(step => reach(x, y, ...step)), tall = u * d > 0 && l + r < 5;
    return {i: y * w + x, shift: (r - l) / 2, wide: l + r > 1, tall, cost: Math.hypot(x - mx, y - my) - 2 * Math.min(l + r, 5) - 4 * Math.min(u, d, 1)};
  }).sort((s, t) => s.cost - t.cost)[0];
}

const HINTS = {
  Paint: "Drag out of a segment to extend it, or draw a new one.",
  Erase: "Drag over cells to make them void.",
  Split: "Drag a line across a thing to cut it in two.",
  Merge: "Drag from one segment to another to join them.",
  Class: "Click a segment to give it this class.",
};
const RULES = {union: "Union leaves out void", ignore: "Ignore FP in void", crowd: "Crowd rule"};
const CSS = `
.half { flex: 1 1 310px; min-width: 0; } .row { margin-top: 12px; }
.board { position: relative; display: grid; grid: auto-flow / repeat(var(--columns), 1fr); margin-top: 4px;
  background: repeating-linear-gradient(45deg, var(--line) 0 2px, transparent 2px 7px); }
.board > div { display: contents; } .cell { position: relative; aspect-ratio: 1; min-width: 0; box-shadow: inset 0 0 0 .5px var(--line); }
[role=grid] { touch-action: none; cursor: crosshair; user-select: none; -webkit-user-select: none; }
.cell:focus-visible { z-index: 2; outline-offset: -2px; } .on::after { content: ""; position: absolute; inset: 32%; border-radius: 50%; background: var(--ink); }
.cell small { position: absolute; z-index: 1; top: 50%; transform: translate(-50%, -50%); font: 600 11px/1.2 system-ui, sans-serif; white-space: pre; text-align: center;
  pointer-events: none; text-shadow: 0 0 2px var(--bg), 0 0 3px var(--bg), 0 0 4px var(--bg); }
.board svg { position: absolute; inset: 0; pointer-events: none; } path { fill: none; stroke-width: .16; }
.TP { stroke: var(--right); border-color: var(--right); stroke-linecap: square; --right: color-mix(in srgb, var(--green) 65%, var(--ink)); }
.FP, .FN { stroke: var(--accent); stroke-dasharray: .3 .2; border: dashed var(--accent); }
.ignored, .crowd { stroke: var(--ink); stroke-dasharray: 0 .25; stroke-linecap: round; border: dotted var(--ink); }
.controls { gap: 6px 8px; } .controls span { min-width: 38px; color: var(--soft); } .hint { margin: 8px 0 0; color: var(--soft); font-size: 13px; }
.status { font-weight: 600; min-height: 1.45em; } [hidden] { display: none; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; } th, td { font-weight: inherit; text-align: right; padding: 3px 0 3px 6px; border-bottom: 1px solid var(--line); }
th { white-space: pre; } th:first-child { text-align: left; padding-left: 0; } .all { font-weight: 700; } i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; border: 1px solid var(--line); }
ul { list-style: none; margin: 0; padding: 0; font-size: 13px; } li { display: flex; gap: 8px; padding: 3px 0; align-items: baseline; }
li b { flex: 0 0 58px; text-align: center; font: 12px/1.4 system-ui, sans-serif; border-style: solid; border-width: 2px !important; border-radius: 4px; }
@media (max-width: 480px) { table { font-size: 11.5px; } td { white-space: nowrap; word-spacing: -.07em; } th, td { padding-left: 4px; } }`;

export function render(root, {width: W, categories, truth, predictions, start}) {
  const H = truth.ids.length / W, rules = {union: true, ignore: true, crowd: true};
  // stroke: its cells, the map and its PQ before it, and what the tool makes of it
  let loaded = start, map = predictions[start][1], past = [], swapped = false, tool = "Paint", stroke = null, shown, cursor = (H >> 1) * W + (W >> 1);
  const full = s => s ? `${s.name ?? s.id} ${categories[s.category].name}` : "void", number = v => isNaN(v) ? "–" : v.toFixed(3);
  const color = ({category: k}) => `color-mix(in srgb, rgb(${categories[k].color}) ${categories[k].thing ? 45 : 22}%, var(--bg))`;
  const judge = (t, p) => quality(t, p, categories.map(c => c.thing), rules);

  function board(whole, row, each) {
    const cells = truth.ids.map(() => el("div", {class: "cell", ...each})), edges = el("svg", {viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true"}), title = el("b");
    const rows = Array.from({length: H}, (_, y) => el("div", row, ...cells.slice(y * W, (y + 1) * W)));
    const grid = el("div", {class: "board", style: `--columns: ${W}`, ...whole}, ...rows, edges);
    return {root: el("div", {class: "half"}, title, grid), grid, cells, title, draw({ids, segments}, marks) {
      cells.forEach((cell, i) => {
        const s = segments.find(s => s.id === ids[i]);
        cell.className = "cell";
        cell.style.background = s ? color(s) : "";
        cell.textContent = "";
        if (each) cell.setAttribute("aria-label", `row ${1 + Math.floor(i / W)}, column ${1 + i % W}: ${full(s)}${s ? `, ${marks.get(s)}` : ""}`);
      });
      for (const s of segments) {
        const {i, shift, wide, tall} = room(ids, s.id, W);
        cells[i].append(el("small", {style: `left: ${50 + 100 * shift}%`}, `${wide ? full(s) : s.name ?? s.id}${tall ? "\n" : " "}${marks.get(s)}`));
      }
      edges.replaceChildren(...segments.map(s => el("path", {class: marks.get(s), d: outline(ids, s.id, W, 0.1)})));
    }};
  }
  const left = board({role: "img"}), right = board({role: "grid", "aria-label": "Cells of the prediction"}, {role: "row"}, {role: "gridcell", tabindex: -1});

  const button = (text, onclick) => el("button", {type: "button", onclick}, text);
  const group = (label, ...parts) => el("div", {class: "controls", role: "group", "aria-label": label}, el("span", {}, label), ...parts);
  const choice = (label, first, ...names) => el("select", {"aria-label": label}, ...first, ...names.map((name, value) => el("option", {value}, name)));
  const brush = choice("Paint with", [el("option", {value: -1}, "extend a segment")], ...categories.map(c => c.thing ? `a new ${c.name}` : c.name));
  const rename = choice("New class", [], ...categories.map(c => c.name));
  const tools = Object.keys(HINTS).map(name => button(name, () => { drop(); tool = name; draw(); }));
  const load = k => act(`${predictions[k][0]}:`, () => { past.push(map); [loaded, map] = [k, predictions[k][1]]; });
  const presets = predictions.map(([name], k) => button(name, () => load(k)));
  const undo = button("Undo", () => act(past.length ? "Undone." : "There is nothing to undo.", () => { map = past.pop() ?? map; }));
  const switches = Object.entries(RULES).map(([key, text]) => button(text, () => act(`${text}: ${rules[key] ? "off" : "on"}.`, () => { rules[key] = !rules[key]; })));
  const swap = button("Swap prediction and truth", () => act(swapped ? "Swapped back." : "Swapped.", () => { swapped = !swapped; }));
  const hint = el("p", {class: "hint"}), status = el("p", {class: "status num"}), list = el("ul", {class: "num"}), body = el("tbody"), reverse = el("p", {class: "num"});
  const head = ["Class", "Σ IoU /\n(TP + ½ FP + ½ FN)", "SQ", "RQ", "PQ"].map(text => el("th", {scope: "col"}, text));
  const say = card(root, "Panoptic quality of a prediction to edit", CSS,
    el("p", {class: "lead"}, "Edit the prediction and watch what matches: same class and IoU above ½. Solid outlines are TP, dashed ones FP or FN, dotted ones don't count. Void is striped."),
    group("Start", ...presets), el("div", {class: "row"}, left.root, right.root),
    group("Tool", ...tools, brush, rename, undo, button("Reset", () => load(loaded))), hint, status, group("Rules", ...switches, swap),
    el("div", {class: "row"}, el("div", {class: "half"}, el("table", {class: "num"}, el("thead", {}, el("tr", {}, ...head)), body), reverse), el("div", {class: "half"}, list)));
  root.host.setAttribute("data-lm-suppress-shortcuts", "true");  // JupyterLab would take the keys for its own

  // Says what happened, with PQ before and after.
  function tell(text, before) {
    status.textContent = text + (before === undefined ? "" : ` PQ ${number(before)} → ${number(shown.all.pq)}.`);
    say(status.textContent);
  }
  function act(text, change) {
    drop();
    const before = shown.all.pq;
    change();
    draw();
    tell(text, before);
  }

  function begin(i) {
    stroke = {path: [i], before: map, pq: shown.all.pq};
    extend(i);
  }
  function extend(i) {
    stroke.path.push(...line(stroke.path.at(-1), i, W));
    stroke.made = edit(stroke.before, tool, stroke.path, +(tool === "Class" ? rename : brush).value, W, categories);
    map = stroke.made.map;
    draw();
  }
  function end() {
    const {before, pq, made} = stroke;
    stroke = null;
    draw();
    if (map !== before) past.push(before);
    tell(made.text, pq);
  }
  function drop() {
    if (stroke) [map, stroke] = [stroke.before, null];
  }

  const go = i => { right.cells[cursor].tabIndex = -1; right.cells[cursor = i].tabIndex = 0; right.cells[i].focus(); };
  const press = i => {
    go(i);
    if (stroke) return end();
    begin(i);
    if (tool === "Class") end();
    else tell("The stroke starts here: arrows extend it, Space ends it.");
  };
  const under = e => {
    const {left, top, width} = right.grid.getBoundingClientRect(), place = (v, n) => clamp(Math.floor(v / width * W), 0, n - 1);
    return place(e.clientY - top, H) * W + place(e.clientX - left, W);
  };
  const hear = (type, f) => right.grid.addEventListener(type, f);
  hear("pointerdown", e => {
    if (e.button) return;
    e.preventDefault();
    right.grid.setPointerCapture(e.pointerId);
    drop();
    go(under(e));
    begin(cursor);
  });
  hear("pointermove", e => { if (stroke && e.buttons && under(e) !== cursor) { go(under(e)); extend(cursor); } });
  hear("pointerup", () => { if (stroke) end(); });
  hear("pointercancel", () => { drop(); draw(); });
  hear("click", e => { if (!e.detail) press(right.cells.indexOf(e.target)); });  // by a screen reader
  hear("keydown", e => {
    if (e.key !== " " && e.key !== "Escape") return;
    e.preventDefault();
    e.stopPropagation();
    if (e.key === " ") press(cursor);
    else if (stroke) act("The stroke is dropped.", () => {});
  });
  arrows(right.grid, (dx, dy) => {
    go(clamp(Math.floor(cursor / W) + dy, 0, H - 1) * W + clamp(cursor % W + dx, 0, W - 1));
    if (stroke) extend(cursor);
  });

  const ratio = b => `IoU ${b.common} / ${b.all} = ${b.iou.toFixed(2)}`;
  const WHY = {
    TP: ({best, inVoid}) => ` ↔ ${full(best.t)}: ${ratio(best)}${rules.union && inVoid ? `, ${inVoid} void cells left out` : ""}`,
    FP: ({best}) => best?.common ? `: ${ratio(best)} with ${full(best.t)}, not above ½` : ": meets no true segment of its class",
    FN: () => ": nothing matches it",
    ignored: ({hidden, area}) => `: ${hidden} of ${area} cells in void or in a crowd of its class`,
    crowd: () => ": neither matched nor missed",
  };

  function draw() {
    const roles = swapped ? [map, truth] : [truth, map];
    shown = judge(...roles);
    const lines = [...shown.fates, ...shown.missed.map(p => ({p, mark: "FN"})), ...shown.crowds.map(p => ({p, mark: "crowd"}))];
    const fates = Object.keys(WHY).flatMap(mark => lines.filter(f => f.mark === mark));
    const marks = new Map([...roles[0].segments.map(t => [t, "TP"]), ...fates.map(f => [f.p, f.mark])]);
    [left.title.textContent, right.title.textContent] = swapped ? ["Truth, taken as prediction", "Your prediction, taken as truth"] : ["Truth", "Prediction, yours to edit"];
    left.draw(truth, marks);
    right.draw(map, marks);
    left.grid.setAttribute("aria-label", `${left.title.textContent}: ${truth.segments.map(s => `${full(s)} ${marks.get(s)}`).join(", ")}`);
    for (const i of stroke ? stroke.path : []) right.cells[i].classList.add("on");
    const mark = (buttons, on) => buttons.forEach((b, k) => b.setAttribute("aria-pressed", on(k, b)));
    mark(presets, k => map === predictions[k][1]);
    mark(tools, (k, b) => b.textContent === tool);
    mark(switches, k => Object.values(rules)[k]);
    mark([swap], () => swapped);
    [brush.hidden, rename.hidden] = [tool !== "Paint", tool !== "Class"];
    hint.textContent = `${HINTS[tool]} By keyboard: arrows move, Space starts a stroke and ends it, Esc drops it.`;
    list.replaceChildren(...fates.map(f => el("li", {}, el("b", {class: f.mark}, f.mark), el("span", {}, full(f.p) + WHY[f.mark](f)))));
    const row = (name, text, c, key) => el("tr", {class: key}, el("th", {scope: "row"}, ...name), ...[text, number(c.sq), number(c.rq), number(c.pq)].map(t => el("td", {}, t)));
    body.replaceChildren(...shown.classes.map((c, category) => row([el("i", {style: `background: ${color({category})}`}), categories[category].name],
      isNaN(c.pq) ? "left out" : `${c.iou.toFixed(3)} / (${c.tp} + ½·${c.fp} + ½·${c.fn})`, c)),
    ...["things", "stuff", "all"].map(key => row([key], `mean of ${shown[key].classes}`, shown[key], key)));
    reverse.textContent = `${swapped ? "Not swapped" : "With prediction and truth swapped"}: PQ ${number(judge(roles[1], roles[0]).all.pq)}.`;
  }
  right.cells[cursor].tabIndex = 0;
  draw();
  tell(`${predictions[start][0]}: PQ ${number(shown.all.pq)}.`);
}
