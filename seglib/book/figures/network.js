// Runs a network that seglib/weights/steps.py wrote: PyTorch's operators on arrays, one after the other.

// A tensor is {shape, data}: data a Float32Array in row-major order, whole numbers and truth values too.
export const tensor = (shape, data) => ({shape, data: data || new Float32Array(shape.reduce((a, b) => a * b, 1))});
const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

function stridesOf(shape) {
  const strides = new Array(shape.length);
  for (let i = shape.length - 1, n = 1; i >= 0; n *= shape[i--]) strides[i] = n;
  return strides;
}

// Reads an array through strides, in row-major order of shape.
function gather(data, shape, strides, start = 0) {
  const out = tensor(shape), n = shape.length, to = out.data;
  if (!to.length) return out;
  const inner = n ? shape[n - 1] : 1, step = n ? strides[n - 1] : 0, index = new Array(n).fill(0);
  for (let at = start, k = 0; k < to.length;) {
    for (let i = 0, from = at; i < inner; i++, from += step) to[k++] = data[from];
    for (let axis = n - 2; axis >= 0; axis--) {
      at += strides[axis];
      if (++index[axis] < shape[axis]) break;
      at -= strides[axis] * shape[axis];
      index[axis] = 0;
    }
  }
  return out;
}

function broadcast(x, shape) {
  if (x.shape.length === shape.length && x.shape.every((n, i) => n === shape[i])) return x;
  const own = stridesOf(x.shape), lead = shape.length - x.shape.length;
  return gather(x.data, shape, shape.map((_, i) => (i < lead || x.shape[i - lead] === 1 ? 0 : own[i - lead])));
}

function together(...parts) {
  const shapes = parts.map((p) => p.shape), length = Math.max(...shapes.map((s) => s.length));
  const shape = Array.from({length}, (_, i) => {
    const sizes = shapes.map((s) => s[i - length + s.length] ?? 1);
    return sizes.includes(0) ? 0 : Math.max(...sizes);
  });
  return [shape, ...parts.map((p) => broadcast(p, shape).data)];
}

const asTensor = (x) => (typeof x === "object" ? x : tensor([], Float32Array.of(+x)));

function pointwise(of) {
  return (x) => {
    const out = tensor(x.shape);
    for (let i = 0; i < out.data.length; i++) out.data[i] = of(x.data[i]);
    return out;
  };
}

function pairwise(of) {
  return (a, b, alpha = 1) => {
    if (typeof a !== "object" && typeof b !== "object") return of(a, b, alpha);
    const [shape, x, y] = together(asTensor(a), asTensor(b)), out = tensor(shape);
    for (let i = 0; i < out.data.length; i++) out.data[i] = of(x[i], y[i], alpha);
    return out;
  };
}

const axisOf = (x, axis) => (axis < 0 ? axis + x.shape.length : axis);

// Runs over the axis: for each place outside and inside of it, of(start, step) of its n numbers.
function along(x, axis, of) {
  const n = x.shape[axis], inner = sizeOf(x.shape.slice(axis + 1)), outer = sizeOf(x.shape.slice(0, axis));
  for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) of(o * n * inner + i, inner, o * inner + i);
}

function slice(x, axis, start, end, step = 1) {
  axis = axisOf(x, axis);
  const n = x.shape[axis], clip = (v) => Math.min(Math.max(v < 0 ? v + n : v, 0), n);
  const first = clip(start ?? 0), last = clip(end ?? n), strides = stridesOf(x.shape), shape = x.shape.slice();
  shape[axis] = Math.max(0, Math.ceil((last - first) / step));
  const offset = first * strides[axis];
  strides[axis] *= step;
  return gather(x.data, shape, strides, offset);
}

function view(x, shape) {
  const known = shape.reduce((a, b) => (b === -1 ? a : a * b), 1);
  return tensor(shape.map((n) => (n === -1 ? x.data.length / known : n)), x.data);
}

