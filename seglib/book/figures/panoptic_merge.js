// The merge of Panoptic FPN, segment after segment: objects by falling score, then stuff on the pixels that are free.

const VOID = 255;

// [value, run, value, run, …] → the flat list of values.
export const unroll = runs => runs.flatMap((v, i) => i % 2 ? [] : Array(runs[i + 1]).fill(v));

// Merges objects (cells, score, label) and a map of stuff (class of each cell, 255 for none). A cell stands for `unit` pixels.
// ids: that of the segment of every cell, 0 for void. Each step: object (or −1) and class, its cells, the free ones, and the id
// that these got, 0 for none; the first object below the score threshold ends the objects.
export function merge({objects, stuff, unit}, {score, overlap, area}) {
  const ids = Array(stuff.length).fill(0), segments = [], steps = [];
  const take = (object, category, cells, fits) => {
    const free = cells.filter(i => !ids[i]), id = free.length && fits(free.length) ? segments.length + 1 : 0;
    steps.push({object, category, cells, free, id});
    if (!id) return;
    segments.push({id, category, thing: object >= 0, score: object < 0 ? null : objects[object].score, area: free.length * unit});
    for (const i of free) ids[i] = id;
  };
  const order = [...objects.keys()].sort((i, j) => objects[j].score - objects[i].score || i - j);
  for (const i of order) {
    const {cells, label, score: s} = objects[i];
    if (s < score) {
      steps.push({object: i, category: label, cells, free: [], id: 0, stop: true});
      break;
    }
    take(i, label, cells, free => (cells.length - free) / cells.length <= overlap);
  }
  for (const k of [...new Set(stuff)].filter(v => v !== VOID).sort((a, b) => a - b))
    take(-1, k, [...stuff.keys()].filter(i => stuff[i] === k), free => free * unit >= area);
  return {ids, segments, steps};
}

// A share in percent, with as many digits as tell it from the threshold.
export function percent(share, threshold) {
  const texts = [0, 1, 2, 3].map(d => (100 * share).toFixed(d));
  return `${texts.find(t => share === threshold || +t !== Math.round(100 * threshold)) ?? texts[3]}%`;
}

const pixelsOf = n => n === 1 ? "1 pixel" : `${n} pixels`;

// What a step did and why: a sentence, and the same in a few words.
export function why({object, cells, free, id, stop}, {score, overlap, area}, unit) {
  const n = free.length * unit, pixels = pixelsOf(n), limit = `${Math.round(100 * overlap)}%`;
  const covered = percent((cells.length - free.length) / cells.length, overlap), short = id ? `pasted, ${n} px` : "";
  if (stop) return [`the score is below ${score.toFixed(2)}: stop.`, "stop"];
  if (!n) return ["covered completely, nothing is left to paste.", "covered completely"];
  if (object < 0) return id ? [`${pixels} free, at least ${area}: pasted.`, short] : [`${pixels} free, fewer than ${area}: void.`, `${n} px: void`];
  if (!id) return [`${covered} already covered, more than ${limit}: dropped.`, `${covered} covered: dropped`];
  return [free.length < cells.length ? `${covered} already covered, not more than ${limit}: the other ${pixels} are pasted.` : `nothing covered, all ${pixels} are pasted.`, short];
}

