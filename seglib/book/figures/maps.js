// Small maps: unpacked from an image, resampled, and painted on canvases.

// A grey image with n maps of h × w below each other → done(arrays of numbers): map i is low + grey · step, with
// scales[i] = [low, step].
export function unpackMaps(address, scales, h, w, done) {
  ground(address, w, h * scales.length, (pixels, loaded) => {
    const of = (i, [low, step]) => Float64Array.from({length: h * w}, (_, j) => low + step * pixels[4 * (i * h * w + j)]);
    if (loaded) done(scales.map((scale, i) => of(i, scale)));
  });
}

export const sigmoid = v => 1 / (1 + Math.exp(-v));

// Where N pixels lie on n cells, in indices of cells: centres at half integers.
export const halves = (n, N) => Array.from({length: N}, (_, j) => (j + 0.5) * n / N - 0.5);

// Where N pixels lie on n cells whose cell i stays at fine cell i·f + floor(f / 2) of n·f; N may differ from n·f.
export const aligned = (n, f, N = n * f) => Array.from({length: N}, (_, j) => ((j + 0.5) * n * f / N - 0.5 - Math.floor(f / 2)) / f);

// A map h × w between its cells, at the given rows and columns; beyond its border the border's values.
export function resample(map, h, w, rows, columns) {
  const split = (at, n) => at.map(v => {
    const c = clamp(v, 0, n - 1), low = Math.floor(c);
    return [low, Math.min(low + 1, n - 1), c - low];
  });
  const xs = split(columns, w), out = new Float64Array(rows.length * columns.length);
  split(rows, h).forEach(([top, bottom, fy], i) => xs.forEach(([left, right, fx], j) => {
    const line = row => (1 - fx) * map[row * w + left] + fx * map[row * w + right];
    out[i * columns.length + j] = (1 - fy) * line(top) + fy * line(bottom);
  }));
  return out;
}

// Intersection over union of two masks of 0 and 1; of two empty ones 0.
export function maskIou(a, b) {
  let inter = 0, union = 0;
  a.forEach((v, i) => { inter += v & b[i]; union += v | b[i]; });
  return union ? inter / union : 0;
}

const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
  .map(c => [0, 2, 4].map(i => parseInt(c.slice(i, i + 2), 16)));

// A colour of the book's map for a share in [0, 1].
export function viridis(share) {
  const at = clamp(share, 0, 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[i].map((v, k) => v + (at - i) * (VIRIDIS[i + 1][k] - v));
}

// Paints a map from dark (low) to bright (high), a canvas pixel for each cell.
export function heat(canvas, map, low, high) {
  const painted = new ImageData(canvas.width, canvas.height), span = high > low ? high - low : Infinity;
  map.forEach((v, i) => painted.data.set([...viridis((v - low) / span), 255], 4 * i));
  canvas.getContext("2d").putImageData(painted, 0, 0);
}

export const range = map => map.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);

// Calls done(pixels, loaded) with an even grey, and once more with the image's pixels (RGBA) at W × H, if there is one.
export function ground(address, W, H, done) {
  done(new Uint8ClampedArray(4 * W * H).fill(128), false);
  if (!address) return;
  const image = new Image();
  image.onload = () => {
    const pen = el("canvas", {width: W, height: H}).getContext("2d");
    pen.drawImage(image, 0, 0, W, H);
    done(pen.getImageData(0, 0, W, H).data, true);
  };
  image.src = address;
}

// Paints a mask orange over the ground, and, in dashes of black and white, the outline of another one.
export function overlay(canvas, pixels, mask, other) {
  const W = canvas.width, painted = new ImageData(new Uint8ClampedArray(pixels), W), data = painted.data;
  const border = (m, i) => m[i] && (i < W || i + W >= m.length || i % W === 0 || (i + 1) % W === 0 || !m[i - 1] || !m[i + 1] || !m[i - W] || !m[i + W]);
  const put = (i, r, g, b) => { data[i] = r; data[i + 1] = g; data[i + 2] = b; };
  mask.forEach((inside, i) => {
    const at = 4 * i, mix = (k, v) => 0.45 * data[at + k] + 0.55 * v;
    data[at + 3] = 255;
    if (other && border(other, i)) { const v = (i % W + Math.floor(i / W)) % 6 < 3 ? 255 : 0; put(at, v, v, v); }
    else if (border(mask, i)) put(at, 255, 120, 0);
    else if (inside) put(at, mix(0, 255), mix(1, 120), mix(2, 0));
  });
  canvas.getContext("2d").putImageData(painted, 0, 0);
}

export const MAPS = `
  .panes { display: flex; flex-wrap: wrap; gap: 10px 18px; } .pane { flex: 1 1 140px; max-width: 352px; min-width: 0; }
  .stage { position: relative; line-height: 0; border: 1px solid var(--line); } .stage svg { position: absolute; inset: 0; height: 100%; }
  canvas { display: block; width: 100%; height: auto; image-rendering: pixelated; }
  .name { font-weight: 600; margin-bottom: 4px; } .note { color: var(--soft); font-size: 13px; line-height: 1.3; margin: 4px 0 0; }`;