function permute(x, axes) {
  const strides = stridesOf(x.shape);
  return gather(x.data, axes.map((a) => x.shape[axisOf(x, a)]), axes.map((a) => strides[axisOf(x, a)]));
}

function cat(parts, axis = 0) {
  axis = axisOf(parts[0], axis);
  const shape = parts[0].shape.slice();
  shape[axis] = parts.reduce((n, p) => n + p.shape[axis], 0);
  const out = tensor(shape), rows = sizeOf(shape.slice(0, axis)), width = sizeOf(shape.slice(axis));
  let at = 0;
  for (const part of parts) {
    const run = sizeOf(part.shape.slice(axis));
    for (let r = 0; r < rows; r++) out.data.set(part.data.subarray(r * run, (r + 1) * run), r * width + at);
    at += run;
  }
  return out;
}

// (M, K) times (K, N), both row-major at an offset.
function multiply(a, aAt, b, bAt, out, at, M, K, N) {
  for (let m = 0; m < M; m++) {
    const to = at + m * N;
    for (let k = 0; k < K; k++) {
      const w = a[aAt + m * K + k], from = bAt + k * N;
      if (w !== 0) for (let n = 0; n < N; n++) out[to + n] += w * b[from + n];
    }
  }
}

function mm(a, b) {
  const [M, K] = a.shape, N = b.shape[1], out = tensor([M, N]);
  multiply(a.data, 0, b.data, 0, out.data, 0, M, K, N);
  return out;
}

function bmm(a, b) {
  const [B, M, K] = a.shape, N = b.shape[2], out = tensor([B, M, N]);
  for (let i = 0; i < B; i++) multiply(a.data, i * M * K, b.data, i * K * N, out.data, i * M * N, M, K, N);
  return out;
}

function pad(x, sides, value = 0) {  // sides from the last axis on: before, after
  const n = x.shape.length, before = x.shape.map((_, i) => sides[2 * (n - 1 - i)] ?? 0);
  const after = x.shape.map((_, i) => sides[2 * (n - 1 - i) + 1] ?? 0);
  const out = tensor(x.shape.map((s, i) => s + before[i] + after[i])), strides = stridesOf(out.shape);
  if (value) out.data.fill(value);
  const width = x.shape[n - 1], first = Math.max(0, -before[n - 1]), last = Math.min(width, width + after[n - 1]);
  const rows = x.data.length / width, index = new Array(n - 1).fill(0);
  for (let r = 0; r < rows; r++) {
    let at = 0, inside = true;
    for (let i = 0, rest = r, k = n - 2; k >= 0; k--) {
      i = rest % x.shape[k] + before[k];
      rest = Math.floor(rest / x.shape[k]);
      inside = inside && i >= 0 && i < out.shape[k];
      at += i * strides[k];
    }
    if (inside) out.data.set(x.data.subarray(r * width + first, r * width + last), at + before[n - 1] + first);
  }
  return out;
}

function conv2d(x, weight, bias, stride, padding, dilation, transposed, _, groups) {
  if (transposed) return transposedConv2d(x, weight, bias, stride, padding, groups);
  const [py, px] = padding, [sy, sx] = stride, [dy, dx] = dilation, [O, per, kh, kw] = weight.shape;
  const from = py || px ? pad(x, [px, px, py, py]) : x, [B, I, H, W] = from.shape;
  const h = Math.floor((H - dy * (kh - 1) - 1) / sy) + 1, w = Math.floor((W - dx * (kw - 1) - 1) / sx) + 1;
  const out = tensor([B, O, h, w]), cells = h * w, taps = per * kh * kw, each = O / groups;
  const offsets = new Int32Array(taps);
  for (let c = 0, t = 0; c < per; c++)
    for (let i = 0; i < kh; i++) for (let j = 0; j < kw; j++) offsets[t++] = (c * H + i * dy) * W + j * dx;
  for (let b = 0; b < B; b++) for (let g = 0; g < groups; g++) {
    const start = (b * I + g * per) * H * W;
    for (let o = g * each; o < (g + 1) * each; o += 4)
      fourChannels(from.data, start, weight.data, bias && bias.data, o, Math.min(4, (g + 1) * each - o), taps, offsets,
        out.data, (b * O + o) * cells, h, w, sy * W, sx, cells);
  }
  return out;
}

