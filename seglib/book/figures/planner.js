// nnU-Net's rules: from the facts of a data set to its plan. Every number is that of seglib.planning: rounding, ties and the order
// of float operations are Python's and NumPy's.

// voxels: numbers in the feature maps of one patch that fit into `memory` GB with the reference batch. least: the batch that must fit.
const residual = {residual: true, encoder: i => [1, 3, 4][i] ?? 6, decoder: 1, covered: 1, least: {2: 12, 3: 2}};
export const PLANNERS = {
  plain: {name: "Plain", memory: 8, voxels: {2: 85e6, 3: 56e7}, encoder: () => 2, decoder: 2, covered: 0.05, least: {2: 2, 3: 2}},
  resenc_m: {name: "ResEnc M", memory: 8, voxels: {2: 135e6, 3: 68e7}, ...residual},
  resenc_l: {name: "ResEnc L", memory: 24, voxels: {2: 38e7, 3: 21e8}, ...residual},
  resenc_xl: {name: "ResEnc XL", memory: 40, voxels: {2: 56e7, 3: 36e8}, ...residual},
};
const LARGEST = {2: 512, 3: 320}, REFERENCE_BATCH = {2: 12, 3: 2}, EDGE = 4;

export const product = list => list.reduce((a, b) => a * b, 1);

// Half to even, as Python rounds.
export function round(v) {
  const low = Math.floor(v), rest = v - low;
  return rest === 0.5 ? low + low % 2 : low + (rest > 0.5);
}

// NumPy's percentile, linear between two values.
export function percentile(values, q) {
  const sorted = [...values].sort((a, b) => a - b), at = q / 100 * (sorted.length - 1), low = Math.floor(at), t = at - low;
  const a = sorted[low], b = sorted[Math.min(low + 1, sorted.length - 1)];
  return t < 0.5 ? a + (b - a) * t : b - (b - a) * (1 - t);
}

