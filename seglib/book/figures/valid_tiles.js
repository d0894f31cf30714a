// What a U-Net without padding reads for one tile of its answer, and the sizes of all its maps.

// Sizes along one axis when the lowest level gets b cells: two 3 × 3 convolutions take 4, pooling halves, up doubles.
export function ledger(b, depth) {
  const down = [{into: b, out: b - 4}], up = [];
  for (let l = 0; l < depth; l++) down.unshift({into: 2 * down[0].into + 4, out: 2 * down[0].into});
  for (let l = depth - 1, n = b - 4; l >= 0; l--) {
    up.unshift({into: 2 * n, out: 2 * n - 4});
    n = up[0].out;
  }
  return {input: down[0].into, output: depth ? up[0].out : b - 4, down, up};
}

// Pixels that the network loses in all: 4 on the way down, twice what the levels below lose, 4 on the way up.
export const lost = depth => (depth ? 8 + 2 * lost(depth - 1) : 4);

// Which pixel of a line of n stands at position i beyond its ends: reflect padding, which does not repeat the end pixels.
export function reflect(i, n) {
  const period = 2 * (n - 1), j = ((i % period) + period) % period;
  return j < n ? j : period - j;
}

// The sizes b of the lowest level for which the answer is not empty and fits into the image.
export function range(depth, size) {
  let low = 5;
  while (ledger(low, depth).output < 1) low++;
  let high = low;
  while (ledger(high + 1, depth).output <= size) high++;
  return [low, high];
}

export function render(root, {image, size, depth: startDepth, bottom}) {
  let depth = startDepth, b = bottom, x = 0, y = 0;
  const RIM = lost(4) / 2 + 6, all = size + 2 * RIM;
  const svg = el("svg", {viewBox: `${-RIM} ${-RIM} ${all} ${all}`});
  const canvas = el("canvas", {width: all, height: all}), pixels = new Image();
  // The image and, fainter around it, its reflect padding: flipped about the centre of the first pixel (c → 1 − c) and of the
  // last (c → 2n − 1 − c).
  pixels.onload = () => {
    const pen = canvas.getContext("2d"), ways = [[-1, 1], [-1, 2 * size - 1], [1, 0]];
    for (const [a, dx] of ways) for (const [c, dy] of ways) {
      pen.globalAlpha = a + c === 2 ? 1 : 0.55;
      pen.setTransform(a, 0, 0, c, dx + RIM, dy + RIM);
      if (a + c === 2) pen.clearRect(0, 0, size, size);
      pen.drawImage(pixels, 0, 0, size, size);
    }
  };
  pixels.src = image;
  const shade = el("path", {class: "shade", "fill-rule": "evenodd"}), frame = el("rect", {class: "frame"});
  const border = el("rect", {class: "border", x: 0, y: 0, width: size, height: size});
  const tile = el("rect", {class: "tile", tabindex: 0, role: "slider", "aria-label": "Tile of the answer", "aria-valuemin": 0});
  svg.append(shade, border, frame, tile);
  const table = el("table", {class: "num"}), status = el("p", {class: "status num"});

  const depthSlider = slider("Poolings", {min: 1, max: 4, value: depth}, v => {
    const before = ledger(b, depth).input;
    depth = v;
    const [low, high] = range(depth, size);
    b = low;  // the input nearest to the one before
    while (b < high && Math.abs(ledger(b + 1, depth).input - before) <= Math.abs(ledger(b, depth).input - before)) b++;
    limits();
    draw();
  });
  const sizeSlider = slider("Lowest map", {min: 5, max: 32, value: b}, v => { b = v; draw(); });
  function limits() {
    const [low, high] = range(depth, size), input = sizeSlider.root.querySelector("input");
    input.min = low;
    sizeSlider.set(b, high);
  }

  const say = card(root, "The tile of a U-Net without padding", `
    .pane { flex: 1 1 300px; max-width: 380px; } 
    .scene { position: relative; } canvas { width: 100%; display: block; } svg { position: absolute; inset: 0; overflow: hidden; } .shade { fill: var(--bg); opacity: .72; pointer-events: none; }
    .border { fill: none; stroke: var(--ink); stroke-width: 2; pointer-events: none; }
    .frame { fill: none; stroke: var(--orange); stroke-width: 5; pointer-events: none; }
    .tile { fill: var(--blue); fill-opacity: .25; stroke: var(--blue); stroke-width: 5; cursor: move; }
    table { border-collapse: collapse; } th, td { padding: 3px 12px 3px 0; text-align: left; font-weight: 400; white-space: nowrap; }
    th { color: var(--soft); font-size: 13px; } .in { color: var(--accent); font-weight: 600; }
    .out { font-weight: 600; color: color-mix(in srgb, var(--blue) 75%, var(--ink)); }
    @media (max-width: 480px) { th, td { padding-right: 7px; font-size: 13px; } }`,
    el("p", {class: "lead"}, "Drag the blue tile: the network answers for it, and reads the orange window to do so. "
      + "What lies outside the image is reflect padding."),
    el("div", {class: "row"}, el("div", {class: "pane"}, el("div", {class: "scene"}, canvas, svg)), el("div", {}, table)),
    el("div", {class: "controls"}, depthSlider.root, sizeSlider.root), status);

  function draw() {
    const {input, output, down, up} = ledger(b, depth), m = (input - output) / 2;
    x = clamp(Math.round(x), 0, size - output);
    y = clamp(Math.round(y), 0, size - output);
    for (const [k, v] of Object.entries({x, y, width: output, height: output})) tile.setAttribute(k, v);
    for (const [k, v] of Object.entries({x: x - m, y: y - m, width: input, height: input})) frame.setAttribute(k, v);
    shade.setAttribute("d", `M${-RIM} ${-RIM}h${all}v${all}h${-all}zM${x - m} ${y - m}h${input}v${input}h${-input}z`);
    const cells = (l, tag) => {
      const a = down[l], c = up[l];
      const td = (text, kind = "") => el(tag, {class: kind}, text);
      return el("tr", {}, td(String(l + 1)), td(`${a.into} → ${a.out}`, l ? "" : "in"),
        ...(c ? [td(`${a.out} → ${c.into}`), td(`${c.into} → ${c.out}`, l ? "" : "out")] : [td(""), td("")]));
    };
    const head = el("tr", {}, ...["level", "down", "crop", "up"].map(t => el("th", {scope: "col"}, t)));
    table.replaceChildren(head, ...down.map((_, l) => cells(l, "td")));
    const beyond = (from, n) => Math.max(0, -from) + Math.max(0, from + n - size);
    const columns = beyond(x - m, input), rows = beyond(y - m, input), side = Math.ceil(size / output);
    tile.setAttribute("aria-valuemax", size - output);
    tile.setAttribute("aria-valuenow", x);
    tile.setAttribute("aria-valuetext", `column ${x}, row ${y}, ${output} pixels wide`);
    status.textContent = `For ${output} × ${output} pixels the network reads ${input} × ${input}: ${m} more on every side. `
      + (columns + rows ? `Here ${columns} columns and ${rows} rows of the window are reflect padding. ` : "Here the whole window lies inside the image. ")
      + `The image of ${size} × ${size} takes ${side * side} such ${side === 1 ? "tile" : "tiles"} or more.`;
    say(status.textContent);
  }

  drag(tile, svg, (dx, dy) => { x += dx; y += dy; draw(); }, 8);
  limits();
  draw();
}
