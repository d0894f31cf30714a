// An image of the reader's own through a network that runs in the page: every stage live.

const NS = "http://www.w3.org/2000/svg";

function part(tag, attributes, ...children) {
  const e = document.createElementNS(NS, tag);
  for (const [key, v] of Object.entries(attributes)) e.setAttribute(key, v);
  e.append(...children);
  return e;
}

// RGBA of a square image → its channels in [0, 1], one after the other.
export function channelsOf(pixels) {
  const n = pixels.length / 4, data = new Float32Array(3 * n);
  for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) data[c * n + i] = pixels[4 * i + c] / 255;
  return data;
}

// Of a map (C, h, w): the mean size over channels at each cell, or one channel.
export function strengthOf({shape, data}, channel) {
  const [, C, h, w] = shape, n = h * w;
  if (channel) return data.slice((channel - 1) * n, channel * n);
  const out = new Float32Array(n);
  for (let c = 0; c < C; c++) for (let i = 0; i < n; i++) out[i] += Math.abs(data[c * n + i]) / C;
  return out;
}

// The class of the highest score at each cell.
export function bestOf({shape, data}) {
  const [, C, h, w] = shape, n = h * w, out = new Uint8Array(n);
  for (let i = 0; i < n; i++) for (let c = 1; c < C; c++) if (data[c * n + i] > data[out[i] * n + i]) out[i] = c;
  return out;
}

// Probabilities of all classes at one cell.
export function sharesAt({shape, data}, at) {
  const n = shape[2] * shape[3], scores = Array.from({length: shape[1]}, (_, c) => data[c * n + at]);
  const most = Math.max(...scores), exps = scores.map((s) => Math.exp(s - most)), sum = exps.reduce((a, b) => a + b);
  return exps.map((e) => e / sum);
}

