// A guess that is a set of cells: click them, paint over them, or go by arrow keys and space.

// Numbers of cells that are right, missed and too many, and their IoU.
export function overlap(cells, answer) {
  const truth = answer.join(""), count = pair => [...cells.join("")].filter((v, i) => v + truth[i] === pair).length;
  const [right, missed, extra] = [count("11"), count("01"), count("10")];
  return {right, missed, extra, iou: right / (right + missed + extra)};
}

export const fits = ({answer}, v) => Array.isArray(v) && v.length === answer.length
  && v.every((row, y) => /^[01]+$/.test(row) && row.length === answer[y].length);

export function judge({answer}, v) {
  if (v === null) return "The answer is marked.";
  const {right, missed, extra, iou} = overlap(v, answer), all = right + missed + extra;
  return `${missed + extra ? "" : "All cells are right. "}Right: ${right}. Missed: ${missed}. Too many: ${extra}. `
    + `IoU = ${right} / ${all} = ${iou.toFixed(2)}.`;
}

function input({answer, given}) {
  const width = answer[0].length, truth = answer.join(""), hint = el("div", {class: "hint"});
  const place = i => [Math.floor(i / width), i % width], on = cell => cell.getAttribute("aria-selected") === "true";
  const cells = [...truth].map((_, i) => {
    const [y, x] = place(i), cell = el("div", {role: "gridcell"});
    if (given) cell.style.setProperty("--given", `#${given[y].slice(6 * x, 6 * x + 6)}`);
    return cell;
  });
  const board = el("div", {role: "grid", "aria-label": "Cells", "aria-multiselectable": "true", style: `--columns: ${width}`},
    ...answer.map((_, y) => el("div", {role: "row"}, ...cells.slice(y * width, (y + 1) * width))));
  let brush = null, done = false;
  const paint = (cell, value = !on(cell)) => {
    if (!done && cells.includes(cell)) cell.setAttribute("aria-selected", brush = value);
  };
  const go = cell => {
    for (const c of cells) c.tabIndex = c === cell ? 0 : -1;
    cell.focus();
  };
  board.addEventListener("pointerdown", e => {
    if (e.button || !cells.includes(e.target)) return;
    e.preventDefault();
    go(e.target);
    paint(e.target);
  });
  board.addEventListener("pointermove", e => {
    if (!e.buttons) brush = null;
    if (brush !== null) paint(board.getRootNode().elementFromPoint(e.clientX, e.clientY), brush);
  });
  board.addEventListener("click", e => { if (!e.detail) paint(e.target); });  // by a screen reader
  board.addEventListener("keydown", e => {
    if (e.key !== " ") return;
    e.preventDefault();
    paint(e.target);
  });
  arrows(board, (dx, dy, e) => {
    const [y, x] = place(cells.indexOf(e.target));
    const next = cells[clamp(y + dy, 0, answer.length - 1) * width + clamp(x + dx, 0, width - 1)];
    if (e.shiftKey) paint(next, on(e.target));
    go(next);
  });
  return {
    root: el("div", {}, board, hint), focus: () => cells.find(cell => cell.tabIndex === 0), want: "Mark at least one cell.",
    read: () => cells.some(on) ? answer.map((_, y) => cells.slice(y * width, (y + 1) * width).map(c => +on(c)).join("")) : undefined,
    show(v) {
      const names = {11: "right", "01": "missed", 10: "too many", "-1": "the answer"}, seen = new Set();
      done = v !== undefined;
      cells.forEach((cell, i) => {
        const mine = v ? v.join("")[i] : "-", name = done && names[mine + truth[i]] || "", [y, x] = place(i);
        cell.className = name;
        cell.tabIndex = i ? -1 : 0;
        cell.setAttribute("aria-selected", mine === "1");
        cell.setAttribute("aria-label", `row ${y + 1}, column ${x + 1}${name && ": "}${name}`);
        if (name) seen.add(name);
      });
      hint.replaceChildren(...done ? [...seen].map(name => el("span", {}, el("i", {class: name}), name))
        : ["Click cells or paint over them. By keyboard: arrows move, space marks, shift and arrows paint."]);
    },
  };
}

const STYLE = `
[role=grid] { width: min(100%, var(--columns) * 40px); touch-action: none; user-select: none; -webkit-user-select: none; }
[role=row] { display: flex; margin-bottom: -1px; } [role=gridcell] { flex: 1; aspect-ratio: 1; cursor: pointer; margin-right: -1px; }
[role=gridcell], i { position: relative; display: grid; place-items: center; background: var(--given, var(--bg)); border: 1px solid var(--line); }
[role=gridcell]:focus-visible { z-index: 1; outline-offset: -1px; border-radius: 0; }
[aria-selected=true], .right, .missed, .the { --mark: var(--blue); } .too { --mark: var(--orange) !important; }
[aria-selected=true], .right, .missed, .the, .too { box-shadow: inset 0 0 0 4px var(--mark), inset 0 0 0 5px #fff; }
[aria-selected=true]::before, .right::before, .too::before, .the::before { content: ""; position: absolute; inset: 0;
  background: var(--mark); opacity: .5; }
.right::after, .missed::after, .too::after { position: relative; font: 700 11px/15px sans-serif; width: 15px; text-align: center;
  border-radius: 50%; color: #1f2933; background: #fff; }
.right::after { content: "✓"; } .missed::after { content: "–"; } .too::after { content: "✗"; }
.hint { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 9px; color: var(--soft); font-size: 13px; }
.hint span { display: flex; gap: 6px; align-items: center; } .hint i { width: 30px; height: 30px; }`;