export function render(root, p) {
  const {h, w, unit, categories} = p, [masks, stuff, truth] = [p.masks, p.stuff, p.truth].map(unroll), zoom = Math.max(1, Math.round(192 / Math.max(h, w)));
  const objects = p.objects.map((o, j) => ({...o, cells: [...masks.keys()].filter(i => masks[i] >> j & 1)}));
  let now = {...p.settings}, at = 1, timer = null, done;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const color = s => s.object < 0 ? categories[s.category].color : objects[s.object].color;
  const title = s => categories[s.category].name + (s.object < 0 ? "" : ` ${objects[s.object].score.toFixed(2)}`);
  const merged = limits => merge({objects, stuff, unit}, limits);
  const true_ = {ids: truth, segments: p.targets}, rules = {union: true, ignore: true, crowd: true};
  const scores = map => {
    const {all, things, stuff} = quality(true_, map, categories.map(c => c.thing), rules);
    return [all, things, stuff].map(({pq}) => pq >= 0 ? pq.toFixed(3) : "–");
  };
  const [atStart] = scores(merged(p.settings));

  const pane = note => {
    const canvas = el("canvas", {width: w * zoom, height: h * zoom, role: "img"}), name = el("div", {class: "name"});
    if (p.image) canvas.style.backgroundImage = `url(${p.image})`;
    return {canvas, name, root: el("div", {}, name, canvas, el("p", {class: "note"}, note))};
  };
  const one = pane("Filled: pasted. Striped: covered before"), whole = pane("Grey stripes: void"), right = pane("Grey stripes: void");
  const big = el("b"), facts = el("p", {class: "note"}), list = el("ol"), status = el("p", {class: "status num"});
  const go = (to, playing) => {
    if (!playing) { clearInterval(timer); timer = null; }
    at = clamp(to, 0, done.steps.length);
    draw();
  };
  const button = (text, label, act) => el("button", {type: "button", "aria-label": label, onclick: act}, text);
  const back = button("‹", "One step back", () => go(at - 1)), next = button("›", "One step on", () => go(at + 1));
  const play = button("", "", () => {
    const last = done.steps.length;
    if (timer || calm.matches) return go(timer ? at : last);
    timer = setInterval(() => go(at + 1, at + 1 < last && play.isConnected), 1600);
    go(at === last ? 0 : at + 1, true);
  });
  const position = slider("Step", {min: 0, max: 1, value: 0, show: v => `${v} of ${done?.steps.length}`}, v => go(v));
  const change = set => v => { set(v); build(); };
  const share = (name, key) => slider(name, {min: 0, max: 1, step: 0.01, value: now[key], show: v => v.toFixed(2)}, change(v => { now[key] = v; }));
  const place = () => p.limits.indexOf(now.area), most = p.limits.length - 1;
  const sliders = [share("Score threshold", "score"), share("Overlap threshold", "overlap"),
    slider("Stuff area limit", {min: 0, max: most, value: place(), show: i => `${p.limits[i]} px`}, change(i => { now.area = p.limits[i]; }))];
  const reset = el("button", {type: "button", onclick: change(() => {
    now = {...p.settings};
    [now.score, now.overlap, place()].forEach((v, i) => sliders[i].set(v, i < 2 ? 1 : most));
  })}, "Reset");
  const say = card(root, "The panoptic merge, step by step", `
    :host { container-type: inline-size; } .panes { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px 14px; }
    canvas { display: block; width: 100%; background: #888 0 0 / 100% 100%; border: 1px solid var(--line); border-radius: 6px; }
    .name, ol b { font-weight: 600; } .name { margin-bottom: 4px; } .note { color: var(--soft); font-size: 13px; line-height: 1.35; margin: 4px 0 0; }
    .big b { font-size: 22px; } .big .note { white-space: pre-line; } .status { font-weight: 600; }
    ol { list-style: none; margin: 10px 0 0; padding: 0; columns: 2; column-gap: 22px; font-size: 13px; line-height: 1.3; }
    li { display: flex; gap: 8px; align-items: center; padding: 3px 6px; break-inside: avoid; border-bottom: 1px solid var(--line); cursor: pointer; }
    i { flex: none; width: 12px; height: 12px; border-radius: 3px; border: 1px solid var(--line); } li span { margin-left: auto; color: var(--soft); text-align: right; }
    [aria-current] { background: ${tint("orange", 0.2)}; } .out b { text-decoration: line-through; } .out b, .wait b { font-weight: 400; color: var(--soft); }
    @container (max-width: 560px) { .panes { grid-template-columns: repeat(2, minmax(0, 1fr)); } ol { columns: 1; } }`,
    el("p", {class: "lead"}, `Objects are pasted by falling score, then each stuff class where pixels are free. Step through the merge, or move a threshold and see the final map.${p.note}`),
    el("div", {class: "panes"}, one.root, whole.root, right.root, el("div", {class: "big num"}, el("div", {class: "name"}, "Panoptic quality"), big, facts)),
    status, el("div", {class: "controls"}, back, play, next, position.root), el("div", {class: "controls"}, ...sliders.map(s => s.root), reset), list);

  // Paints a layer over the image: tone(cell, stripe) → RGBA; borders between different ids are dark.
  function paint({canvas}, label, ids, tone) {
    const W = canvas.width, out = new ImageData(W, canvas.height), differs = (a, b) => ids[b] !== undefined && ids[a] !== ids[b];
    for (let i = 0; i < W * canvas.height; i++) {
      const x = i % W, y = Math.floor(i / W), c = Math.floor(y / zoom) * w + Math.floor(x / zoom);
      const edge = ((x + 1) % zoom === 0 && x + 1 < W && differs(c, c + 1)) || ((y + 1) % zoom === 0 && differs(c, c + w));
      out.data.set(edge ? [20, 20, 20, 255] : tone(c, (x + y) % 12 < 6), 4 * i);
    }
    canvas.getContext("2d").putImageData(out, 0, 0);
    canvas.setAttribute("aria-label", label);
  }
  const segmented = (where, name, ids, colors) => paint(where, `${name} with ${new Set(ids.filter(v => v)).size} segments`, ids,
    (c, stripe) => ids[c] ? [...colors[ids[c] - 1], 190] : stripe ? [205, 205, 205, 200] : [150, 150, 150, 200]);

  // Merges again, and shows the end, or step `to`.
  function build(to) {
    done = merged(now);
    const rest = objects.length - done.steps.filter(s => s.object >= 0).length;
    list.replaceChildren(...done.steps.map((s, i) => el("li", {onclick: () => go(i + 1)},
      el("i", {style: `background: rgb(${color(s)})`}), el("b", {}, title(s) + (s.stop && rest ? ` and ${rest} more` : "")), el("span"))));
    go(to ?? done.steps.length);
  }

  function draw() {
    const {steps, segments} = done, last = steps.length, step = steps[at - 1], end = at === last;
    const pasted = steps.slice(0, at).filter(s => s.id).length, ids = done.ids.map(id => id <= pasted ? id : 0);
    const state = Array(h * w).fill(0);  // 1 covered, 2 free
    step?.cells.forEach(i => { state[i] = 1; });
    step?.free.forEach(i => { state[i] = 2; });
    paint(one, step ? `${title(step)}: its mask over the image` : "The image", state.map(v => +!!v), (c, stripe) => !state[c] ? [235, 235, 235, step ? 150 : 0]
      : state[c] === 2 ? [...color(step), step.id ? 215 : 0] : stripe && !step.stop ? [...color(step), 255] : [255, 255, 255, step.stop ? 0 : 255]);
    segmented(whole, "Panoptic map", ids, steps.filter(s => s.id).map(color));
    const [pq, things, rest] = scores({ids, segments: segments.slice(0, pasted)}), left = ids.filter(v => !v).length * unit, same = Object.keys(now).every(k => now[k] === p.settings[k]);
    one.name.textContent = step ? title(step) : "Image";
    whole.name.textContent = end ? "Final map" : "Map so far";
    big.textContent = `PQ ${pq}`;
    facts.textContent = `things ${things}\nstuff ${rest}\nvoid: ${left} px (${Math.round(100 * left / h / w / unit)}%)` + (same ? "" : `\nFinal PQ at the first settings: ${atStart}`);
    steps.forEach((s, i) => {
      const row = list.children[i];
      row.className = i >= at ? "wait" : s.id ? "" : "out";
      row.lastChild.textContent = i < at ? why(s, now, unit)[1] : "";
      row.ariaCurrent = i + 1 === at ? "step" : null;
    });
    position.set(at, last);
    back.disabled = !at;
    next.disabled = end;
    reset.disabled = same;
    play.textContent = timer ? "❚❚" : calm.matches ? "»" : "▶";
    play.setAttribute("aria-label", timer ? "Pause" : calm.matches ? "To the end" : "Play");
    const nobody = stuff.filter((k, i) => k === VOID && !ids[i]).length * unit, all = nobody === left;
    status.textContent = (step ? `${title(step)}: ${why(step, now, unit)[0]}` : "Nothing is pasted yet: every pixel is void.")
      + (end && left ? ` Left void: ${pixelsOf(left)}${nobody ? `; on ${all ? "all" : nobody} of them the semantic head says “thing”, but no mask was pasted` : ""}.` : "");
    say(`Step ${at} of ${last}. ${status.textContent} PQ ${pq}.`);
  }
  right.name.textContent = "Truth";
  segmented(right, "True map", truth, p.targets.map(t => t.color));
  build(1);
}