// Up to four channels of the output at once: each number that is read serves four sums.
function fourChannels(x, start, weight, bias, o, count, taps, offsets, out, at, h, w, down, right, cells) {
  const w0 = o * taps, w1 = (o + Math.min(1, count - 1)) * taps, w2 = (o + Math.min(2, count - 1)) * taps;
  const w3 = (o + count - 1) * taps;
  const b0 = bias ? bias[o] : 0, b1 = bias && count > 1 ? bias[o + 1] : 0, b2 = bias && count > 2 ? bias[o + 2] : 0;
  const b3 = bias && count > 3 ? bias[o + 3] : 0;
  for (let y = 0; y < h; y++) for (let i = 0; i < w; i++) {
    const base = start + y * down + i * right, to = at + y * w + i;
    let s0 = b0, s1 = b1, s2 = b2, s3 = b3;
    for (let t = 0; t < taps; t++) {
      const v = x[base + offsets[t]];
      s0 += v * weight[w0 + t];
      s1 += v * weight[w1 + t];
      s2 += v * weight[w2 + t];
      s3 += v * weight[w3 + t];
    }
    out[to] = s0;
    if (count > 1) out[to + cells] = s1;
    if (count > 2) out[to + 2 * cells] = s2;
    if (count > 3) out[to + 3 * cells] = s3;
  }
}

function transposedConv2d(x, weight, bias, stride, padding, groups) {
  const [B, I, H, W] = x.shape, [, each, kh, kw] = weight.shape, O = each * groups, per = I / groups;
  const [sy, sx] = stride, [py, px] = padding, h = (H - 1) * sy + kh - 2 * py, w = (W - 1) * sx + kw - 2 * px;
  const out = tensor([B, O, h, w]);
  for (let b = 0; b < B; b++) for (let c = 0; c < I; c++) for (let q = 0; q < each; q++) {
    const o = Math.floor(c / per) * each + q, to = (b * O + o) * h * w, from = (b * I + c) * H * W;
    for (let i = 0; i < kh; i++) for (let j = 0; j < kw; j++) {
      const v = weight.data[((c * each + q) * kh + i) * kw + j];
      if (v === 0) continue;
      for (let y = 0; y < H; y++) {
        const row = y * sy + i - py;
        if (row < 0 || row >= h) continue;
        for (let k = 0; k < W; k++) {
          const column = k * sx + j - px;
          if (column >= 0 && column < w) out.data[to + row * w + column] += v * x.data[from + y * W + k];
        }
      }
    }
  }
  if (bias) for (let i = 0; i < out.data.length; i++) out.data[i] += bias.data[Math.floor(i / (h * w)) % O];
  return out;
}

function batchNorm(x, weight, bias, mean, variance, _, eps) {
  const out = tensor(x.shape), C = x.shape[1], cells = sizeOf(x.shape.slice(2));
  for (let i = 0; i < out.data.length / cells; i++) {
    const c = i % C, scale = (weight ? weight.data[c] : 1) / Math.sqrt(variance.data[c] + eps);
    const shift = (bias ? bias.data[c] : 0) - mean.data[c] * scale;
    for (let k = i * cells; k < (i + 1) * cells; k++) out.data[k] = x.data[k] * scale + shift;
  }
  return out;
}

