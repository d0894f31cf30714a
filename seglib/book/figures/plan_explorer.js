// The facts of a data set to change, and nnU-Net's plan for it: rule by rule with the reason, and the network as a U.

const CONFIGURATIONS = ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"];

// Distinct values from low to high in about equal ratios; round makes them short.
const ladder = (low, high, steps, round) => [...new Set(Array.from({length: steps + 1}, (_, i) => round(low * (high / low) ** (i / steps))))];
const MILLIMETRES = ladder(0.2, 12, 90, v => +v.toPrecision(2)), VOXELS = ladder(1, 1024, 90, Math.round);
const whole = (low, high, step = 1) => Array.from({length: (high - low) / step + 1}, (_, i) => low + i * step);

// What the reader sets: [group, label, key, axis or null, values of the slider, lowest, highest].
const FIELDS = [
  ...["z", "y", "x"].map((axis, i) => ["Spacing, mm", axis, "spacing", i, MILLIMETRES, 0.001, 1000]),
  ...["z", "y", "x"].map((axis, i) => ["Median size, voxels", axis, "size", i, VOXELS, 1, 4096]),
  ["Data set", "Cases", "cases", null, ladder(1, 1000, 60, Math.round), 1, 10000],
  ["Data set", "Spacing ± %", "spread", null, whole(0, 90, 5), 0, 90],
  ["Data set", "Channels", "channels", null, whole(1, 8), 1, 64],
  ["Task and budget", "Classes", "classes", null, ladder(2, 120, 40, Math.round), 2, 500],
  ["Task and budget", "Memory, GB", "memory", null, whole(2, 80), 1, 200],
];
const WHOLE = ["size", "cases", "spread", "classes", "channels"];
const nameOf = ([group, label]) => label.length > 1 ? label.split(",")[0] : `${group.startsWith("S") ? "Spacing" : "Size"} ${label}`; // "Spacing z", "Memory"

// A number to type and a slider for it. change(value) is called with valid numbers only, done() at the end of a movement.
function entry([group, label, key, , values, low, high], change, done) {
  const name = label.length > 1 ? label : nameOf([group, label]) + group.slice(group.indexOf(",")), integer = WHOLE.includes(key);
  const number = el("input", {type: "number", min: low, max: high, step: integer ? 1 : "any", "aria-label": name, inputmode: integer ? "numeric" : "decimal"});
  const range = el("input", {type: "range", min: 0, max: values.length - 1, "aria-label": `${name}, slider`});
  const place = v => { range.value = values.reduce((best, w, i) => Math.abs(w - v) < Math.abs(values[best] - v) ? i : best, 0); };
  const speak = v => range.setAttribute("aria-valuetext", v);
  number.addEventListener("input", () => {
    const v = +number.value, valid = number.value !== "" && v >= low && v <= high && (!integer || Number.isInteger(v));
    number.setAttribute("aria-invalid", !valid);
    if (valid) { place(v); speak(v); change(v); }
  });
  range.addEventListener("input", () => {
    const v = values[range.value];
    number.value = v;
    number.setAttribute("aria-invalid", false);
    speak(v);
    change(v);
  });
  for (const input of [number, range]) input.addEventListener("change", done);
  return {
    root: el("div", {class: "entry"}, el("span", {"aria-hidden": "true"}, label), number, range),
    set(v) { number.value = v; number.setAttribute("aria-invalid", false); place(v); speak(v); },
  };
}

