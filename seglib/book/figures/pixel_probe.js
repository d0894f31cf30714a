// One scene, four answers: what each of them says, and cannot say, about the pixel under the cursor.

// [value, run, value, run, …] → the flat list of values.
export function unpack(runs) {
  const out = [];
  for (let i = 0; i < runs.length; i += 2) for (let n = 0; n < runs[i + 1]; n++) out.push(runs[i]);
  return out;
}

// What every answer says at pixel (x, y): {semantic, instance, panoptic, prompt}, each with `says` and `cannot`.
export function answers(p, maps, x, y) {
  const at = y * p.width + x, of = p.categories.map(c => c.name);
  const label = maps.semantic[at], stack = p.stacks[maps.stack[at]], segment = p.segments[maps.segment[at]];
  const thing = label !== p.void && p.categories[label].thing;
  const objects = stack.map(i => `object ${i + 1}, ${of[p.labels[i]]}`).join(" and ");
  return {
    semantic: label === p.void
      ? {says: `${p.void}: void`, cannot: "Nobody labelled this pixel; it counts nowhere."}
      : {says: `${label}: ${of[label]}`,
        cannot: thing ? `It cannot say which ${of[label]}: touching ones are one region.` : "That is all there is to say: stuff is not counted."},
    instance: stack.length
      ? {says: objects, cannot: "It says which one. Only objects are in its list; the ground and the sky are not."}
      : {says: "nothing", cannot: `No object covers this pixel; whether it is ${label === p.void ? "anything" : of[label]} it cannot say.`},
    panoptic: segment
      ? {says: `segment ${segment.id}: ${of[segment.category]}${segment.thing ? "" : " (stuff)"}`,
        cannot: segment.thing ? "Class and object at once. One segment a pixel: it cannot say what is hidden behind." : "Class, as in the semantic map; stuff is one segment for the whole image."}
      : {says: "0: void", cannot: "It belongs to no segment."},
    prompt: segment
      ? {says: `one mask, ${maps.segment.filter(s => s === maps.segment[at]).length} pixels`,
        cannot: "One mask for one click: it has no class, and the rest of the image has no answer."}
      : {says: "nothing", cannot: "Nobody labelled what lies here."},
  };
}

