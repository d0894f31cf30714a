// One prediction, many conventions: which mean of IoU or Dice a report may print, and the sum that leads to it.

// The choices of each question; the first one is seglib's.
export const RULES = {
  score: ["iou", "dice"],
  void: ["ignored", "error"],
  mean: ["dataset", "images", "classes"],
  absent: ["skip", "zero", "one"],
  predicted: ["zero", "skip"],
};

// TP, true and predicted pixels of every class: images hold {truth, pred}, flat lists of classes, and void in the truth.
export function counts({truth, pred}, K, voidId, rules) {
  const list = Array.from({length: K}, () => ({tp: 0, row: 0, column: 0}));
  truth.forEach((t, i) => {
    const p = pred[i];
    if (t === voidId) {
      if (rules.void === "error") list[p].column++;
      return;
    }
    list[t].row++;
    list[p].column++;
    if (t === p) list[t].tp++;
  });
  return list;
}

// The score of one class as a fraction; value is null where it is left out.
export function cell({tp, row, column}, rules) {
  const top = rules.score === "iou" ? tp : 2 * tp, below = row + column - (rules.score === "iou" ? tp : 0);
  if (!below) return {top, below, why: "absent", value: {skip: null, zero: 0, one: 1}[rules.absent]};
  if (!row && rules.predicted === "skip") return {top, below, why: "predicted", value: null};
  return {top, below, why: row ? "" : "predicted", value: top / below};
}

export function mean(values) {
  const kept = values.filter(v => v !== null);
  return kept.length ? kept.reduce((a, b) => a + b, 0) / kept.length : null;
}

// The table that the rules make, [column][class], the means on the way, and the final score (null where nothing is left).
export function scoreOf(images, K, voidId, rules) {
  let columns = images.map(image => counts(image, K, voidId, rules));
  if (rules.mean === "dataset") columns = [columns.reduce((sum, list) => sum.map((a, k) => (
    {tp: a.tp + list[k].tp, row: a.row + list[k].row, column: a.column + list[k].column})))];
  const table = columns.map(list => list.map(c => cell(c, rules)));
  const values = table.map(list => list.map(c => c.value));
  const parts = rules.mean === "classes" ? values[0].map((_, k) => mean(values.map(list => list[k])))
    : rules.mean === "images" ? values.map(mean) : values[0];
  return {table, parts, score: mean(parts)};
}

// Every combination of the rules.
export const combinations = () => Object.entries(RULES).reduce((list, [key, options]) =>
  list.flatMap(rules => options.map(v => ({...rules, [key]: v}))), [{}]);

const QUESTIONS = [
  ["score", "Score", {iou: "IoU", dice: "Dice"}],
  ["void", "Void pixels", {ignored: "not judged", error: "judged as errors"}],
  ["mean", "Averaging", {dataset: "add up, then divide", images: "mean of images", classes: "mean of classes"}],
  ["absent", "A class in neither map", {skip: "left out", zero: "counts 0", one: "counts 1"}],
  ["predicted", "A class only predicted", {zero: "counts 0", skip: "left out"}],
];
const digits = v => v === null ? "0 / 0" : v.toFixed(3);
const plus = values => { // the sum of a mean, written out
  const kept = values.filter(v => v !== null);
  return kept.length ? `(${kept.map(v => v.toFixed(2)).join(" + ")}) / ${kept.length}` : "nothing to average";
};

