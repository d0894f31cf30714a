// Panoptic quality of small maps, and what the tools of an editor make of one.
// A map is {ids, segments}: the id of every cell, 0 for void, and {id, category, crowd} of every segment.

// How often each key occurs.
const tally = keys => keys.reduce((n, key) => n.set(key, (n.get(key) || 0) + 1), new Map());

// The matches of two maps, and the scores of every class and their means; NaN without TP, FP and FN.
// rules: union leaves out void, ignore unmatched predictions in void, crowd segments are neither matched nor missed.
export function quality(truth, prediction, things, {union, ignore, crowd}) {
  const [areas, found, both] = [truth.ids, prediction.ids, truth.ids.map((id, i) => id + "/" + prediction.ids[i])].map(tally);
  const inter = (t, p) => both.get(t + "/" + p) || 0, isCrowd = t => crowd && t.crowd;
  const crowds = new Map(truth.segments.filter(isCrowd).map(t => [t.category, t.id]));  // of several the last one counts
  const fates = prediction.segments.map(p => {
    const area = found.get(p.id), inVoid = inter(0, p.id);
    const rivals = truth.segments.filter(t => t.category === p.category && !isCrowd(t)).map(t => {
      const common = inter(t.id, p.id), all = areas.get(t.id) + area - common - (union ? inVoid : 0);
      return {t, common, all, iou: common / all};
    });
    const best = rivals.sort((a, b) => b.iou - a.iou)[0];
    const hidden = (ignore ? inVoid : 0) + (crowds.has(p.category) ? inter(crowds.get(p.category), p.id) : 0);
    return {p, best, area, inVoid, hidden, mark: best?.iou > 0.5 ? "TP" : 2 * hidden > area ? "ignored" : "FP"};
  });
  const matched = fates.filter(f => f.mark === "TP"), hit = matched.map(f => f.best.t);
  const missed = truth.segments.filter(t => !isCrowd(t) && !hit.includes(t));
  const classes = things.map((_, k) => {
    const count = list => list.filter(s => s.category === k).length, iou = matched.reduce((sum, f) => sum + (f.p.category === k && f.best.iou), 0);
    const tp = count(hit), fp = count(fates.filter(f => f.mark === "FP").map(f => f.p)), fn = count(missed), size = tp + fp / 2 + fn / 2;
    return {tp, fp, fn, iou, sq: size ? iou / (tp || 1) : NaN, rq: tp / size, pq: iou / size};
  });
  const mean = group => {
    const seen = classes.filter((c, k) => group(k) && !isNaN(c.pq));
    return {classes: seen.length, ...Object.fromEntries(["sq", "rq", "pq"].map(key => [key, seen.reduce((sum, c) => sum + c[key], 0) / seen.length]))};
  };
  return {fates, missed, crowds: truth.segments.filter(isCrowd), classes, things: mean(k => things[k]), stuff: mean(k => !things[k]), all: mean(() => true)};
}

// The map whose cells have the ids choose(id, i), and the segments that are left.
function change(map, choose, ...added) {
  const ids = map.ids.map(choose), left = new Set(ids), all = new Map([...map.segments, ...added].map(s => [s.id, s]));
  return {ids, segments: [...all.values()].filter(s => left.has(s.id))};
}

// Cells on the line between two cells of a map that is w wide, both included.
export function line(a, b, w) {
  const x = a % w, y = Math.floor(a / w), dx = b % w - x, dy = Math.floor(b / w) - y, n = Math.max(Math.abs(dx), Math.abs(dy));
  return Array.from({length: n + 1}, (_, i) => Math.round(y + dy * i / (n || 1)) * w + Math.round(x + dx * i / (n || 1)));
}

// What a tool makes of a map w wide: {map, text}. path: the cells of the stroke; k: the class chosen, -1 for none.
export function edit(map, tool, path, k, w, classes) {
  const at = i => map.segments.find(s => s.id === map.ids[i]), a = at(path[0]), b = at(path.at(-1)), none = {map, text: "Nothing changed."};
  const stuff = map.segments.find(s => s.category === k && !classes[k].thing), id = 1 + Math.max(...map.ids);
  const name = s => `${s.id} ${classes[s.category].name}`, join = (s, t) => change(map, v => v === s.id ? t.id : v);
  if (tool === "Merge") return a && b && a !== b ? {map: join(b, a), text: `${name(b)} is now part of ${name(a)}.`} : none;
  if (tool === "Class") {
    if (!a || a.category === k) return none;
    return {map: stuff ? join(a, stuff) : change(map, v => v, {...a, category: k}), text: `${name(a)} is now ${classes[k].name}.`};
  }
  if (tool === "Split") {
    const on = tally(line(path[0], path.at(-1), w).map(i => map.ids[i]));
    const [cut] = map.segments.filter(s => classes[s.category].thing && on.has(s.id)).sort((s, t) => on.get(t.id) - on.get(s.id));
    const [[x, y], [u, v]] = [path[0], path.at(-1)].map(i => [i % w, Math.floor(i / w)]);
    const beyond = i => (u - x) * (Math.floor(i / w) - y) - (v - y) * (i % w - x) > 0;
    const next = cut && change(map, (o, i) => o === cut.id && beyond(i) ? id : o, {...cut, id});
    return next?.segments.length > map.segments.length ? {map: next, text: `${name(cut)} is split; one side is now ${id}.`} : none;
  }
  const used = tool === "Erase" ? null : k < 0 ? a : stuff || {id, category: k};
  const next = change(map, (o, i) => path.includes(i) ? used?.id || 0 : o, ...(used ? [used] : []));
  return next.ids.some((o, i) => o !== map.ids[i]) ? {map: next, text: used ? `Painted with ${name(used)}.` : "Erased."} : none;
}
