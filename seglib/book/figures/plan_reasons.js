// The reason for every number of a plan, in words. A rule names the inputs and the rules before it that it reads.

const by = list => list.join(" × ");
const mm = list => `${by(list.map(v => +v.toPrecision(3)))} mm`;
const percent = v => `${+(100 * v).toPrecision(v < 0.1 ? 2 : 3)}\u00a0%`;
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
const millions = v => `${+(v / 1e6).toPrecision(3)} million`;
const sentence = parts => parts.filter(Boolean).join(" ");

// "1 × 3 × 3, then 3 × 3 × 3": each value once for a run of equal ones.
const runs = list => list.filter((v, i) => i === 0 || String(v) !== String(list[i - 1])).map(by).join(", then ");

function targetReason({anisotropy: a, target}) {
  const axis = "zyx"[a.coarse], most = +a.inPlane.toPrecision(3), spacing = +a.spacing.toPrecision(3), tenth = +a.tenth.toPrecision(3);
  if (!a.anisotropic) return `The median of all cases. No axis is more than 3 times as coarse as both others: ${axis} has ${spacing} mm, and the limit is 3 × ${most} = ${+(3 * a.inPlane).toPrecision(3)} mm.`;
  const coarse = `${axis} is coarse: ${spacing} mm is more than 3 × ${most} mm.`;
  if (!a.few) return `The median of all cases. ${coarse} But its ${a.voxels[a.coarse]} voxels are not less than a third of ${a.least}: no exception.`;
  const exception = `${coarse} And its ${a.voxels[a.coarse]} voxels are less than a third of ${a.least}. So ${axis} takes the 10th percentile of its spacings, ${tenth} mm, not their median.`;
  return a.raised ? `${exception} It must not be finer than the other axes: ${+target[a.coarse].toPrecision(3)} mm, and 0.00001 mm more.` : exception;
}

function patchReason({steps, limit, least, multiple}, memory) {
  const last = steps.at(-1), used = `${millions(last.count)} numbers in the feature maps of one patch, ${percent(last.count / limit)} of the ${millions(limit)} that the planner allows for a batch of ${least} in ${memory} GB`;
  const rounded = `Each axis is rounded up to what its strides need (multiples of ${multiple.join(", ")}).`;
  return steps.length === 1 ? `${rounded} That makes ${used}: it fits.`
    : `Too large at first: ${count(steps.length - 1, "step")} of cutting the axis that is largest against the median case. ${rounded} It ends with ${used}.`;
}

function poolingReason({spacing, patch, strides}, axes) {
  const halved = axes.map((axis, i) => {
    const n = strides.filter(s => s[i] === 2).length;
    return `${axis} ${n ? `${count(n, "time")} (${patch[i]} → ${patch[i] / 2 ** n})` : `never (${patch[i]})`}`;
  });
  return `An axis is halved while it has 8 voxels (12 if no other axis is) and its spacing is less than twice the finest among those axes. ${halved.join(", ")}; the spacing at the start is ${mm(spacing)}.`;
}

function kernelReason({spacing, kernels}, axes) {
  const finest = Math.min(...spacing), late = axes.flatMap((axis, i) => {
    const stage = kernels.findIndex(k => k[i] === 3);
    return stage ? [`${axis} starts ${+(spacing[i] / finest).toPrecision(3)} times as coarse as the finest axis and has 3 from stage ${stage + 1} on`] : [];
  });
  return `An axis has kernel 3 once its spacing is less than twice the finest, else 1; the last stage has 3 everywhere. ${late.length ? `${late.join("; ")}.` : "Here that holds from the first stage on."}`;
}

function batchReason({limit, least, steps, fits, covers}, planner, memory) {
  const room = `${memory} GB hold ${(least * limit / steps.at(-1).count).toFixed(2)} patches, rounded ${fits}.`;
  const data = `${percent(planner.covered)} of the data set's voxels make ${count(covers, "patch", "patches")}`;
  return sentence([room, fits <= covers ? `${data}: no limit here.` : `But ${data}, and a batch is no larger.`, Math.min(fits, covers) < 2 && "A batch has at least 2."]);
}

function lowresReason({size, share, lowres: low, single}) {
  if (single.length) return ["no", `Left out: ${single.join(", ")}. No axis can be halved, and a U-Net has two stages at least.`];
  if (size[0] === 1) return ["no 3D at all", "The cases are one voxel deep: 2D is all there is."];
  if (!low.steps) return ["no", `The 3d_fullres patch holds ${percent(share)} of the median case, and 25 % is enough: no low resolution.`];
  const found = `The 3d_fullres patch holds only ${percent(share)} of the median case, less than 25 %. The spacing grows by 3 % in ${count(low.steps, "step")}, until a patch holds ${percent(low.share)}; the case then has ${+low.ratio.toPrecision(3)} times fewer voxels.`;
  return low.ratio < 2 ? ["no", `${found} That is less than 2 times: not worth a second network.`] : ["yes", `${found} 3d_lowres and a cascade are added.`];
}