export function render(root, p) {
  const {width: W, height: H} = p, maps = {};
  for (const key of ["semantic", "stack", "segment"]) maps[key] = unpack(p[key]);
  let x = p.start[0], y = p.start[1];
  const stripe = Math.max(2, Math.floor(Math.min(W, H) / 40));
  const grey = i => (Math.floor((i % W + Math.floor(i / W)) / stripe) % 2 ? [150, 150, 150] : [205, 205, 205]);

  // Colours of each map's pixel i; null where an annotation says nothing.
  const colors = {
    semantic: i => p.categories[maps.semantic[i]]?.color ?? grey(i),
    instance: i => { const top = p.stacks[maps.stack[i]].slice(-1)[0]; return top === undefined ? null : p.instanceColors[top]; },
    panoptic: i => p.segments[maps.segment[i]]?.color ?? grey(i),
  };
  const picked = i => maps.segment[i] === maps.segment[y * W + x] && maps.segment[i];
  colors.prompt = i => picked(i) ? [86, 180, 233] : null;
  const ids = {semantic: maps.semantic, instance: maps.stack, panoptic: maps.segment};
  const tiles = {}, board = el("div", {class: "tiles"});
  for (const [id, name] of [["image", "Image"], ["semantic", "Semantic"], ["instance", "Instance"], ["panoptic", "Panoptic"],
    ["prompt", "Prompt"]]) {
    const t = tiles[id] = {says: el("b"), cannot: el("span"), swatch: el("i"), cross: el("svg", {viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true"})};
    t.canvas = el("canvas", {width: W, height: H, role: "img", "aria-label": name});
    t.pane = el("div", {class: "pane"}, t.canvas, t.cross);
    board.append(el("div", {}, el("div", {class: "name"}, name), t.pane, el("div", {class: "says"}, t.swatch, t.says), t.cannot));
    const follow = e => {
      const box = t.pane.getBoundingClientRect();
      go((e.clientX - box.left) / box.width * W, (e.clientY - box.top) / box.height * H);
    };
    t.pane.addEventListener("pointerdown", follow);
    t.pane.addEventListener("pointermove", follow);
  }
  const stage = tiles.image.pane;
  for (const [key, value] of Object.entries({tabindex: 0, role: "slider", "aria-label": "Pixel; arrow keys move it, with Shift by eight",
    "aria-valuemin": 0, "aria-valuemax": W * H - 1})) stage.setAttribute(key, value);

  const say = card(root, "One pixel, asked four times", `
    .tiles { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 12px 14px; }
    @container (max-width: 660px) { .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); } .says + span { --lines: 5; } }
    @container (max-width: 440px) { .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
    :host { container-type: inline-size; }
    .name { font-weight: 600; margin-bottom: 4px; } .pane { position: relative; cursor: crosshair; touch-action: pan-y; line-height: 0; }
    canvas { width: 100%; height: auto; image-rendering: pixelated; border-radius: 6px; border: 1px solid var(--line); }
    .pane svg { position: absolute; inset: 0; height: 100%; pointer-events: none; }
    .says { margin-top: 6px; font-size: 14px; line-height: 1.3; min-height: 2.6em; } .says + span { color: var(--soft); font-size: 13px; display: block; min-height: calc(var(--lines, 6) * 1.3em); line-height: 1.3; }
    .says i { display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; border: 1px solid var(--line); }
    .halo { fill: none; stroke: #fff; } .ring { fill: none; stroke: #111; } `,
    el("p", {class: "lead"}, "Move over any image, or use the arrow keys, and read what each answer says about that pixel. A prompt answers for the place that you point at."), board);

  const scene = new Image();
  scene.onload = () => {
    const context = tiles.image.canvas.getContext("2d");
    context.drawImage(scene, 0, 0, W, H);
    tiles.image.pixels = context.getImageData(0, 0, W, H).data;
    for (const id of ["semantic", "instance", "panoptic"]) paint(id);
    draw();
  };
  scene.src = p.image;

  function paint(id) {
    const painted = new ImageData(W, H), from = tiles.image.pixels, map = ids[id] ?? [];
    for (let i = 0; i < W * H; i++) {
      // Where an annotation says nothing, the pale image shows through.
      let c = colors[id](i) ?? [0, 1, 2].map(k => 150 + 0.4 * from[4 * i + k]);
      const right = (i + 1) % W && map[i] !== map[i + 1], below = i + W < W * H && map[i] !== map[i + W];
      if (right || below) c = c.map(v => v * 0.5);
      painted.data.set([...c, 255], 4 * i);
    }
    tiles[id].canvas.getContext("2d").putImageData(painted, 0, 0);
  }

  function go(px, py) {
    [x, y] = [clamp(Math.floor(px), 0, W - 1), clamp(Math.floor(py), 0, H - 1)];
    draw();
  }

  function draw() {
    if (tiles.image.pixels) paint("prompt");
    const found = answers(p, maps, x, y), at = y * W + x, unit = W / 40;
    const rgb = tiles.image.pixels ? [0, 1, 2].map(k => tiles.image.pixels[4 * at + k]) : null;
    found.image = {says: rgb ? rgb.map(v => (v / 255).toFixed(2)).join(" ") : "", cannot: "Red, green and blue: a colour, not a meaning."};
    for (const [id, t] of Object.entries(tiles)) {
      t.says.textContent = found[id].says;
      t.cannot.textContent = found[id].cannot;
      const c = id === "image" ? rgb : colors[id](at);
      t.swatch.style.display = c ? "" : "none";
      if (c) t.swatch.style.background = `rgb(${c.join()})`;
      const ring = width => el("path", {class: width > unit * 0.5 ? "halo" : "ring", "stroke-width": width,
        d: `M${x + 0.5} ${y + 0.5 - 4 * unit}v${2.4 * unit}m0 ${3.2 * unit}v${2.4 * unit}M${x + 0.5 - 4 * unit} ${y + 0.5}h${2.4 * unit}m${3.2 * unit} 0h${2.4 * unit}`
          + `M${x + 0.5 - unit} ${y + 0.5 - unit}h${2 * unit}v${2 * unit}h${-2 * unit}z`});
      t.cross.replaceChildren(ring(unit * 0.9), ring(unit * 0.4));
    }
    const text = `Column ${x}, row ${y}. Semantic: ${found.semantic.says}. Instance: ${found.instance.says}. Panoptic: ${found.panoptic.says}. Prompt: ${found.prompt.says}.`;
    stage.setAttribute("aria-valuenow", at);
    stage.setAttribute("aria-valuetext", `column ${x}, row ${y}: ${found.panoptic.says}`);
    say(text);
  }
  arrows(stage, (dx, dy, e) => go(x + dx * (e.shiftKey ? 8 : 1), y + dy * (e.shiftKey ? 8 : 1)));
  draw();
}
