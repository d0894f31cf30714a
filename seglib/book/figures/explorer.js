// One scene through every system: their stored answers side by side, under one cursor.

// A task's answer is compared by its class, that of a prompt by the true object that it belongs to.
const part = task => task === "prompt" ? 2 : 0;

// What an answer's map says at each pixel, as a number: class or true object; nothing is -1, and no object 0.
export function opinions(task, map, segments) {
  const table = [part(task) ? 0 : -1, ...segments.map(s => s[part(task)])];
  return Int16Array.from(map, v => table[v]);
}

// 1 for each pixel on which not all opinions are the same.
export const differ = ([first, ...others]) => Uint8Array.from(first, (v, i) => others.some(o => o[i] !== v));

// The words for an answer at a pixel: v is its number there, 0 for none.
export function tell(task, v, segments, names) {
  if (!v) return "nothing";
  const [label, score, object] = segments[v - 1], of = score === null ? "" : `, ${score.toFixed(2)}`;
  if (task === "truth") return object ? `${names[label]}, object ${object}` : names[label];
  if (task === "semantic" || (task === "panoptic" && score === null)) return names[label];
  return task === "prompt" ? `click ${v}${of}` : `${names[label]} ${v}${of}`;
}

// Whether an answer at a pixel is right, given the true segment there: [class, null, object or 0], or null where void.
export function judge(task, segment, truth) {
  if (!truth) return "void: not counted";
  const [label, , object] = truth;
  if (task === "semantic" || (task === "panoptic" && !object)) return segment && segment[0] === label ? "right" : "wrong";
  if (!segment) return object ? "missed" : "right";
  if (object && segment[2] === object) return "right";
  if (task === "prompt" || !object || segment[0] !== label) return "wrong";
  return segment[2] ? "right class, other object" : "right class, IoU ≤ 0.5";
}

// Maps of h × w whole numbers below each other in an image → done(arrays of numbers).
export function unpackIds(address, count, h, w, done) {
  ground(address, w, h * count, (pixels, loaded) => {
    if (loaded) done(Array.from({length: count}, (_, k) => Uint8Array.from({length: h * w}, (_, i) => pixels[4 * (k * h * w + i)])));
  });
}

// Colours of clicks, which have no class, and shades by which touching objects of a class differ.
const CLICKS = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];
const shade = (c, v) => c.map(x => [x, 0.7 * x + 76, 0.72 * x][v % 3]);