function spacingRules(found, name) {
  if (name === "2d") return [{title: "Spacing in 2D", value: mm(found.spacing.slice(1)), from: ["Target spacing", "Order of axes"], why: `The first axis, ${"zyx"[found.transpose[0]]}, is left out: each slice is an image.`}];
  if (name !== "3d_lowres") return [];
  return [{title: "Spacing in lowres", value: mm(found.lowres.spacing), mark: String(found.lowres.spacing), from: ["Target spacing", "Median size", "Low resolution", "Planner", "Memory", "Classes"],
    why: `${count(found.lowres.steps, "step")} of 3 % from the target spacing. Axes that are less than half as coarse as the coarsest grow alone at first.`}];
}

// The rules of one configuration in the order in which they are applied: {title, value, why, from}, and the shrinking steps.
export function reasons(found, name, settings) {
  const c = found.configurations[name], planner = PLANNERS[settings.planner], two = c.patch.length === 2;
  const axes = found.transpose.map(i => "zyx"[i]).slice(two ? 1 : 0), unit = two ? "pixels" : "voxels";
  const cascade = name === "3d_cascade_fullres", [low, whyLow] = lowresReason(found);
  const data = ["Spacing z", "Spacing y", "Spacing x", "Size z", "Size y", "Size x", "Cases", "Spacing ± %"], own = spacingRules(found, name);
  const near = own.map(rule => rule.title);
  const whole = [
    {title: "Target spacing", value: mm(found.target), mark: String(found.target), from: data, why: targetReason(found)},
    {title: "Order of axes", value: found.transpose.map(i => "zyx"[i]).join(", "), from: ["Target spacing"],
      why: new Set(found.target).size === 1 ? "All axes are equally coarse: the order stays." : `The coarsest axis, ${"zyx"[found.transpose[0]]}, comes first. All that follows is in this order.`},
    {title: "Median size", value: `${by(found.size)} voxels`, from: [...data, "Target spacing", "Order of axes"], why: "Every case is resampled to the target spacing; this is the median of their sizes."},
  ];
  const trigger = {title: "Low resolution", value: low, from: [...data, "Target spacing", "Median size", "Planner", "Memory", "Classes"], why: whyLow};
  const sized = name === "3d_lowres" ? [{title: "Size in lowres", value: `${by(c.size)} voxels`, from: ["Median size", ...near], why: "The median size at the coarser spacing."}] : [];
  const network = [
    {title: "First patch", value: `${by(c.start)} ${unit}`, from: ["Target spacing", "Median size", "Order of axes", ...near, ...sized.map(r => r.title)],
      why: `As many ${unit} as ${two ? "2048 × 2048" : "256 × 256 × 256"}, equally long in mm along every axis: ${by(c.shaped)}. ${c.shaped.some((v, i) => v > c.size[i]) ? `No axis is longer than the median case, ${by(c.size)}.` : "The median case is at least as long along every axis."}`},
    {title: "Patch", value: `${by(c.patch)} ${unit}`, from: ["First patch", "Median size", "Target spacing", ...near, "Planner", "Memory", "Classes"], why: patchReason(c, settings.memory), steps: c.steps, axes, limit: c.limit},
    {title: "Stages and strides", value: count(c.widths.length, "stage"), mark: String(c.strides), from: ["Patch", "Target spacing", ...near], why: poolingReason(c, axes)},
    {title: "Kernels", value: runs(c.kernels), mark: String(c.kernels), from: ["Stages and strides", "Target spacing", ...near], why: kernelReason(c, axes)},
    {title: "Channels per stage", value: c.widths.join(", "), from: ["Stages and strides"], why: `${c.widths[0]} at first, doubled from stage to stage, at most ${two ? "512 in 2D" : "320 in 3D"}.`},
    {title: "Blocks per stage", value: c.blocks.join(", "), from: ["Planner", "Stages and strides"], why: c.residual ? "Residual blocks of two convolutions on the way down; one convolution on the way up." : "Two convolutions per stage, on the way down and up."},
    {title: "Batch size", value: String(c.batch), from: ["Patch", "Stages and strides", "Median size", "Cases", "Planner", "Memory", "Classes"], why: batchReason(c, planner, settings.memory)},
  ];
  const last = [
    {title: "Dice loss", value: c.batchDice ? "over the batch" : "per patch", from: ["Low resolution"],
      why: two ? "In 2D always over the batch: many slices show no foreground." : name === "3d_lowres" ? "In 3d_lowres always per patch: it holds much of the case." : `Over the batch only if 3d_lowres exists, for then a patch is a small part of a case. It ${low === "yes" ? "does" : "does not"}.`},
    {title: "Input and output", value: `${settings.channels}${cascade ? ` + ${settings.classes - 1}` : ""} in, ${settings.classes} out`, from: ["Channels", "Classes"],
      why: sentence([cascade && "3d_lowres's prediction comes along, one channel for every class but background.", "Channels change nothing else: the estimate counts feature maps, and the input is none. Class scores count."])},
  ];
  return name === "3d_lowres" ? [...whole, trigger, ...own, ...sized, ...network, ...last] : [...whole, ...own, ...network, trigger, ...last];
}

// What a movement changed: the title of every rule with another number → the names among its inputs and rules before it that did,
// too. moved: names of the inputs that were moved.
export function changes(before, now, moved) {
  const number = rule => rule && (rule.mark ?? rule.value), old = new Map(before.map(rule => [rule.title, number(rule)]));
  const changed = now.filter(rule => number(rule) !== old.get(rule.title)), names = [...moved, ...changed.map(rule => rule.title)];
  return new Map(changed.map(rule => [rule.title, rule.from.filter(name => names.includes(name))]));
}