function layerNorm(x, shape, weight, bias, eps) {
  const out = tensor(x.shape), n = sizeOf(shape);
  for (let at = 0; at < out.data.length; at += n) {
    let sum = 0, squares = 0;
    for (let i = at; i < at + n; i++) sum += x.data[i];
    const mean = sum / n;
    for (let i = at; i < at + n; i++) squares += (x.data[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / n + eps);
    for (let i = 0; i < n; i++)
      out.data[at + i] = (x.data[at + i] - mean) * scale * (weight ? weight.data[i] : 1) + (bias ? bias.data[i] : 0);
  }
  return out;
}

function softmax(x, axis) {
  const out = tensor(x.shape), n = x.shape[axisOf(x, axis)];
  along(x, axisOf(x, axis), (at, step) => {
    let most = -Infinity, sum = 0;
    for (let i = 0; i < n; i++) most = Math.max(most, x.data[at + i * step]);
    for (let i = 0; i < n; i++) sum += out.data[at + i * step] = Math.exp(x.data[at + i * step] - most);
    for (let i = 0; i < n; i++) out.data[at + i * step] /= sum;
  });
  return out;
}

function mean(x, axes, keep = false) {
  let out = x;
  for (const axis of axes.map((a) => axisOf(x, a)).sort((a, b) => b - a)) {
    const shape = out.shape.slice(), n = shape[axis], from = out;
    shape.splice(axis, 1, ...(keep ? [1] : []));
    out = tensor(shape);
    along(from, axis, (at, step, to) => {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += from.data[at + i * step];
      out.data[to] = sum / n;
    });
  }
  return out;
}

function any(x, axis, keep = false) {
  axis = axisOf(x, axis);
  const shape = x.shape.slice(), n = shape[axis];
  shape.splice(axis, 1, ...(keep ? [1] : []));
  const out = tensor(shape);
  along(x, axis, (at, step, to) => {
    for (let i = 0; i < n; i++) if (x.data[at + i * step]) out.data[to] = 1;
  });
  return out;
}

const sizeAfter = (x, size, scales) => size || x.shape.slice(2).map((n, i) => Math.floor(n * scales[i]));

function nearest(x, size, scales) {
  const [B, C, H, W] = x.shape, [h, w] = sizeAfter(x, size, scales), out = tensor([B, C, h, w]);
  for (let c = 0, k = 0; c < B * C; c++) for (let y = 0; y < h; y++) {
    const row = (c * H + Math.floor(y * H / h)) * W;
    for (let i = 0; i < w; i++) out.data[k++] = x.data[row + Math.floor(i * W / w)];
  }
  return out;
}

// Where the pixels of a resized axis lie in the old one: two neighbours and the second one's share.
function places(from, to, corners, scale) {
  return Array.from({length: to}, (_, i) => {
    const at = corners ? (to > 1 ? i * (from - 1) / (to - 1) : 0) : Math.max(0, (i + 0.5) * (scale ? 1 / scale : from / to) - 0.5);
    const low = Math.min(Math.floor(at), from - 1);
    return [low, Math.min(low + 1, from - 1), at - low];
  });
}

function bilinear(x, size, corners, scales) {
  const [B, C, H, W] = x.shape, [h, w] = sizeAfter(x, size, scales), out = tensor([B, C, h, w]);
  const rows = places(H, h, corners, scales && scales[0]), columns = places(W, w, corners, scales && scales[1]);
  for (let c = 0, k = 0; c < B * C; c++) for (const [top, bottom, v] of rows) {
    const upper = (c * H + top) * W, lower = (c * H + bottom) * W;
    for (const [left, right, u] of columns)
      out.data[k++] = (1 - v) * ((1 - u) * x.data[upper + left] + u * x.data[upper + right]) +
        v * ((1 - u) * x.data[lower + left] + u * x.data[lower + right]);
  }
  return out;
}

function pool(x, kernel, stride, padding = [0, 0]) {
  const from = pad(x, [padding[1], padding[1], padding[0], padding[0]], -Infinity), [B, C, H, W] = from.shape;
  const [sy, sx] = stride.length ? stride : kernel;
  const h = Math.floor((H - kernel[0]) / sy) + 1, w = Math.floor((W - kernel[1]) / sx) + 1, out = tensor([B, C, h, w]);
  for (let c = 0, k = 0; c < B * C; c++) for (let y = 0; y < h; y++) for (let i = 0; i < w; i++) {
    let most = -Infinity;
    for (let p = 0; p < kernel[0]; p++) for (let q = 0; q < kernel[1]; q++)
      most = Math.max(most, from.data[(c * H + y * sy + p) * W + i * sx + q]);
    out.data[k++] = most;
  }
  return out;
}

// The error function to 1.2e-7 (Numerical Recipes' fit of erfc by a Chebyshev polynomial).
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const fit = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
    -0.82215223, 0.17087277].reduceRight((sum, c) => sum * t + c);
  const tail = t * Math.exp(-x * x + fit);
  return x >= 0 ? 1 - tail : tail - 1;
}

