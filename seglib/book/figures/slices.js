// A volume in three planes with one crosshair: slices to scroll through, window and level, target and predictions.

// The axes z, y, x of a volume run to the head, to the back and to the patient's left. A plane shows two of them, with
// the head above. ends: what lies at its left, right, top and bottom (Right, Left, Anterior, Posterior, Superior, Inferior).
export const PLANES = [
  {name: "Axial", through: 0, down: 1, right: 2, ends: "RLAP"},
  {name: "Coronal", through: 1, down: 0, right: 2, ends: "RLSI"},
  {name: "Sagittal", through: 2, down: 0, right: 1, ends: "APSI"},
];
const AXES = "zyx", STEPS = 200;

// The bytes that Python packed: base64 of deflated differences from each byte to the next.
export async function unpack(text) {
  const packed = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let i = 1; i < bytes.length; i++) bytes[i] += bytes[i - 1];  // wraps at 256
  return bytes;
}

// The voxel at a row and a column of a plane drawn through the voxel `at`, where that is on the plane, and its place in memory.
export function voxel({down, right}, at, size, row, column) {
  const v = [...at];
  v[down] = down ? row : size[0] - 1 - row;
  v[right] = column;
  return v;
}
export const pixel = ({down, right}, v, size) => [down ? v[down] : size[0] - 1 - v[0], v[right]];
export const index = ([z, y, x], [, H, W]) => (z * H + y) * W + x;

// A value in a window, 0 to 255: black at level - width / 2 and below, white at level + width / 2 and above.
export const grey = (value, [level, width]) => 255 * clamp((value - level) / width + 0.5, 0, 1);

// What a prediction gets wrong at a voxel; nothing where it is right or the target is void.
export function mistake(target, predicted, void_) {
  if (target === void_ || target === predicted) return null;
  return !predicted ? "missed" : !target ? "false alarm" : "another class";
}
const MISTAKES = {"missed": [86, 180, 233], "false alarm": [235, 125, 0], "another class": [220, 110, 200]};