export function render(root, {images, names, colors, width, void: VOID_ID, rules: START}) {
  const K = names.length, first = images.map(({pred}) => pred);
  let rules = {...START}, preds = first.map(p => [...p]), at = preds.map(() => 0);
  const look = c => c === VOID_ID ? "" : `background:${colors[c]}`;
  const letter = c => c === VOID_ID ? "–" : names[c][0].toUpperCase();
  const label = (i, k) => `Image ${i + 1}, row ${Math.floor(k / width) + 1}, column ${k % width + 1}: predicted ${names[preds[i][k]]}, `
    + `truth ${images[i].truth[k] === VOID_ID ? "void" : names[images[i].truth[k]]}`;
  const grid = name => el("div", {class: "grid", role: "group", "aria-label": name, style: `--columns:${width}`});
  const cells = images.map(({truth}, i) => truth.map((_, k) => el("button", {type: "button", class: "cell", onclick: () => {
    preds[i][k] = (preds[i][k] + 1) % K;
    at[i] = k;
    draw();
  }})));
  const blocks = images.map(({truth}, i) => {
    const real = el("div", {class: "grid", role: "img", "aria-label": `Truth of image ${i + 1}: `
      + truth.map(c => c === VOID_ID ? "void" : names[c]).join(", "), style: `--columns:${width}`});
    real.append(...truth.map(c => el("span", {class: c === VOID_ID ? "cell void" : "cell", style: look(c)}, letter(c))));
    const said = grid(`Prediction of image ${i + 1}; press a cell for another class`);
    said.append(...cells[i]);
    arrows(said, (dx, dy) => {
      const x = clamp(at[i] % width + dx, 0, width - 1), y = clamp(Math.floor(at[i] / width) + dy, 0, truth.length / width - 1);
      at[i] = y * width + x;
      draw();
      cells[i][at[i]].focus();
    });
    return el("div", {class: "image"}, el("b", {}, `Image ${i + 1}`),
      el("div", {class: "pair"}, el("div", {}, "truth", real), el("div", {}, "prediction", said)));
  });
  const toggles = {};
  const controls = QUESTIONS.map(([key, title, options]) => el("div", {class: "question", role: "group", "aria-label": title},
    el("span", {}, title), ...Object.entries(options).map(([value, text]) =>
      toggles[key + value] = el("button", {type: "button", onclick: () => { rules[key] = value; draw(); }}, text))));
  const table = el("div", {class: "table", tabindex: 0, role: "region", "aria-label": "Scores of every class"}), result = el("b", {class: "result"});
  const sum = el("p", {class: "sum num"}), all = el("p", {class: "all"}), strip = el("svg", {viewBox: "0 0 300 26", role: "img"});
  const reset = el("button", {type: "button", onclick: () => {
    [rules, preds] = [{...START}, first.map(p => [...p])];
    draw();
  }}, "Reset");
  const say = card(root, "One prediction, many conventions", `
    .images { display: flex; flex-wrap: wrap; gap: 10px 20px; } .pair { display: flex; gap: 8px; color: var(--soft); font-size: 12.5px; }
    .grid { display: grid; grid-template-columns: repeat(var(--columns), 26px); gap: 2px; }
    .cell { width: 26px; height: 26px; min-height: 0; padding: 0; border: 1px solid transparent; border-radius: 3px; color: #1f2933;
      font-size: 12.5px; line-height: 24px; text-align: center; } .cell.void { color: var(--ink); background: var(--wash); border-color: var(--line); }
    .cell.wrong { border: 3px solid #1f2933; box-shadow: 0 0 0 1px var(--soft); line-height: 18px; font-weight: 700; } .cell.free { opacity: 1; border: 1px dashed #1f2933; }
    .question { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin-top: 8px; } .question span { flex: 0 0 168px; color: var(--soft); }
    .table { overflow-x: auto; margin-top: 12px; } table { border-collapse: collapse; } th, td { padding: 2px 12px 2px 0; text-align: left; font-weight: 400; }
    th { color: var(--soft); } .out { color: var(--soft); } .result { font-size: 20px; } .sum { margin: 8px 0 0; overflow-wrap: anywhere; }
    .all { margin: 8px 0 4px; color: var(--soft); } svg { max-width: 520px; } .other { fill: color-mix(in srgb, var(--blue) 70%, var(--ink)); fill-opacity: .65; } .end { margin-top: 10px; }
    @media (max-width: 520px) { .question span { flex-basis: 100%; } }`,
    el("p", {class: "lead"}, "Three images of 16 pixels, with their truth and one prediction. Choose the conventions: the prediction stays, the score moves. "
      + "Press a cell of a prediction to give it another class. Thick frames are errors; dashed ones lie on void (–)."),
    el("div", {class: "images"}, ...blocks), ...controls, table, sum, all, strip, el("div", {class: "end"}, reset));

  function draw() {
    const now = images.map(({truth}, i) => ({truth, pred: preds[i]})), found = scoreOf(now, K, VOID_ID, rules);
    cells.forEach((list, i) => list.forEach((b, k) => {
      const t = images[i].truth[k], p = preds[i][k];
      b.textContent = letter(p);
      b.style.cssText = look(p);
      b.className = "cell" + (t === VOID_ID ? rules.void === "error" ? " wrong" : " free" : t === p ? "" : " wrong");
      b.tabIndex = k === at[i] ? 0 : -1;
      b.setAttribute("aria-label", label(i, k));
    }));
    for (const [key, , options] of QUESTIONS) for (const value in options) toggles[key + value].setAttribute("aria-pressed", rules[key] === value);
    const heads = rules.mean === "dataset" ? ["all images"] : images.map((_, i) => `image ${i + 1}`), rows = names.map((name, k) => {
      const shown = found.table.map(list => {
        const c = list[k], fraction = `${c.top}/${c.below}`;
        return el("td", c.value === null ? {class: "out"} : {}, c.value === null ? `${fraction}, left out` : c.why === "absent" ? `${fraction}, counts ${c.value}`
          : `${fraction} = ${c.value.toFixed(2)}`);
      });
      return el("tr", {}, el("th", {scope: "row"}, name), ...shown, ...rules.mean === "classes" ? [el("td", {}, digits(found.parts[k]))] : []);
    });
    const last = rules.mean === "images" ? [el("tr", {}, el("th", {scope: "row"}, "mean"), ...found.parts.map(v => el("td", {}, digits(v))))] : [];
    table.replaceChildren(el("table", {class: "num"}, el("thead", {}, el("tr", {}, el("th", {scope: "col"}, rules.score === "iou" ? "IoU" : "Dice"),
      ...[...heads, ...rules.mean === "classes" ? ["mean"] : []].map(h => el("th", {scope: "col"}, h)))), el("tbody", {}, ...rows, ...last)));
    const name = rules.score === "iou" ? "mIoU" : "mean Dice", ours = Object.keys(RULES).slice(1).every(key => rules[key] === RULES[key][0]);
    result.textContent = `${name} ${digits(found.score)}`;
    sum.replaceChildren(result, ` = ${plus(found.parts)}${ours ? ", seglib's convention" : ""}`);
    const every = combinations().filter(r => r.score === rules.score).map(r => scoreOf(now, K, VOID_ID, r).score).filter(v => v !== null);
    const low = Math.min(...every), high = Math.max(...every);
    all.textContent = every.length ? `The ${every.length} conventions for this ${name} run from ${low.toFixed(3)} to ${high.toFixed(3)}:` : "";
    const x = v => (10 + 280 * v).toFixed(1);
    strip.setAttribute("aria-label", `A line from 0 to 1 with the score of every convention; the chosen one is ${digits(found.score)}`);
    strip.replaceChildren(el("line", {x1: 10, x2: 290, y1: 13, y2: 13, stroke: "var(--line)"}),
      ...every.map(v => el("circle", {cx: x(v), cy: 13, r: 3, class: "other"})),
      ...found.score === null ? [] : [el("circle", {cx: x(found.score), cy: 13, r: 6, fill: "none", stroke: "var(--accent)", "stroke-width": 2.5})]);
    say(`${name} ${digits(found.score)}.`);
  }
  draw();
}