// presets: [name, settings, what to see].
export function render(root, {presets: PRESETS, preset: first}) {
  let state = structuredClone(PRESETS[first][1]), shown = "3d_fullres", before = null, moving = null, loaded = first;
  const button = (text, onclick) => el("button", {type: "button", onclick}, text);
  const group = (label, ...parts) => el("div", {class: "controls", role: "group", "aria-label": label}, el("span", {}, label), ...parts);
  const get = (s, key, axis) => axis === null ? s[key] : s[key][axis];
  // A movement of one control has one state before it, however many values it passes.
  const begin = what => { if (moving !== what) [before, moving] = [structuredClone(state), what]; loaded = null; };
  const done = () => { moving = null; };
  const shownAs = (key, v) => key === "spread" ? Math.round(100 * v) : v;

  const entries = FIELDS.map(f => {
    const [, , key, axis] = f;
    return entry(f, v => {
      begin(nameOf(f));
      if (axis === null) state[key] = key === "spread" ? v / 100 : v; else state[key][axis] = v;
      draw();
    }, done);
  });
  const planner = el("select", {"aria-label": "Planner", onchange: () => {
    begin("Planner");
    Object.assign(state, {planner: planner.value, memory: PLANNERS[planner.value].memory});
    done();
    draw();
  }}, ...Object.entries(PLANNERS).map(([value, {name}]) => el("option", {value}, name)));
  const chosen = el("div", {class: "entry"}, el("span", {"aria-hidden": "true"}, "Planner"), planner);
  const fieldsets = [...new Set(FIELDS.map(f => f[0]))].map(name => el("div", {class: "fields", role: "group", "aria-label": name}, el("p", {}, name),
    el("div", {}, ...entries.filter((_, k) => FIELDS[k][0] === name).map(e => e.root), ...name.startsWith("Task") ? [chosen] : [])));
  const presets = PRESETS.map(([name], k) => button(name, () => { load(k); }));
  const tabs = CONFIGURATIONS.map(name => button(name, () => { shown = name; draw(); }));
  const status = el("p", {class: "status"}), list = el("ol"), net = el("svg", {role: "img"}), extent = el("svg", {role: "img"});
  const items = new Map();

  const say = card(root, "The plan of nnU-Net for a data set to change", `
    .controls { gap: 6px 8px; } .controls > span { min-width: 62px; color: var(--soft); }
    .all { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 290px), 1fr)); gap: 10px 24px; margin-top: 12px; }
    .fields p { margin: 0 0 2px; color: var(--soft); } .fields > div { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; }
    .entry > span { display: block; font-size: 13px; } .entry input, .entry select { width: 100%; min-width: 0; }
    input[type=number] { font: inherit; color: var(--ink); background: var(--bg); border: 1px solid var(--soft); border-radius: 6px; padding: 3px 6px; min-height: 30px; }
    input[aria-invalid=true] { border: 2px dashed var(--accent); } .entry select { padding: 3px 4px; }
    .status { border-left: 3px solid var(--accent); padding: 2px 0 2px 10px; min-height: 4.4em; }
    .half { flex: 1 1 320px; min-width: 0; } svg { max-width: 430px; } svg text { fill: var(--ink); font-size: 13px; } svg .size { font-weight: 700; } svg .new { fill: var(--accent); font-weight: 700; }
    .down { fill: ${tint("blue", 0.3)}; stroke: var(--blue); } .up { fill: ${tint("green", 0.3)}; stroke: var(--green); }
    .link { stroke: var(--soft); fill: none; } .skip { stroke-dasharray: 4 4; } .case { fill: var(--wash); stroke: var(--soft); } .patch { fill: ${tint("orange", 0.4)}; stroke: var(--accent); stroke-width: 1.5; }
    ol { list-style: none; margin: 0; padding: 0; } li { padding: 6px 8px 6px 10px; border-left: 3px solid transparent; border-bottom: 1px solid var(--line); } li.changed { border-left-color: var(--accent); background: ${tint("orange", 0.08)}; }
    .head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 12px; } .value { font-weight: 700; font-variant-numeric: tabular-nums; } .why { margin: 2px 0 0; color: var(--soft); font-size: 13px; }
    .was { margin: 2px 0 0; font-size: 13px; color: var(--accent); } .was:empty { display: none; }
    :host { container-type: inline-size; } @container (min-width: 700px) { .half:first-child { position: sticky; top: 70px; } }
    summary { cursor: pointer; font-size: 13px; } details table { font-size: 13px; border-collapse: collapse; } td, th { text-align: right; padding: 1px 12px 1px 0; font-weight: inherit; white-space: nowrap; }`,
  el("p", {class: "lead"}, "Choose a data set, then change one number at a time: each rule of the plan says why, and what the change did to it. “Spacing ± %” is how far the coarsest spacing varies from case to case."),
  group("Data set", ...presets), el("div", {class: "all"}, ...fieldsets), status, group("Configuration", ...tabs),
  el("div", {class: "row", style: "margin-top: 12px"}, el("div", {class: "half"}, net, extent), el("div", {class: "half"}, list)));

  function load(k) {
    [state, before, moving, loaded] = [structuredClone(PRESETS[k][1]), null, null, k];
    draw();
  }

  const planOf = s => { try { return plan({...casesOf(s), ...s}); } catch ({message}) { return {message}; } };

  function draw() {
    const found = planOf(state), old = before && planOf(before);
    entries.forEach((e, k) => { if (moving !== nameOf(FIELDS[k])) e.set(shownAs(FIELDS[k][2], get(state, FIELDS[k][2], FIELDS[k][3]))); });
    planner.value = state.planner;
    presets.forEach((b, k) => b.setAttribute("aria-pressed", k === loaded));
    if (found.message) {
      status.textContent = `${found.message} What stands below is the last plan.`;
      return say(status.textContent);
    }
    if (!found.configurations[shown]) shown = found.configurations["3d_fullres"] ? "3d_fullres" : "2d";
    const c = found.configurations[shown], was = old?.configurations?.[shown], rules = reasons(found, shown, state), earlier = was ? reasons(old, shown, before) : [];
    const moved = before ? [...FIELDS.filter(([, , key, axis]) => get(state, key, axis) !== get(before, key, axis)).map(f => [nameOf(f), ...[before, state].map(s => shownAs(f[2], get(s, f[2], f[3])))]),
      ...state.planner === before.planner ? [] : [["Planner", PLANNERS[before.planner].name, PLANNERS[state.planner].name]]] : [];
    const changed = was ? changes(earlier, rules, moved.map(([name]) => name)) : new Map(), previous = new Map(earlier.map(r => [r.title, r.value]));

    list.replaceChildren(...rules.map(r => {
      const item = items.get(r.title) ?? rule(r), causes = changed.get(r.title), last = previous.get(r.title);
      items.set(r.title, item);
      item.root.classList.toggle("changed", !!causes);
      item.value.textContent = r.value;
      item.why.textContent = r.why;
      item.was.textContent = causes ? `${last === r.value ? "Changed" : last === undefined ? "New" : `Was ${last}`}, by: ${causes.join(", ").toLowerCase()}.` : "";
      if (r.steps) fill(item, r);
      return item.root;
    }));
    tabs.forEach((b, k) => { b.setAttribute("aria-pressed", CONFIGURATIONS[k] === shown); b.disabled = !found.configurations[CONFIGURATIONS[k]]; });
    drawNet(c, was, found);
    drawExtent(c, found);

    const text = moved.map(([name, a, b]) => `${name}: ${a} → ${b}.`).join(" "), titles = [...changed.keys()].map(title => title.toLowerCase());
    const more = old?.configurations ? CONFIGURATIONS.filter(n => !old.configurations[n] !== !found.configurations[n]).map(n => `${n} ${found.configurations[n] ? "is new" : "is gone"}.`) : [];
    const effect = !was ? "" : titles.length ? `Changed in ${shown}: ${titles.join(", ")}.` : `No number of ${shown} changed.`;
    status.textContent = loaded !== null ? PRESETS[loaded][2] : [text, ...more, moved.length ? effect : "All numbers are as before."].filter(Boolean).join(" ");
    say(`${status.textContent} ${shown}: patch ${by(c.patch)}, ${count(c.widths.length, "stage")}, batch size ${c.batch}.`);
  }

  function rule({title, steps: shrinking}) {
    const value = el("span", {class: "value"}), why = el("p", {class: "why"}), was = el("p", {class: "was"}), table = el("table", {class: "num"});
    const more = el("details", {}, el("summary", {}, "Every step"), table);
    return {root: el("li", {}, el("div", {class: "head"}, el("span", {}, title), value), was, why, ...shrinking ? [more] : []), value, why, was, more, table};
  }

  // Every step of the shrinking patch, in a table that stays open while numbers change.
  function fill({more, table}, {steps, axes, limit}) {
    more.hidden = steps.length === 1;
    const row = (cell, ...parts) => el("tr", {}, ...parts.map(p => el(cell, cell === "th" ? {scope: "col"} : {}, p)));
    table.replaceChildren(row("th", "patch", "of the limit", "cut"), ...steps.map(({patch, count: n, axis, by: cut}) => row("td", by(patch), `${(100 * n / limit).toFixed(1)} %`, cut ? `${axes[axis]} by ${cut}` : "fits")));
  }

  // The U: bars as wide as the maps are large and as high as they have channels; between them map, channels and kernel.
  function drawNet(c, was, found) {
    const sizes = maps(c.patch, c.strides), levels = sizes.length, old = was && maps(was.patch, was.strides), Y = i => 40 + 56 * i;
    const logs = sizes.map(s => Math.log(product(s))), wide = i => 50 + 54 * (logs[i] - logs[levels - 1]) / (logs[0] - logs[levels - 1] || 1), high = i => 16 + 4.5 * Math.log2(c.widths[i] / c.widths[0]);
    const parts = [], text = (x, y, anchor, content, before, cls = "") => parts.push(el("text", {x, y, "text-anchor": anchor, class: `${cls}${was && before !== content ? " new" : ""}`}, content));
    const level = (w, s, i) => s[i] ? [by(s[i]), `${w.widths[i]} ch, ${by(w.kernels[i])}`] : [];
    const bar = (x, i, cls) => parts.push(el("rect", {x, y: Y(i) - high(i) / 2, width: wide(i), height: high(i), rx: 3, class: cls}));
    const blocks = (n, conv) => conv ? `${n} conv` : `${n} res`;
    parts.push(el("text", {x: 2, y: 12}, c.patch.length === 2 ? "slice" : "volume"), el("text", {x: 338, y: 12, "text-anchor": "end"}, "scores"));
    for (let i = 0; i < levels; i++) {
      const bottom = i === levels - 1, left = 2, right = 338 - (bottom ? 50 : wide(i)), now = level(c, sizes, i), then = was ? level(was, old, i) : [];
      if (bottom) { if (i) parts.push(el("path", {class: "link", d: `M${left + wide(i)} ${Y(i)}H313V${Y(i - 1) + high(i - 1) / 2}`})); }
      else parts.push(el("path", {class: "link skip", d: `M${left + wide(i)} ${Y(i)}H${right}`}));
      bar(left, i, "down");
      text(left + wide(i) / 2, Y(i) + 4.5, "middle", blocks(c.blocks[i], !c.residual), was && blocks(was.blocks[i], !was.residual));
      if (!bottom) {
        bar(right, i, "up");
        text(right + wide(i) / 2, Y(i) + 4.5, "middle", blocks(c.decoderBlocks[i], true), was && blocks(was.decoderBlocks[i], true));
        text(left + 4, Y(i) + 33, "start", `↓ ${by(c.strides[i])}`, was && was.strides[i] && `↓ ${by(was.strides[i])}`);
      }
      text(170, Y(i) - 6, "middle", now[0], then[0], "size");
      text(170, Y(i) + 17, "middle", now[1], then[1]);
    }
    net.setAttribute("viewBox", `0 0 340 ${Y(levels - 1) + 30}`);
    net.replaceChildren(...parts);
    net.setAttribute("aria-label", `U-Net of ${count(levels, "stage")}. ${sizes.map((s, i) => `Stage ${i + 1}: map ${by(s)}, ${c.widths[i]} channels, kernel ${by(c.kernels[i])}${i ? `, stride ${by(c.strides[i - 1])}` : ""}.`).join(" ")}`);
  }

  // Case and patch in mm: the plane of the last two axes, and beside it the first axis.
  function drawExtent(c, found) {
    const two = c.patch.length === 2, length = list => list.map((v, i) => v * c.spacing[i]), [body, patch] = [c.size, c.patch].map(length);
    const views = two ? [[0, 1]] : [[1, 2], [1, 0]], most = i => Math.max(body[i], patch[i]), gap = 26;
    const scale = Math.min((338 - gap * (views.length - 1)) / views.reduce((sum, [, x]) => sum + most(x), 0), 130 / most(views[0][0]));
    const axes = found.transpose.map(i => "zyx"[i]).slice(two ? 1 : 0), height = most(views[0][0]) * scale, parts = [];
    let left = 1;
    for (const [y, x] of views) {
      const box = (list, cls) => el("rect", {x: left + (most(x) - list[x]) * scale / 2, y: 24 + (height - list[y] * scale) / 2, width: list[x] * scale, height: list[y] * scale, class: cls});
      parts.push(box(body, "case"), box(patch, "patch"), el("text", {x: left, y: 16}, `${axes[y]}–${axes[x]}`));
      left += most(x) * scale + gap;
    }
    const share = product(c.patch) / product(c.size), said = `Patch: ${mm(patch.map(Math.round))}`;
    parts.push(el("text", {x: 1, y: height + 42}, said), el("text", {x: 1, y: height + 60}, `of the median case's ${mm(body.map(Math.round))}: ${percent(share)}`));
    extent.setAttribute("viewBox", `0 0 340 ${height + 68}`);
    extent.replaceChildren(...parts);
    extent.setAttribute("aria-label", `${said} of the median case's ${mm(body.map(Math.round))}, ${percent(share)} of its volume`);
  }
  load(first);
}