const column = (rows, axis) => rows.map(row => row[axis]);
const median = values => {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// The cases behind the settings of the page: along the coarsest axis their spacing runs evenly from (1 - spread) to (1 + spread)
// times the median, and their size the other way, so that all cover the same millimetres.
export function casesOf({spacing, size, cases, spread}) {
  const coarse = spacing.indexOf(Math.max(...spacing));
  const factors = Array.from({length: cases}, (_, i) => cases > 1 ? 1 + spread * (2 * i / (cases - 1) - 1) : 1);
  const along = (list, change) => factors.map(f => list.map((v, axis) => axis === coarse ? change(v, f) : v));
  return {spacings: along(spacing, (v, f) => v * f), sizes: along(size, (v, f) => Math.max(1, round(v / f)))};
}

// Levels of pooling, kernels, and the size padded to what the strides need; spacing and size of 2 or 3 axes.
export function topology(spacing, size) {
  const at = [...spacing], left = [...size], pools = size.map(() => 0), kernel = size.map(() => 1), strides = [], kernels = [];
  for (;;) {
    let axes = at.map((_, i) => i).filter(i => left[i] >= 2 * EDGE);
    const finest = Math.min(...axes.map(i => at[i]));
    axes = axes.filter(i => at[i] / finest < 2);
    if (!axes.length || axes.length === 1 && left[axes[0]] < 3 * EDGE) break;
    at.forEach((v, i) => { if (v / Math.min(...at) < 2) kernel[i] = 3; });
    kernels.push([...kernel]);
    strides.push(at.map((_, i) => axes.includes(i) ? 2 : 1));
    for (const i of axes) [pools[i], at[i], left[i]] = [pools[i] + 1, at[i] * 2, Math.ceil(left[i] / 2)];
  }
  const multiple = pools.map(n => 2 ** n);
  kernels.push(size.map(() => 3));
  return {strides, kernels, multiple, patch: size.map((v, i) => Math.ceil(v / multiple[i]) * multiple[i])};
}

// The sizes of the maps of every level, the finest first.
export const maps = (patch, strides) => strides.reduce((list, s) => [...list, list.at(-1).map((v, i) => v / s[i])], [patch]);

// How many numbers the feature maps of a forward pass hold, for one patch.
function features(patch, strides, widths, {residual, encoder, decoder}, {classes}) {
  const voxels = maps(patch, strides).map(product);
  // two convolutions a residual block, and one more: the skip that changes the map, at the first stage the stem
  const down = voxels.reduce((sum, v, i) => sum + v * widths[i] * (residual ? 2 * encoder(i) + 1 : encoder(i)), 0);
  const up = voxels.slice(0, -1).reduce((sum, v, i) => sum + v * widths[i] * (decoder + 1), 0);
  return down + up + voxels[0] * classes;
}

// One configuration, with the steps that led to it.
function configure(spacing, size, datasetVoxels, settings) {
  const planner = PLANNERS[settings.planner], dims = spacing.length, least = planner.least[dims], budget = planner.voxels[dims] * (settings.memory / planner.memory);
  const inverse = spacing.map(v => 1 / v), side = dims === 3 ? 256 : 2048;
  const scale = (side ** dims / product(inverse)) ** (1 / dims), shaped = inverse.map(v => round(v * scale));
  const start = shaped.map((v, i) => Math.min(v, size[i])), steps = [];
  let found = topology(spacing, start);
  const widthsOf = strides => Array.from({length: strides.length + 1}, (_, i) => Math.min(LARGEST[dims], settings.width * 2 ** i));
  for (;;) {
    const count = features(found.patch, found.strides, widthsOf(found.strides), planner, settings);
    steps.push({patch: found.patch, count});
    if (count / REFERENCE_BATCH[dims] * least <= budget) break;
    const ratios = found.patch.map((v, i) => v / size[i]), axis = ratios.lastIndexOf(Math.max(...ratios)), tried = [...found.patch];
    tried[axis] -= found.multiple[axis];
    const by = topology(spacing, tried).multiple[axis];
    if (found.patch[axis] - by < 1) throw new Error(`Not even a patch of ${found.patch.join(" × ")} voxels fits into ${settings.memory} GB.`);
    Object.assign(steps.at(-1), {axis, by});
    found = topology(spacing, found.patch.map((v, i) => i === axis ? v - by : v));
  }
  const {strides, kernels, patch} = found, {count} = steps.at(-1), levels = strides.length + 1;
  const fits = round(budget / count * REFERENCE_BATCH[dims]), covers = round(datasetVoxels * planner.covered / product(patch));
  return {
    spacing, size, shaped, start, steps, patch, least, limit: budget * REFERENCE_BATCH[dims] / least, multiple: found.multiple, strides, kernels, fits, covers, batch: Math.max(Math.min(fits, covers), 2),
    widths: widthsOf(strides), residual: !!planner.residual, batchDice: dims === 2,
    blocks: Array.from({length: levels}, (_, i) => planner.encoder(i)), decoderBlocks: strides.map(() => planner.decoder),
  };
}

// The plan of {spacings, sizes} of all cases, in mm and voxels (z, y, x), and {planner, memory in GB, classes, channels, width}.
export function plan({spacings, sizes, ...rest}) {
  const settings = {width: 32, ...rest}, all = [0, 1, 2], number = spacings.length;
  const target = all.map(i => median(column(spacings, i))), voxels = all.map(i => median(column(sizes, i)));
  const coarse = target.indexOf(Math.max(...target)), others = all.filter(i => i !== coarse), inPlane = Math.max(...others.map(i => target[i]));
  const anisotropy = {coarse, inPlane, voxels, spacing: target[coarse], least: Math.min(...others.map(i => voxels[i])), tenth: percentile(column(spacings, coarse), 10)};
  anisotropy.anisotropic = target[coarse] > 3 * inPlane;
  anisotropy.few = voxels[coarse] * 3 < anisotropy.least;
  anisotropy.raised = anisotropy.tenth < inPlane;
  if (anisotropy.anisotropic && anisotropy.few) target[coarse] = anisotropy.raised ? inPlane + 1e-5 : anisotropy.tenth;
  const first = target.indexOf(Math.max(...target)), transpose = [first, ...all.filter(i => i !== first)], turn = list => transpose.map(i => list[i]);
  const resampled = spacings.map((s, k) => s.map((v, i) => Math.max(1, round(v / target[i] * sizes[k][i]))));
  const size = turn(all.map(i => median(column(resampled, i)))), spacing = turn(target), caseVoxels = product(size), dataset = caseVoxels * number;
  const planar = configure(spacing.slice(1), size.slice(1), dataset, settings), full = size[0] === 1 ? null : configure(spacing, size, dataset, settings);
  const configurations = {"2d": planar, "3d_fullres": full}, found = {target, anisotropy, transpose, spacing, size, configurations};
  if (full) {
    found.share = product(full.patch) / caseVoxels;
    let share = found.share, low = [...spacing], lowVoxels = caseVoxels, steps = 0;
    for (; share < 0.25; steps++) {
      const most = Math.max(...low), fine = low.map(v => most / v > 2);
      low = low.map((v, i) => fine.includes(true) && !fine[i] ? v : v * 1.03);
      const lowSize = low.map((v, i) => spacing[i] / v * size[i]);
      lowVoxels = product(lowSize);
      configurations["3d_lowres"] = configure(low, lowSize.map(v => Math.max(1, round(v))), lowVoxels * number, settings);
      share = product(configurations["3d_lowres"].patch) / lowVoxels;
    }
    found.lowres = {steps, share, ratio: caseVoxels / lowVoxels, spacing: low};
    if (found.lowres.ratio < 2) delete configurations["3d_lowres"];
  }
  found.single = Object.keys(configurations).filter(name => configurations[name]?.strides.length === 0);
  for (const name of Object.keys(configurations)) if (!configurations[name]?.strides.length) delete configurations[name];
  if (!Object.keys(configurations).length) throw new Error(`No axis can be halved, so there is no U-Net for cases of ${size.join(" × ")} voxels.`);
  if (!configurations["3d_fullres"]) delete configurations["3d_lowres"];
  if (configurations["3d_lowres"]) {
    configurations["3d_cascade_fullres"] = full;
    full.batchDice = true;
  }
  return found;
}