export function render(root, p) {
  const S = p.side, live = liveNetworks(), pen = el("canvas", {width: S, height: S, role: "img", "aria-label": "Your image"});
  const paper = pen.getContext("2d", {willReadFrequently: true}), answer = el("canvas", {width: S, height: S, role: "img", "aria-label": "The class of every pixel"});
  const small = el("canvas", {width: S, height: S}), wash = small.getContext("2d");
  let net = p.networks[0], tool = {brush: p.brushes[0]}, width = 14, chosen = 0, channel = 0, off = [];
  let x = S / 2, y = S / 2, found = null, manifest = null, images = [], undo = [], started = 0;

  // The image

  const stamps = p.stamps.map(([name, src]) => [name, Object.assign(new Image(), {src})]);
  const keep = () => { undo = [...undo.slice(-9), paper.getImageData(0, 0, S, S)]; };
  function meadow() {
    const fill = (name, top, bottom) => {
      paper.fillStyle = `rgb(${p.brushes.find(([n]) => n === name)[1]})`;
      paper.fillRect(0, top, S, bottom - top);
    };
    fill("sky", 0, S * 0.45);
    fill("grass", S * 0.45, S);
  }
  function take(image) {
    keep();
    const {width: w, height: h} = image, side = Math.min(w, h);
    paper.drawImage(image, (w - side) / 2, (h - side) / 2, side, side, 0, 0, S, S);
    run();
  }
  function put() {
    if (tool.stamp) {
      const image = tool.stamp[1], f = width / 14;
      paper.drawImage(image, x - image.width * f / 2, y - image.height * f / 2, image.width * f, image.height * f);
    } else {
      paper.fillStyle = `rgb(${tool.brush[1]})`;
      paper.beginPath();
      paper.arc(x, y, width / 2, 0, 7);
      paper.fill();
    }
    run();
  }
  async function open(file) {
    const trouble = (text) => { note.textContent = text; };
    if (!file) return;
    if (file.size > 60e6) { trouble(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB; open one of at most 60 MB.`); return; }
    try {
      take(await createImageBitmap(file, {resizeWidth: 2 * S, resizeQuality: "high"}));
      trouble(`${file.name}: its middle square, in ${S} × ${S} pixels. The file stays on your computer.`);
    } catch {
      trouble(`${file.name} is no image that this browser can read; open a PNG, JPEG or WebP file.`);
    }
  }

  // The network

  const busy = (now) => drawing.setAttribute("aria-busy", now);
  async function run() {
    busy(true);
    mark();
    const mine = ++started, name = net.name;
    try {
      manifest = await live.load(name);
      if (mine !== started) return;
      const steps = net.blocks.map(stepFor), image = {shape: [1, 3, S, S], data: channelsOf(paper.getImageData(0, 0, S, S).data)};
      const began = performance.now(), keepSteps = steps.filter((s) => s !== undefined);
      const got = await live.run(name, {image}, {keep: keepSteps, cuts: off.map((i) => cutOf(net.switches[i]))});
      if (!got || mine !== started) return;
      const at = (i) => (steps[i] === undefined ? null : got.kept[steps[i]]);
      found = {logits: got.outputs.logits, maps: net.blocks.map((_, i) => at(i)), ms: performance.now() - began};
      show();
    } catch (error) {
      busy(false);
      status.textContent = `The network cannot run here (${error.message}). In the book's pages it runs in any browser of today.`;
    }
  }
  function stepFor(b) {
    if (b.kind === "image" || b.kind === "prediction") return undefined;
    return b.of.startsWith("input") ? inputStep(manifest, b.path) : outputStep(manifest, b.path);
  }
  function cutOf({layer, joins}) {
    if (joins === undefined) return {step: outputStep(manifest, layer)};
    return {step: manifest.steps.findIndex((s) => s.op === "cat" && s.layer === layer), place: [0, joins]};
  }

  // What is shown

  function painted(values, w, h, color) {
    small.width = w;
    small.height = h;
    const image = new ImageData(w, h);
    values.forEach((v, i) => image.data.set([...color(v), 255], 4 * i));
    wash.putImageData(image, 0, 0);
    return small.toDataURL();
  }
  const labelled = (values, w, h) => painted(values, w, h, (v) => p.categories[v][1]);
  function pictureOf(i, one = 0) {
    const b = net.blocks[i], map = found.maps[i];
    if (b.kind === "image") return pen.toDataURL();
    if (b.kind === "prediction") return labelled(bestOf(found.logits), S, S);
    const [, , h, w] = map.shape;
    if (b.kind === "classes" && !one) return labelled(bestOf(map), w, h);
    const values = strengthOf(map, one), [low, high] = range(values);
    return painted(values, w, h, (v) => viridis((v - low) / (high - low || 1)));
  }
  function show() {
    images.forEach((e, i) => e.setAttribute("href", pictureOf(i)));
    const labels = bestOf(found.logits);
    const face = answer.getContext("2d"), under = paper.getImageData(0, 0, S, S);
    labels.forEach((v, i) => p.categories[v][1].forEach((c, k) => { under.data[4 * i + k] = 0.3 * under.data[4 * i + k] + 0.7 * c; }));
    face.putImageData(under, 0, 0);
    choose(chosen);
    mark();
    busy(false);
    status.textContent = `${net.title} answered in ${Math.round(found.ms)} ms${off.length ? `, without ${off.map((i) => net.switches[i].l).join(" and ")}` : ""}.`;
  }
  function choose(i) {
    chosen = i;
    tiles.forEach((g, j) => {
      g.classList.toggle("on", i === j);
      g.setAttribute("aria-selected", i === j);
      g.setAttribute("tabindex", i === j ? 0 : -1);
    });
    const b = net.blocks[i], map = found && found.maps[i], most = map ? map.shape[1] : 0;
    channel = Math.min(channel, most);
    channels.root.style.visibility = most ? "" : "hidden";
    channels.set(channel, most);
    if (!found) return;
    close.replaceChildren(el("img", {src: pictureOf(i, channel), alt: `${b.l}, ${b.shape}`}));
    what.textContent = `${b.l}, ${b.shape}. ${b.t}`;
  }
  function mark() {
    for (const c of crosses) {
      const line = (color, size) => part("path", {d: `M${x} ${y - 6}v4m0 4v4M${x - 6} ${y}h4m4 0h4`, stroke: color, "stroke-width": size});
      c.replaceChildren(line("#fff", 2.4), line("#111", 1));
    }
    if (!found) return;
    const shares = sharesAt(found.logits, clamp(Math.floor(y), 0, S - 1) * S + clamp(Math.floor(x), 0, S - 1));
    const best = shares.map((s, c) => [s, c]).sort((a, b) => b[0] - a[0]).slice(0, 4);
    bars.replaceChildren(...best.map(([s, c]) => el("div", {class: "bar"}, el("span", {}, p.categories[c][0]),
      el("i", {style: `width:${Math.max(1, 100 * s)}px;background:rgb(${p.categories[c][1]})`}), el("b", {class: "num"}, `${(100 * s).toFixed(0)}%`))));
    say(`Column ${Math.floor(x)}, row ${Math.floor(y)}: ${best.slice(0, 2).map(([s, c]) => `${p.categories[c][0]} ${(100 * s).toFixed(0)} percent`).join(", ")}.`);
  }

  // Tools

  const tools = [...p.brushes.map((brush) => ({brush})), ...stamps.map((stamp) => ({stamp}))];
  const toolButtons = tools.map((t) => {
    const [name, value] = t.brush || t.stamp, face = t.brush ? el("i", {style: `background:rgb(${value})`}) : el("img", {src: value.src, alt: ""});
    return el("button", {type: "button", onclick: () => { tool = t; pressed(); }}, face, name);
  });
  const pressed = () => toolButtons.forEach((b, i) => b.setAttribute("aria-pressed", tools[i] === tool || (tools[i].brush && tools[i].brush === tool.brush)));
  const back = el("button", {type: "button", onclick: () => { const last = undo.pop(); if (last) { paper.putImageData(last, 0, 0); run(); } }}, "undo");
  const size = slider("size", {min: 4, max: 40, value: width}, (v) => { width = v; });
  const channels = slider("channel", {min: 0, max: 1, value: 0, show: (v) => (v ? String(v) : "mean")}, (v) => { channel = v; choose(chosen); });
  const file = el("input", {type: "file", accept: "image/*", "aria-label": "Open a photo", onchange: (e) => open(e.target.files[0])});
  const seeds = p.scenes.map(({seed, image}) => el("button", {type: "button", class: "seed", "aria-label": `Scene ${seed}`, onclick: () => {
    const scene = Object.assign(new Image(), {src: image});
    busy(true);
    scene.decode().then(() => take(scene));
  }}, el("img", {src: image, alt: ""})));
  const note = el("p", {class: "note"}, "A photo that you open or drop stays on your computer: the network runs in this page.");
  const status = el("p", {class: "status"}, "Loading the network …"), what = el("p", {class: "note"}), close = el("div", {class: "close"}), bars = el("div", {class: "bars"});

  const over = () => part("svg", {viewBox: `0 0 ${S} ${S}`, "aria-hidden": "true"});
  const crosses = [over(), over()];
  const board = el("div", {class: "stage", tabindex: 0, role: "application", "aria-label": "Your image. Arrow keys move the brush, with Shift by one pixel; Space or Enter paints."}, pen, crosses[0]);
  const mirror = el("div", {class: "stage"}, answer, crosses[1]);
  const follow = (e, stage) => {
    const box = stage.getBoundingClientRect();
    [x, y] = [clamp((e.clientX - box.left) / box.width * S, 0, S - 1), clamp((e.clientY - box.top) / box.height * S, 0, S - 1)];
  };
  let painting = false;
  board.addEventListener("touchstart", (e) => e.preventDefault(), {passive: false});
  board.addEventListener("pointerdown", (e) => { board.focus({preventScroll: true}); board.setPointerCapture(e.pointerId); keep(); follow(e, board); painting = !tool.stamp; put(); });
  board.addEventListener("pointermove", (e) => { follow(e, board); if (painting) put(); else mark(); });
  for (const end of ["pointerup", "pointercancel"]) board.addEventListener(end, () => { painting = false; });
  mirror.addEventListener("pointermove", (e) => { follow(e, mirror); mark(); });
  mirror.addEventListener("pointerdown", (e) => { follow(e, mirror); mark(); });
  arrows(board, (dx, dy, e) => { const by = e.shiftKey ? 1 : 4; [x, y] = [clamp(x + dx * by, 0, S - 1), clamp(y + dy * by, 0, S - 1)]; mark(); });
  board.addEventListener("keydown", (e) => { if (e.key === " " || e.key === "Enter") { e.preventDefault(); keep(); put(); } });
  for (const kind of ["dragover", "drop"]) board.addEventListener(kind, (e) => { e.preventDefault(); if (kind === "drop") open(e.dataTransfer.files[0]); });

  // The drawing

  const drawing = el("div", {class: "draw"}), controls = el("div", {class: "controls"});
  let tiles = [];
  function draw() {
    const [W, H] = net.size, svg = part("svg", {viewBox: `0 0 ${W} ${H}`, role: "listbox", "aria-label": `Stages of ${net.title}`});
    const text = (at, anchor, words, more = {}) => part("text", {x: at[0], y: at[1], "text-anchor": anchor, ...more}, words);
    const lines = net.edges.map((e) => part("g", {class: off.includes(e.s) ? "off" : ""}, part("path", {class: "line", d: e.d}), part("path", {class: "tip", d: e.tip}),
      ...(e.l ? [text([e.x, e.y], "middle", e.l, {dy: "-.3em"})] : [])));
    images = net.blocks.map((b) => part("image", {x: b.x - b.w / 2, y: b.y - b.h / 2, width: b.w, height: b.h, preserveAspectRatio: "none"}));
    tiles = net.blocks.map((b, i) => {
      const side = b.side === "left" ? [[b.x - b.w / 2 - 5, b.y], "end"] : b.side === "right" ? [[b.x + b.w / 2 + 2 * b.k + 5, b.y], "start"]
        : [[b.x, b.side === "above" ? b.y - b.h / 2 - 5 : b.y + b.h / 2 + 14], "middle"];
      const sheets = Array.from({length: b.k}, (_, j) => part("rect", {class: "sheet", x: b.x - b.w / 2 + 2 * (b.k - j), y: b.y - b.h / 2 - 2 * (b.k - j), width: b.w, height: b.h}));
      const g = part("g", {class: "block", role: "option", "aria-label": `${b.l}, ${b.shape}`}, ...sheets, images[i],
        part("rect", {class: "rim", x: b.x - b.w / 2, y: b.y - b.h / 2, width: b.w, height: b.h}), ...(b.side ? [text(...side, b.l, {class: "name"})] : []));
      for (const event of ["click", "focus"]) g.addEventListener(event, () => choose(i));
      g.addEventListener("pointerenter", (e) => { if (e.pointerType === "mouse") choose(i); });
      arrows(g, (dx, dy) => tiles[clamp(i + (dx || dy), 0, tiles.length - 1)].focus());
      return g;
    });
    svg.append(part("g", {"aria-hidden": "true"}, ...lines), ...tiles);
    drawing.replaceChildren(svg);
    const switches = net.switches.map((s, i) => el("button", {type: "button", "aria-pressed": off.includes(i), onclick: (e) => {
      off = off.includes(i) ? off.filter((j) => j !== i) : [...off, i];
      e.currentTarget.setAttribute("aria-pressed", off.includes(i));
      lines.forEach((line, j) => line.classList.toggle("off", off.includes(net.edges[j].s)));
      run();
    }}, s.l));
    controls.replaceChildren(el("b", {}, "Turn off"), ...switches);
    chosen = net.blocks.findIndex((b) => b.kind === "prediction");
  }
  const picker = el("select", {"aria-label": "Network", onchange: (e) => { net = p.networks[e.target.selectedIndex]; off = []; found = null; draw(); choose(chosen); run(); }},
    ...p.networks.map((n) => el("option", {}, n.title)));

  const say = card(root, "Your image, every stage", MAPS + `
    .card { max-width: 1000px; } .tools { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 10px; }
    .tools button { display: inline-flex; align-items: center; gap: 6px; } .tools i { width: 14px; height: 14px; border-radius: 50%; border: 1px solid var(--line); }
    .tools img { height: 20px; max-width: 26px; object-fit: contain; } .seed { padding: 2px; } .seed img { display: block; width: 40px; height: 40px; max-width: none; }
    .board { cursor: crosshair; } .pane { max-width: 300px; } .draw { flex: 1 1 320px; max-width: 430px; min-width: 0; } .side { flex: 1 1 230px; min-width: 0; }
    .close img { display: block; width: 100%; max-width: 230px; image-rendering: pixelated; border: 1px solid var(--line); } .close { min-height: 120px; }
    .bar { display: flex; align-items: center; gap: 8px; line-height: 1.5; } .bar span { flex: 0 0 74px; } .bar i { height: 11px; border-radius: 2px; border: 1px solid var(--line); } .bars { min-height: 6em; margin-top: 8px; }
    svg text { font-size: 12.5px; fill: var(--soft); paint-order: stroke; stroke: var(--bg); stroke-width: 3px; } svg .name { font-weight: 600; fill: var(--ink); }
    .sheet { fill: color-mix(in srgb, var(--blue) 20%, var(--bg)); stroke: color-mix(in srgb, var(--blue) 60%, var(--ink)); stroke-width: .5; }
    .line { fill: none; stroke: var(--soft); stroke-width: 1.2; } .tip { fill: var(--soft); } .off { opacity: .35; } .off .line { stroke-dasharray: 3 3; }
    .rim { fill: none; stroke: color-mix(in srgb, var(--ink) 65%, var(--bg)); stroke-width: .8; } .on .rim { stroke: var(--accent); stroke-width: 2.6; } .block { cursor: pointer; outline: none; }
    .block:focus-visible .rim { stroke: var(--accent); stroke-width: 3.4; } image { image-rendering: pixelated; } input[type=file] { font: inherit; max-width: 100%; }`,
    el("p", {class: "lead"}, "Paint on the left image, or start from a scene or a photo. Every stage of the network answers at once."),
    el("div", {class: "tools", role: "group", "aria-label": "Scenes"}, ...seeds, el("button", {type: "button", onclick: () => { keep(); meadow(); run(); }}, "empty"), back),
    el("div", {class: "tools", role: "group", "aria-label": "Brushes and stamps"}, ...toolButtons, size.root),
    el("div", {class: "panes"}, el("div", {class: "pane"}, el("div", {class: "name"}, "Your image"), board),
      el("div", {class: "pane"}, el("div", {class: "name"}, "The answer"), mirror), el("div", {class: "pane"}, el("div", {class: "name"}, "Under the cross"), bars)),
    el("div", {class: "controls"}, el("label", {}, "Photo ", file)), note,
    el("div", {class: "controls"}, el("label", {}, "Network ", picker)), status,
    el("div", {class: "row"}, drawing, el("div", {class: "side"}, close, channels.root, what)), controls,
    el("p", {class: "note"}, "No network was trained without a branch: a switch shows how much this one relies on it."));
  draw();
  pressed();
  meadow();
  choose(chosen);
  const first = Object.assign(new Image(), {src: p.scenes[0].image});
  first.decode().then(() => { take(first); undo = []; });
}