const filled = (shape, value) => tensor(shape, new Float32Array(sizeOf(shape)).fill(+value));

export const OPERATORS = {
  convolution: conv2d, _native_batch_norm_legit_no_training: batchNorm, native_layer_norm: layerNorm, mm, bmm, view,
  permute, cat, slice, mean, any, _softmax: softmax, constant_pad_nd: pad, upsample_nearest2d: nearest,
  upsample_bilinear2d: bilinear, max_pool2d_with_indices: pool,
  relu: pointwise((v) => (v > 0 ? v : 0)), sigmoid: pointwise((v) => 1 / (1 + Math.exp(-v))),
  sin: pointwise(Math.sin), cos: pointwise(Math.cos), logical_not: pointwise((v) => +!v),
  gelu: pointwise((v) => 0.5 * v * (1 + erf(v * Math.SQRT1_2))),
  add: pairwise((a, b, alpha) => a + alpha * b), sub: pairwise((a, b, alpha) => a - alpha * b),
  mul: pairwise((a, b) => a * b), div: pairwise((a, b) => a / b), lt: pairwise((a, b) => +(a < b)),
  eq: pairwise((a, b) => +(a === b)), floordiv: (a, b) => Math.floor(a / b), mod: (a, b) => ((a % b) + b) % b,
  neg: (a) => -a,
  clamp: (x, low, high) => pointwise((v) => Math.min(Math.max(v, low ?? -Infinity), high ?? Infinity))(x),
  where(test, a, b) {
    const [shape, t, x, y] = together(test, asTensor(a), asTensor(b)), out = tensor(shape);
    for (let i = 0; i < out.data.length; i++) out.data[i] = t[i] ? x[i] : y[i];
    return out;
  },
  addmm: (bias, a, b) => OPERATORS.add(mm(a, b), bias),
  unsqueeze: (x, axis) => view(x, x.shape.toSpliced(axis < 0 ? axis + x.shape.length + 1 : axis, 0, 1)),
  expand(x, shape) {
    const lead = shape.length - x.shape.length;
    return broadcast(x, shape.map((n, i) => (n === -1 ? x.shape[i - lead] : n)));
  },
  select(x, axis, index) {
    const at = axisOf(x, axis), i = index < 0 ? index + x.shape[at] : index;
    return view(slice(x, at, i, i + 1), x.shape.toSpliced(at, 1));
  },
  split_with_sizes(x, sizes, axis = 0) {
    let at = 0;
    return sizes.map((n) => slice(x, axis, at, at += n));
  },
  index_select: (x, axis, {data}) => cat(Array.from(data, (i) => slice(x, axis, i, i + 1)), axis),
  getitem: (parts, i) => parts[i],
  sym_size: (x, axis) => x.shape[axisOf(x, axis)],
  full: filled, full_like: (x, value) => filled(x.shape, value),
  arange: (start, end, step) => tensor([Math.ceil((end - start) / step)],
    Float32Array.from({length: Math.ceil((end - start) / step)}, (_, i) => start + i * step)),
  index(x, [rows]) {
    const width = sizeOf(x.shape.slice(1)), out = tensor([...rows.shape, ...x.shape.slice(1)]);
    rows.data.forEach((r, i) => out.data.set(x.data.subarray(r * width, (r + 1) * width), i * width));
    return out;
  },
};

// 16 bits → number: sign, exponent, fraction; of all 65,536, filled when the first one is asked for.
let halves = null;

