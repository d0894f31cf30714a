// One-to-one matching of queries and objects: costs to edit, the optimal matching, and the greedy one beside it.

// All one-to-one matchings of n rows and m columns, with as many pairs [row, column] as the shorter side has.
export function matchings(n, m) {
  if (n > m) return matchings(m, n).map(pairs => pairs.map(([c, r]) => [r, c]).sort(([a], [b]) => a - b));
  const free = pairs => [...Array(m).keys()].filter(c => pairs.every(pair => pair[1] !== c));
  const extend = pairs => pairs.length === n ? [pairs] : free(pairs).flatMap(c => extend([...pairs, [pairs.length, c]]));
  return extend([]);
}

export const total = (costs, pairs) => pairs.reduce((sum, [r, c]) => sum + costs[r][c], 0);

// The matching of the lowest total by trying all of them, how many were tried and how many share that total.
export function optimal(costs) {
  const all = matchings(costs.length, costs[0].length), totals = all.map(pairs => total(costs, pairs)), low = Math.min(...totals);
  const best = all.filter((_, i) => totals[i] < low + 1e-9);  // sums of equal numbers may differ in their last digit
  return {pairs: best[0], tried: all.length, count: best.length};
}

// The cheapest pair whose row and column are free, again and again; of equal costs the first one, row by row.
export function greedy(costs) {
  const pairs = costs.flatMap((row, r) => row.map((_, c) => [r, c])).sort(([r, c], [i, j]) => costs[r][c] - costs[i][j]);
  return pairs.reduce((chosen, [r, c]) => chosen.some(([i, j]) => i === r || j === c) ? chosen : [...chosen, [r, c]], []);
}

const number = v => String(+v.toFixed(2)).replace("-", "−");
const has = (pairs, r, c) => pairs.some(([i, j]) => i === r && j === c);

// What the greedy matching loses and why, what ties, and who is left over: in words.
export function verdict(costs, rows, columns) {
  const first = greedy(costs), {pairs, tried, count} = optimal(costs), loss = total(costs, first) - total(costs, pairs), said = [];
  const name = ([r, c]) => `${rows[r]} with ${columns[c]}`, cost = ([r, c]) => number(costs[r][c]);
  if (loss > 1e-9) {
    const wrong = first.find(([r, c]) => !has(pairs, r, c)), end = first.at(-1);
    said.push(`Greedy loses ${number(loss)}. It takes ${name(wrong)} for ${cost(wrong)}, and its last pair, ${name(end)}, costs ${cost(end)}.`);
  } else said.push(first.every(([r, c]) => has(pairs, r, c)) ? "Greedy is optimal here." : "Greedy reaches the lowest total by other pairs.");
  said.push(`Optimal is the lowest total of all ${tried} matchings${count > 1 ? `; ${count} of them share it` : ""}.`);
  const left = (names, side) => names.filter((_, i) => pairs.every(pair => pair[side] !== i)), list = names => names.join(" and ");
  const [spare, missed] = [left(rows, 0), left(columns, 1)];
  if (spare.length) said.push(`In it ${list(spare)} ${spare.length > 1 ? "get" : "gets"} “no object”.`);
  if (missed.length) said.push(`In it ${list(missed)} ${missed.length > 1 ? "go" : "goes"} without a query: a query serves one object.`);
  return said.join(" ");
}