export function render(root, p) {
  const [H, W] = p.size, names = p.categories.map(c => c.name), opened = [];
  let scene = 0, only = "all", dim = false, [x, y] = p.start, now = null;
  const given = {image: "Image", truth: "Truth"}, systems = p.tasks.flatMap(t => t.systems.map(name => ({task: t.id, name})));
  const panels = [...Object.entries(given).map(([task, name]) => ({task, name})), ...systems].map(panel);
  const [image, truth, ...answers] = panels, stage = image.pane;
  const says = el("p", {class: "status num"}), shares = el("p", {class: "shares num"});

  // A panel: name, canvas with the cursor, what the answer says there, whether that is right, score and cost.
  function panel({task, name}) {
    const parts = {task, name, says: el("b"), swatch: el("i"), verdict: el("span", {class: "verdict"}), costs: el("span", {class: "costs"})};
    parts.canvas = el("canvas", {width: W, height: H, role: "img", "aria-label": task in given ? name : `${name}, ${task}`});
    const arms = `M0 ${-H}V${-2}M0 2V${H}M${-W} 0H${-2}M2 0H${W}M-2 -2H2V2H-2Z`;
    parts.cross = el("g", {}, el("path", {d: arms, class: "halo"}), el("path", {d: arms, class: "ring"}));
    parts.over = el("g");
    parts.pane = el("div", {class: "pane"}, parts.canvas, el("svg", {viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true"}, parts.over, parts.cross));
    const follow = e => {
      const box = parts.pane.getBoundingClientRect();
      go((e.clientX - box.left) / box.width * W, (e.clientY - box.top) / box.height * H);
    };
    parts.pane.addEventListener("pointerdown", follow);
    parts.pane.addEventListener("click", () => stage.focus({preventScroll: true}));
    parts.pane.addEventListener("pointermove", follow);
    const answer = [el("div", {class: "says num"}, parts.swatch, parts.says), ...task in given ? [] : [parts.verdict, parts.costs]];
    parts.root = el("div", {class: "panel"}, el("div", {class: "name"}, name), parts.pane, ...answer);
    return parts;
  }

  const legend = p.categories.map(c => el("li", {}, el("i", {style: `background: rgb(${c.color.join()})`}), c.name));
  const numbers = p.scenes.map((s, i) => el("button", {type: "button", "aria-label": s.name, onclick: () => open(i)}, i + 1));
  const chooser = el("div", {class: "numbers", role: "group", "aria-label": "Scene; arrow keys go on to the next"}, ...numbers);
  const tasks = [["all", "All tasks"], ...p.tasks.map(t => [t.id, t.name])];
  const filters = tasks.map(([id, name]) => el("button", {type: "button", onclick: () => { only = id; choose(); }}, name));
  const toggle = el("button", {type: "button", onclick: () => { dim = !dim; choose(); }}, "Where they disagree");
  const sections = p.tasks.map(t => {
    const note = el("span", {class: "soft num"}), own = answers.filter(a => a.task === t.id);
    return {...t, own, note, root: el("section", {"aria-label": t.name}, el("p", {class: "task"}, el("b", {}, t.name), " ", note), el("div", {class: "grid"}, ...own.map(a => a.root)))};
  });
  for (const [key, value] of Object.entries({tabindex: 0, role: "slider", "aria-label": "Pixel; arrow keys move it, with Shift by eight",
    "aria-valuemin": 0, "aria-valuemax": W * H - 1})) stage.setAttribute(key, value);
  const say = card(root, "One scene through every system", `
    :host { container-type: inline-size; } .soft, .verdict, .costs { color: var(--soft); }
    .numbers { display: grid; grid-template-columns: repeat(10, minmax(0, 40px)); gap: 4px; } .numbers button { padding: 3px 0; }
    .grid { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 10px 12px; --columns: 5; }
    .few .grid { --columns: 3; } .beside { grid-column: span calc(var(--columns) - 2); } .beside p { margin: 0 0 8px; }
    @container (max-width: 640px) { .grid { --columns: 3; } } @container (max-width: 480px) { .grid, .few .grid { --columns: 2; }
      .beside { grid-column: 1 / -1; } }
    .name { font-weight: 600; margin-bottom: 3px; } .task { margin: 16px 0 6px; border-top: 1px solid var(--line); padding-top: 8px; }
    .pane { position: relative; cursor: crosshair; touch-action: pan-y; line-height: 0; overflow: hidden; border: 1px solid var(--line); }
    canvas { width: 100%; height: auto; } .pane svg { position: absolute; inset: 0; height: 100%; overflow: hidden; pointer-events: none; }
    path { fill: none; vector-effect: non-scaling-stroke; } .halo { stroke: #fff; stroke-width: 2.6; opacity: .75; } .ring { stroke: #111; stroke-width: 1; }
    .says { margin-top: 4px; font-size: 13px; line-height: 1.25; min-height: 1.25em; } .verdict, .costs { display: block; font-size: 12px; line-height: 1.3; min-height: 1.3em; }
    ul { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 12px; margin: 0; padding: 0; font-size: 13px; }
    i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px; vertical-align: -1px; border: 1px solid var(--line); }
    .shares { font-size: 13px; color: var(--soft); } .status { min-height: 0; }`,
    el("p", {class: "lead"}, "Choose a scene. Move over any panel, or use the arrow keys, and read what each system answers at that pixel."),
    chooser, el("div", {class: "controls"}, ...filters, toggle),
    el("div", {class: "grid", style: "margin-top: 12px"}, image.root, truth.root, el("div", {class: "beside"}, says, shares, el("ul", {"aria-label": "Colours of the classes"}, ...legend))), ...sections.map(s => s.root));
  const frame = root.querySelector(".card");

  // Reads a scene, once.
  function open(i) {
    scene = i;
    numbers.forEach((b, k) => { b.setAttribute("aria-pressed", k === i); b.tabIndex = k === i ? 0 : -1; });
    if (opened[i]) { now = opened[i]; return paint(); }
    const s = p.scenes[i], read = {};
    const finish = () => {
      if (!read.maps || !read.pixels) return;
      const [own, ...maps] = read.maps, segments = s.answers.map(a => a.segments || p.categories.map((_, c) => [c, null, 0]));
      const split = p.tasks.map(t => {
        const mine = answers.map((a, k) => k).filter(k => answers[k].task === t.id).map(k => opinions(t.id, maps[k], segments[k]));
        return differ(mine.length > 1 ? mine : [...mine, opinions(t.id, own, s.truth)]);
      });
      opened[i] = {own, maps, segments, split, pixels: read.pixels, truth: s.truth, answers: s.answers};
      if (scene === i) { now = opened[i]; paint(); }
    };
    unpackIds(s.maps, 1 + answers.length, H, W, found => { read.maps = found; finish(); });
    ground(s.image, W, H, (pixels, loaded) => { if (loaded) { read.pixels = pixels; finish(); } });
  }

  const color = (task, v, segments) => task === "prompt" ? CLICKS[(v - 1) % CLICKS.length]
    : segments[v - 1][1] === null && !segments[v - 1][2] ? p.categories[segments[v - 1][0]].color : shade(p.categories[segments[v - 1][0]].color, v);

  // Paints a map; where it says nothing the pale image shows through, and pixels of keep[i] = 0 nearly vanish.
  function fill(panel, map, segments, keep) {
    const painted = new ImageData(W, H), from = now.pixels;
    for (let i = 0; i < W * H; i++) {
      let c = !map ? [...from.slice(4 * i, 4 * i + 3)] : map[i] ? color(panel.task, map[i], segments) : [0, 1, 2].map(k => 150 + 0.4 * from[4 * i + k]);
      if (map && ((i + 1) % W && map[i] !== map[i + 1] || i + W < W * H && map[i] !== map[i + W])) c = c.map(v => v * 0.5);
      painted.data.set([...c, keep && !keep[i] ? 38 : 255], 4 * i);
    }
    panel.canvas.getContext("2d").putImageData(painted, 0, 0);
  }

  // All panels of the scene, as far as they are shown.
  function paint() {
    const shown = sections.map((s, t) => only === "all" || s.id === only ? now.split[t] : null);
    const any = dim ? Uint8Array.from(now.own, (_, i) => shown.some(d => d && d[i])) : null;
    fill(image, null, null, any);
    fill(truth, now.own, now.truth, any);
    sections.forEach((s, t) => {
      if (!shown[t]) return;
      const share = now.split[t].reduce((a, b) => a + b, 0) / (W * H);
      s.note.textContent = `${s.score}, and time as a multiple of FCN's. ${s.own.length > 1 ? "The systems differ" : "It differs from the truth"} on ${(100 * share).toFixed(1)}% of the pixels.`;
      for (const a of s.own) {
        const k = answers.indexOf(a), told = now.answers[k];
        fill(a, now.maps[k], now.segments[k], dim ? now.split[t] : null);
        a.costs.textContent = `${told.score === null ? "no score" : told.score.toFixed(2)} · ${told.relative.toFixed(1)} ×`;
        a.over.replaceChildren(...(told.clicks || []).map(([cx, cy]) => el("circle", {cx, cy, r: W / 75, fill: "#fff", stroke: "#111", "stroke-width": W / 200})));
      }
    });
    draw();
  }

  // What the controls say, and then the panels.
  function choose() {
    filters.forEach((b, k) => b.setAttribute("aria-pressed", tasks[k][0] === only));
    toggle.setAttribute("aria-pressed", dim);
    sections.forEach(s => { s.root.hidden = only !== "all" && s.id !== only; });
    frame.classList.toggle("few", only !== "all");
    if (now) paint();
  }

  function go(px, py) {
    [x, y] = [clamp(Math.floor(px), 0, W - 1), clamp(Math.floor(py), 0, H - 1)];
    if (now) draw();
  }

  // Everything that depends on the cursor.
  function draw() {
    const at = y * W + x, true_ = now.own[at] ? now.truth[now.own[at] - 1] : null, rgb = [...now.pixels.slice(4 * at, 4 * at + 3)];
    for (const q of panels) q.cross.setAttribute("transform", `translate(${x + 0.5} ${y + 0.5})`);
    const write = (q, c, text, verdict) => {
      q.swatch.style.display = c ? "" : "none";
      if (c) q.swatch.style.background = `rgb(${c.map(Math.round).join()})`;
      q.says.textContent = text;
      q.verdict.textContent = verdict;
    };
    write(image, rgb, `x ${x}, y ${y}`, "");
    const own = now.own[at] ? tell("truth", now.own[at], now.truth, names) : "void";
    write(truth, now.own[at] ? color("truth", now.own[at], now.truth) : null, own, "");
    const told = answers.map((a, k) => {
      const v = now.maps[k][at], segments = now.segments[k], verdict = judge(a.task, v ? segments[v - 1] : null, true_);
      write(a, v ? color(a.task, v, segments) : null, tell(a.task, v, segments, names), verdict);
      return verdict;
    });
    const lines = sections.filter(s => !s.root.hidden).map(s => {
      const right = s.own.filter(a => told[answers.indexOf(a)] === "right").length;
      return `${s.name}: ${right} of ${s.own.length} right`;
    });
    says.textContent = `Scene ${scene + 1}, column ${x}, row ${y}. Truth: ${own}.`;
    shares.textContent = true_ ? `${lines.join(", ")}.` : "Nobody labelled this pixel.";
    stage.setAttribute("aria-valuenow", at);
    stage.setAttribute("aria-valuetext", `column ${x}, row ${y}: ${own}`);
    say(`${says.textContent} ${sections.filter(s => !s.root.hidden).map(s => `${s.name}: ${s.own.map(a => `${a.name} ${a.says.textContent}`).join("; ")}`).join(". ")}.`);
  }

  arrows(stage, (dx, dy, e) => go(x + dx * (e.shiftKey ? 8 : 1), y + dy * (e.shiftKey ? 8 : 1)));
  arrows(chooser, (dx, dy) => {
    open((scene + dx + dy + numbers.length) % numbers.length);
    numbers[scene].focus();
  });
  choose();
  open(0);
}