function half(bits) {
  halves = halves || Float32Array.from({length: 65536}, (_, b) => {
    const sign = b & 0x8000 ? -1 : 1, exponent = (b >> 10) & 31, fraction = b & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  });
  return halves[bits];
}

function numbersOf({shape, dtype, offset}, buffer) {
  const n = sizeOf(shape), kind = {f16: Uint16Array, f32: Float32Array, i32: Int32Array}[dtype];
  const stored = new kind(buffer, offset, n);
  return dtype === "f16" ? Float32Array.from(stored, half) : Float32Array.from(stored);
}

const zeros = (x) => tensor(x.shape);

// What a cut leaves of a step's arguments: [i] or [i, j] is the place of the argument that becomes zero.
function without(args, [i, j]) {
  return args.with(i, j === undefined ? zeros(args[i]) : args[i].with(j, zeros(args[i][j])));
}

// A network's manifest and its bytes → run(inputs, {keep, cuts, pause}): its outputs, and what the steps in keep gave.
// A cut {step, place} makes an argument of a step zero, or what it gives when there is no place. pause is called before
// each step; when it gives (a promise of) false, the run ends and gives null.
export function network(manifest, buffer) {
  const weights = manifest.tensors.map((t) => tensor(t.shape, numbersOf(t, buffer)));
  const ends = manifest.steps.map(() => []), last = new Map();  // the values that nobody needs after a step
  const see = (value, i) => {
    if (Array.isArray(value)) value.forEach((v) => see(v, i));
    else if (value && value.step !== undefined) last.set(value.step, i);
  };
  manifest.steps.forEach((step, i) => see(step.args, i));
  for (const {step} of Object.values(manifest.outputs)) last.delete(step);
  last.forEach((end, step) => ends[end].push(step));
  return async function run(inputs, {keep = [], cuts = [], pause = () => true} = {}) {
    const values = [], kept = {};
    const read = (value) => {
      if (Array.isArray(value)) return value.map(read);
      if (typeof value === "string") return Number(value.replace("inf", "Infinity"));
      if (value === null || typeof value !== "object") return value ?? undefined;
      if (value.step !== undefined) return values[value.step];
      return value.input !== undefined ? inputs[value.input] : weights[value.tensor];
    };
    for (const [i, step] of manifest.steps.entries()) {
      if ((await pause()) === false) return null;
      const cut = cuts.filter((c) => c.step === i);
      const args = cut.reduce((a, {place}) => (place ? without(a, place) : a), step.args.map(read));
      values[i] = OPERATORS[step.op](...args);
      if (cut.some(({place}) => !place)) values[i] = zeros(values[i]);
      if (keep.includes(i)) kept[i] = values[i];
      for (const at of ends[i]) values[at] = undefined;
    }
    return {outputs: Object.fromEntries(Object.entries(manifest.outputs).map(([k, v]) => [k, read(v)])), kept};
  };
}

// In a worker: {load, manifest, numbers} stores a network, {run, id, inputs, keep, cuts} answers {id, outputs, kept}. A
// new run of a network ends the one before it, which answers {id, stopped: true}.
export function serve(scope) {
  const networks = {}, newest = {};
  const channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  const breath = () => new Promise((done) => {
    waiting.push(done);
    channel.port2.postMessage(0);
  });
  scope.onmessage = async ({data}) => {
    if (data.load) {
      networks[data.load] = network(data.manifest, data.numbers);
      return;
    }
    newest[data.run] = data.id;
    let rested = performance.now();
    const pause = async () => {
      if (performance.now() - rested < 12) return true;
      await breath();  // lets the message of a newer run in
      rested = performance.now();
      return newest[data.run] === data.id;
    };
    try {
      const found = await networks[data.run](data.inputs, {keep: data.keep, cuts: data.cuts, pause});
      scope.postMessage({id: data.id, ...(found || {stopped: true})});
    } catch (error) {
      scope.postMessage({id: data.id, error: String(error)});
    }
  };
}