export function render(root, p) {
  const names = (given, n, make) => given?.length === n ? given : Array.from({length: n}, (_, i) => make(i));
  let costs, rows, columns, inputs;
  const body = el("table", {class: "num"}), status = el("p", {class: "status num"});
  const panel = (title, mark) => {
    const svg = el("svg", {role: "img"}), sum = el("p", {class: "sum num"});
    return {svg, sum, title, root: el("div", {class: `side ${mark}`}, el("p", {class: "name"}, el("i"), title), svg, sum)};
  };
  const ours = panel("Greedy: cheapest free pair first", "greedy"), best = panel("Optimal: lowest total", "best");
  const button = (text, click) => el("button", {type: "button", onclick: click}, text);
  const presets = p.presets.map(([name, start]) => button(name, () => load(start)));
  const random = button("Random costs", () => load(costs.map(row => row.map(() => Math.round(20 * Math.random()) / 10))));
  const say = card(root, "Matching queries and objects", `
    .matrix { flex: 0 1 auto; min-width: 0; overflow-x: auto; } .status { flex: 1 1 220px; margin: 0; align-self: center; } .sides { margin-top: 12px; } .side { flex: 1 1 230px; min-width: 0; max-width: 310px; --mark: var(--accent); --dash: 4 3; }
    table { border-spacing: 4px; margin: 0 0 0 -4px; } th { font-weight: 600; font-size: 13px; text-align: left; padding: 0 2px; white-space: nowrap; } thead th { text-align: center; }
    td { padding: 3px; border: 2px solid transparent; border-radius: 9px; } td.best { border-color: var(--pick); }
    input { font: inherit; width: 100%; min-width: 44px; max-width: 84px; height: 34px; color: var(--ink); background: var(--bg); border: 1px solid var(--line); border-radius: 6px; padding: 2px 4px; text-align: center; }
    td.greedy input { outline: 2px dashed var(--accent); outline-offset: -1px; } td input:focus-visible { outline: 3px solid var(--ink); outline-offset: 0; }
    input:invalid { background: ${tint("orange", 0.25)}; } :host { --pick: color-mix(in srgb, var(--blue) 75%, var(--ink)); }
    .best { --mark: var(--pick); --dash: none; } .name { font-weight: 600; margin: 0 0 4px; } .sum { margin: 4px 0 0; }
    i { display: inline-block; width: 16px; height: 12px; border: 2px dashed var(--mark); border-radius: 3px; margin-right: 6px; } .best i { border-style: solid; }
    svg text { font-size: 13px; fill: var(--ink); paint-order: stroke; stroke: var(--bg); stroke-width: 4px; stroke-linejoin: round; } .cost { text-anchor: middle; font-weight: 600; }
    .pair { stroke: var(--mark); stroke-width: 2; stroke-dasharray: var(--dash); } circle { fill: var(--mark); } .free { fill: var(--bg); stroke: var(--soft); } svg .alone { fill: var(--soft); }`,
    el("p", {class: "lead"}, "Each number is the cost of giving an object to a query. Change one by typing or by the arrow keys. Solid frames: the optimal matching. Dashed: the greedy one."),
    el("div", {class: "row"}, el("div", {class: "matrix"}, body), status), el("div", {class: "row sides"}, ours.root, best.root), el("div", {class: "controls"}, ...presets, random));

  function load(start) {
    costs = start.map(row => [...row]);
    rows = names(p.rows, costs.length, r => `query ${r + 1}`);
    columns = names(p.columns, costs[0].length, c => `object ${"ABCDE"[c]}`);
    inputs = costs.map((row, r) => row.map((v, c) => {
      const input = el("input", {type: "number", inputmode: "decimal", required: "", step: 0.1, min: -99, max: 99, value: v, "aria-label": `Cost of ${rows[r]} with ${columns[c]}`});
      input.addEventListener("input", () => {
        const value = input.valueAsNumber;
        if (!(Math.abs(value) <= 99)) return;  // not a number yet
        costs[r][c] = Math.round(100 * value) / 100;
        draw();
      });
      input.addEventListener("change", () => { input.value = costs[r][c]; });
      return input;
    }));
    body.replaceChildren(el("thead", {}, el("tr", {}, el("td"), ...columns.map(c => el("th", {scope: "col"}, c)))),
      el("tbody", {}, ...inputs.map((list, r) => el("tr", {}, el("th", {scope: "row"}, rows[r]), ...list.map(input => el("td", {}, input))))));
    draw();
  }

  function plot({svg, sum, title}, pairs, ordered) {
    const n = costs.length, m = columns.length, high = 36 * Math.max(n, m), y = (i, count) => (i + 0.5) * high / count;
    const [x0, beyond] = [rows, columns].map(list => 12 + 7 * Math.max(...list.map(name => name.length))), x1 = x0 + 110;
    const nodes = (list, side, x) => list.flatMap((name, i) => {
      const free = pairs.every(pair => pair[side] !== i), at = y(i, list.length);
      return [el("circle", {class: free ? "free" : "", cx: x, cy: at, r: 5}), el("text", {class: free ? "alone" : "", x: x + (side ? 10 : -10), y: at + 4.5, "text-anchor": side ? "start" : "end"})];
    });
    const lines = pairs.map(([r, c]) => el("line", {class: "pair", x1: x0, y1: y(r, n), x2: x1, y2: y(c, m)}));
    // Costs stand near the query's end, where lines are apart.
    const marks = pairs.map(([r, c]) => el("text", {class: "cost", x: x0 + 0.23 * (x1 - x0), y: y(r, n) + 0.23 * (y(c, m) - y(r, n)) + 4.5}));
    const left = nodes(rows, 0, x0), right = nodes(columns, 1, x1), value = ([r, c]) => number(costs[r][c]);
    marks.forEach((e, k) => { e.textContent = value(pairs[k]); });
    [[left, rows], [right, columns]].forEach(([list, all]) => all.forEach((name, i) => { list[2 * i + 1].textContent = name; }));
    svg.setAttribute("viewBox", `0 0 ${x1 + beyond} ${high}`);
    svg.replaceChildren(...lines, ...left, ...right, ...marks);
    const result = number(total(costs, pairs));
    sum.textContent = `${pairs.map(value).join(" + ")} = `;
    sum.append(el("b", {}, result));
    svg.setAttribute("aria-label", `${title}. ${pairs.map(([r, c], k) => `${ordered ? `${k + 1}. ` : ""}${rows[r]} with ${columns[c]}, ${value([r, c])}`).join("; ")}. Total ${result}.`);
  }

  function draw() {
    const first = greedy(costs), {pairs} = optimal(costs);
    inputs.forEach((list, r) => list.forEach((input, c) => {
      const cell = input.parentNode, marks = [[first, "greedy"], [pairs, "best"]].filter(([chosen]) => has(chosen, r, c)).map(([, mark]) => mark);
      cell.className = marks.join(" ");
      input.setAttribute("aria-description", marks.map(mark => ({greedy: "in the greedy matching", best: "in the optimal matching"})[mark]).join(", "));
    }));
    plot(ours, first, true);
    plot(best, pairs, false);
    presets.forEach((b, k) => b.setAttribute("aria-pressed", JSON.stringify(costs) === JSON.stringify(p.presets[k][1])));
    status.textContent = verdict(costs, rows, columns);
    say(`Greedy ${number(total(costs, first))}, optimal ${number(total(costs, pairs))}. ${status.textContent}`);
  }
  load(p.presets[0][1]);
}