export function render(root, p) {
  const {size, spacing, categories} = p, mm = size.map((n, k) => n * spacing[k]), none = {name: "None"};
  const target = p.maps.find(m => m.target), volumes = [...p.images, ...p.maps];
  let at = [...p.start], image = p.images[0], map = p.maps[0] ?? none, differs = false, alpha = 0.5;
  for (const i of p.images) i.window = i.windows[0].slice(1);

  const button = (text, onclick) => el("button", {type: "button", onclick}, text);
  const group = (label, ...parts) => el("div", {class: "controls", role: "group", "aria-label": label}, el("span", {}, label), ...parts);
  const number = (v, {unit} = image) => String(unit ? Math.round(v) : +v.toPrecision(3)).replace("-", "−") + (unit && ` ${unit}`);
  const span = () => image.high - image.low;

  const panes = PLANES.map(plane => {
    const {name, through, down, right, ends} = plane;
    const canvas = el("canvas", {width: size[right], height: size[down], style: `aspect-ratio: ${mm[right]} / ${mm[down]}`});
    const cross = el("svg", {viewBox: `0 0 ${size[right]} ${size[down]}`, preserveAspectRatio: "none"});
    const letters = ["left", "right", "top", "bottom"].map((side, k) => el("i", {class: side}, ends[k]));
    const stage = el("div", {class: "stage", tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": size[through] - 1,
      "aria-label": `${name} plane: arrow keys move the crosshair, Page Up and Page Down the slice`}, canvas, cross, ...letters);
    const step = slider(`${name}, ${AXES[through]}`, {min: 0, max: size[through] - 1, value: at[through]}, v => go(at.with(through, v)));
    const under = e => {
      const {left, top, width, height} = canvas.getBoundingClientRect(), cell = (v, n) => clamp(Math.floor(v * n), 0, n - 1);
      return voxel(plane, at, size, cell((e.clientY - top) / height, size[down]), cell((e.clientX - left) / width, size[right]));
    };
    const scroll = by => go(at.with(through, at[through] + by));
    const hear = (type, f) => stage.addEventListener(type, f);
    hear("pointerdown", e => { if (!e.button) go(under(e)); });
    hear("pointermove", e => { if (e.buttons & 1) go(under(e)); else tell(under(e)); });
    hear("pointerleave", () => tell(at));
    hear("keydown", e => {
      const by = {PageUp: 1, PageDown: -1}[e.key];
      if (!by) return;
      e.preventDefault();
      e.stopPropagation();
      scroll(by);
    });
    hear("wheel", e => {  // of a plane that was chosen; over another one the page scrolls on
      if (root.activeElement !== stage) return;
      e.preventDefault();
      scroll(-Math.sign(e.deltaY));
    });
    arrows(stage, (dx, dy) => go(at.with(right, at[right] + dx).with(down, at[down] + (down ? dy : -dy))));
    return {plane, canvas, cross, stage, step, root: el("div", {class: name.toLowerCase()}, stage, step.root)};
  });

  const readout = el("p", {class: "status num"}), key = el("p", {class: "key num"}), presets = el("span", {class: "controls"});
  const picks = p.images.map(i => button(i.name, () => { image = i; draw(); }));
  const value = (label, min, k, from) => slider(label, {min, max: STEPS, value: min, show: v => number(from() + v * span() / STEPS)},
    v => { image.window[k] = from() + v * span() / STEPS; draw(); });
  const level = value("Level", 0, 0, () => image.low), width = value("Width", 1, 1, () => 0);
  const overlays = [none, ...p.maps].map(m => button(m.name, () => { map = m; draw(); }));
  const difference = button("Where it differs from the target", () => { differs = !differs; draw(); });
  const opacity = slider("Opacity", {min: 10, max: 100, step: 10, value: 50, show: v => `${v}%`}, v => { alpha = v / 100; draw(); });
  const say = card(root, "Slices of a volume", `
    :host { container-type: inline-size; }
    .planes { display: grid; gap: 10px; align-items: start; grid-template-columns: minmax(0, ${mm[2]}fr) minmax(0, ${mm[2]}fr) minmax(0, ${mm[1]}fr); }
    @container (max-width: 560px) { .planes { grid-template-columns: minmax(0, ${mm[2]}fr) minmax(0, ${mm[1]}fr); } .axial { grid-column: 1 / -1; } }
    .stage { position: relative; overflow: hidden; cursor: crosshair; touch-action: pan-y; line-height: 0; background: #000; }
    canvas { display: block; width: 100%; image-rendering: pixelated; }
    .stage svg { position: absolute; inset: 0; height: 100%; pointer-events: none; }
    .stage path { fill: none; vector-effect: non-scaling-stroke; } .halo { stroke: #000; stroke-width: 3px; opacity: .55; } .line { stroke: #fff; stroke-width: 1px; }
    .stage i { position: absolute; font: 600 11px/1 system-ui, sans-serif; color: #fff; text-shadow: 0 0 2px #000, 0 0 3px #000; pointer-events: none; }
    .left { left: 3px; top: calc(50% - 6px); } .right { right: 3px; top: calc(50% - 6px); } .top { top: 3px; left: calc(50% - 4px); } .bottom { bottom: 3px; left: calc(50% - 4px); }
    .planes .range { flex-wrap: wrap; gap: 0 8px; margin-top: 4px; } .planes input { flex: 1 1 60px; width: 0; min-width: 60px; }
    .controls { gap: 6px 8px; } .controls .controls { margin: 0; } .controls > span:first-child:not(.controls) { min-width: 58px; color: var(--soft); }
    .controls .range b { min-width: 4.6em; }
    .status { min-height: 2.9em; } .key { display: flex; flex-wrap: wrap; gap: 3px 16px; margin: 8px 0 0; min-height: 1.45em; }
    .key i { display: inline-block; width: 13px; height: 13px; margin-right: 6px; vertical-align: -1px; border: 1px solid var(--line); }`,
  el("p", {class: "lead"}, "Click or drag in a plane to move the crosshair: the two others follow. Scroll with the sliders, with Page Up and Page Down, or with the wheel over a plane that was clicked."),
  el("div", {class: "planes"}, ...panes.map(pane => pane.root)), readout,
  ...picks.length > 1 ? [group("Image", ...picks)] : [], group("Window", presets, level.root, width.root),
  ...p.maps.length ? [group("Overlay", ...overlays, ...target && p.maps.length > 1 ? [difference] : [], opacity.root), key] : []);
  root.host.setAttribute("data-lm-suppress-shortcuts", "true");  // JupyterLab would take the keys for its own

  const go = next => { at = next.map((v, k) => clamp(v, 0, size[k] - 1)); draw(); };
  const compared = () => differs && target && map.bytes && map !== target;
  const named = label => label === p.void ? "void" : categories[label].name;

  // Says what lies at a voxel.
  function tell(v) {
    if (!image.bytes) return "";
    const i = index(v, size), bound = ({bytes, clipped: [low, high]}) => low && !bytes[i] ? "≤ " : high && bytes[i] === 255 ? "≥ " : "";
    const facts = [
      `Voxel ${v.map((n, k) => `${AXES[k]} ${n}`).join(", ")}, at ${v.map((n, k) => (n * spacing[k]).toFixed(1)).join(", ")} mm`,
      ...p.images.map(m => `${m.name}: ${bound(m)}${number(m.low + m.step * m.bytes[i], m)}`),
      ...p.maps.map(m => `${m.name}: ${named(m.bytes[i])}`),
    ];
    return readout.textContent = `${facts.join(". ")}.`;
  }

  // The colour over a voxel, or null: of its class, of void in stripes, or of what the prediction gets wrong there.
  function color(i, stripe) {
    if (compared()) return MISTAKES[mistake(target.bytes[i], map.bytes[i], p.void)] ?? null;
    const label = map.bytes ? map.bytes[i] : 0;
    return label === p.void ? (stripe ? [150, 150, 150] : [205, 205, 205]) : label ? categories[label].color : null;
  }

  function paint({plane, canvas, cross, stage, step}) {
    const {through, down, right, name} = plane, h = size[down], w = size[right], painted = new ImageData(w, h);
    for (let row = 0; row < h; row++) for (let column = 0; column < w; column++) {
      const i = index(voxel(plane, at, size, row, column), size), g = grey(image.low + image.step * image.bytes[i], image.window);
      const over = color(i, (row + column) % 4 < 2);
      painted.data.set([...over ? over.map(c => (1 - alpha) * g + alpha * c) : [g, g, g], 255], 4 * (row * w + column));
    }
    canvas.getContext("2d").putImageData(painted, 0, 0);
    const [y, x] = pixel(plane, at, size).map(v => v + 0.5), gap = 3 * Math.max(...spacing), [gx, gy] = [gap / spacing[right], gap / spacing[down]];
    const d = `M0 ${y}H${Math.max(x - gx, 0)}M${Math.min(x + gx, w)} ${y}H${w}M${x} 0V${Math.max(y - gy, 0)}M${x} ${Math.min(y + gy, h)}V${h}`;
    cross.replaceChildren(el("path", {class: "halo", d}), el("path", {class: "line", d}));
    stage.setAttribute("aria-valuenow", at[through]);
    stage.setAttribute("aria-valuetext", `${name} slice ${at[through]} of ${size[through] - 1}. ${readout.textContent}`);
    step.set(at[through]);
  }

  function draw() {
    if (!image.bytes) return;
    say(tell(at));
    panes.forEach(paint);
    const press = (buttons, on) => buttons.forEach((b, k) => b.setAttribute("aria-pressed", on(k)));
    presets.replaceChildren(...image.windows.map(([name, ...window]) => button(name, () => { image.window = window; draw(); })));
    press([...presets.children], k => image.windows[k].slice(1).every((v, n) => v === image.window[n]));
    press(picks, k => p.images[k] === image);
    press(overlays, k => [none, ...p.maps][k] === map);
    press([difference], compared);
    difference.disabled = !map.bytes || map === target;
    level.set(Math.round((image.window[0] - image.low) / span() * STEPS));
    width.set(Math.round(image.window[1] / span() * STEPS));
    const swatch = ([r, g, b], text) => el("span", {}, el("i", {style: `background: rgb(${r}, ${g}, ${b})`}), text);
    key.replaceChildren(...compared() ? Object.entries(MISTAKES).map(([name, c]) => swatch(c, `${name}: ${map.mistakes[name] ?? 0} voxels`))
      : map.bytes ? [...categories.slice(1).map(c => swatch(c.color, c.name)), ...map.void ? [swatch([178, 178, 178], "void")] : []] : []);
  }

  Promise.all(volumes.map(async v => { v.bytes = await unpack(v.data); })).then(() => {
    for (const m of p.maps) {
      m.void = m.bytes.includes(p.void);
      m.mistakes = {};
      target?.bytes.forEach((label, i) => { const name = mistake(label, m.bytes[i], p.void); if (name) m.mistakes[name] = 1 + (m.mistakes[name] ?? 0); });
    }
    draw();
  }, () => { readout.textContent = "This browser cannot unpack the volume (it has no DecompressionStream)."; });
}
