// One object's generated filters over the features of the whole image, with the location that they count from to drag.

// The weights (out × in) and biases of every layer: all weights come first, then all biases.
export function layers(parameters, channels) {
  const found = [];
  let at = 0;
  for (let l = 0; l + 1 < channels.length; l++) {
    const [a, b] = [channels[l], channels[l + 1]];
    found.push({weight: Array.from({length: b}, (_, o) => parameters.slice(at + o * a, at + (o + 1) * a))});
    at += a * b;
  }
  for (const layer of found) {
    layer.bias = parameters.slice(at, at + layer.weight.length);
    at += layer.weight.length;
  }
  return found;
}

// The maps behind every layer, with ReLU behind all but the last; inputs are maps of as many cells.
export function run(inputs, parts) {
  const found = [];
  let maps = inputs;
  parts.forEach(({weight, bias}, l) => {
    maps = weight.map((row, o) => {
      const out = new Float64Array(maps[0].length).fill(bias[o]);
      row.forEach((w, i) => { for (let j = 0; j < out.length; j++) out[j] += w * maps[i][j]; });
      return l + 1 < parts.length ? out.map(v => Math.max(0, v)) : out;
    });
    found.push(maps);
  });
  return found;
}

// Two maps: where every cell lies, as seen from a location in pixels, in units of `size` pixels.
export function coordinates([px, py], size, stride, h, w) {
  const middle = Math.floor(stride / 2), of = (p, i) => (p - i * stride - middle) / size, cells = Array.from({length: h * w}, (_, j) => j);
  return [cells.map(j => of(px, j % w)), cells.map(j => of(py, Math.floor(j / w)))];
}

export const render = (root, p) => unpackMaps(p.maps, p.scales, p.h, p.w, maps => start(root, p, maps));

function start(root, p, features) {
  const {h, w, names, stride, factor, channels} = p, [H, W] = p.size, wide = w * stride, high = h * stride;
  const parts = p.parameters.map(v => layers(v, channels));
  let who = 0, at = [...p.homes[0]], seen = true, pixels;
  // Logits go up aligned, then probabilities: as the model does it.
  const fine = [aligned(h, factor), aligned(w, factor)], rest = stride / factor;
  const up = [aligned(h * factor, rest, H), aligned(w * factor, rest, W)];
  const look = (d, place, on) => {
    const inputs = [...coordinates(place, p.units[d], stride, h, w).map(m => on ? m : m.map(() => 0)), ...features], found = run(inputs, parts[d]);
    const probs = resample(found.at(-1)[0], h, w, ...fine).map(sigmoid);
    return {inputs, found, probs, mask: Uint8Array.from(resample(probs, h * factor, w * factor, ...up), v => v > p.threshold)};
  };
  const own = p.homes.map((home, d) => look(d, home, true).mask);

  const scene = el("canvas", {width: W, height: H, role: "img"}), heatmap = el("canvas", {width: w * factor, height: h * factor, role: "img"});
  const svg = el("svg", {viewBox: `0 0 ${wide} ${high}`}), u = wide / 40;
  const ticks = [[0, 1], [0, -1], [1, 0], [-1, 0]].map(([dx, dy]) => `M${1.1 * u * dx} ${1.1 * u * dy}L${2.4 * u * dx} ${2.4 * u * dy}`).join("");
  const cross = (name, extra) => el("g", {class: name, ...extra}, el("circle", {class: "grip", r: 2.4 * u}), ...["halo", "mark"].map(c => el("path", {class: c, d: ticks})));
  const handle = cross("cross", {tabindex: 0, role: "slider", "aria-label": "Location; arrow keys move it by half a cell", "aria-valuemin": 0, "aria-valuemax": wide - 1});
  const homes = el("g", {"aria-hidden": "true"}, ...p.homes.map(([x, y]) => el("circle", {class: "home", cx: x, cy: y, r: 0.45 * u})));
  svg.append(el("rect", {class: "anywhere", width: wide, height: high, fill: "transparent"}), homes, handle);
  const status = el("p", {class: "status num"});
  const button = (label, click) => el("button", {type: "button", onclick: click}, label);
  const choices = names.map((name, d) => button(name, () => { who = d; at = [...p.homes[d]]; draw(); }));
  const borrow = names.map((name, d) => button(name, () => { at = [...p.homes[d]]; draw(); }));
  const coords = button("Relative coordinates", () => { seen = !seen; draw(); });
  const strips = channels.slice(0, -1).map((count, l) => {
    const maps = Array.from({length: count}, (_, i) => el("canvas", {width: w, height: h, "aria-hidden": "true", title: l ? `layer ${l}, channel ${i + 1}` : ["x", "y"][i] ?? `feature ${i - 1}`}));
    const label = l ? `Behind layer ${l} and its ReLU` : `What the filters see: x, y and ${count - 2} features`;
    return {maps, root: el("div", {class: "strip"}, el("p", {class: "note"}, label), el("div", {class: "maps"}, ...maps))};
  });
  const pane = (name, ...children) => el("div", {class: "pane"}, el("div", {class: "name"}, name), ...children);
  const say = card(root, "The mask that generated filters draw, as seen from a location", MAPS + `
    .halo { stroke: #000; stroke-width: ${0.8 * u}px; stroke-linecap: round; } .mark { stroke: #fff; stroke-width: ${0.4 * u}px; stroke-linecap: round; }
    .cross { cursor: move; --focus: var(--accent); } .grip { fill: transparent; } .cross:focus-visible .grip { stroke: var(--accent); stroke-width: 4px; vector-effect: non-scaling-stroke; }
    .home { fill: #fff; stroke: #000; stroke-width: ${0.2 * u}px; } .anywhere { cursor: crosshair; } .off { opacity: .45; }
    .who { gap: 6px; } .who b { min-width: 5.4em; }  .strips { margin-top: 12px; display: grid; gap: 6px; }
    .maps { display: grid; grid-template-columns: repeat(${channels[0]}, minmax(0, 68px)); gap: 4px; margin-top: 2px; }`,
    el("p", {class: "lead"}, "An object's filters draw its mask over features that all objects share. Two of their inputs say where a cell lies relative to the object's location. "
      + "Drag the cross, or move it by the arrow keys: from elsewhere the same filters draw something else."),
    el("div", {class: "panes"}, pane("Mask", el("div", {class: "stage"}, scene, svg), el("p", {class: "note"}, "Dots: locations of the objects. Dashes: its mask, as predicted")),
      pane("Probability", el("div", {class: "stage"}, heatmap), el("p", {class: "note"}, "From 0 (dark) to 1 (bright)"))),
    el("div", {class: "controls who", role: "group", "aria-label": "Whose filters"}, el("b", {}, "Filters of"), ...choices),
    el("div", {class: "controls who", role: "group", "aria-label": "Location"}, el("b", {}, "Seen from"), ...borrow),
    el("div", {class: "controls"}, coords), status, el("div", {class: "strips"}, ...strips.map(s => s.root)));

  function draw() {
    const {inputs, found, probs, mask} = look(who, at, seen), area = mask.reduce((a, v) => a + v, 0);
    if (pixels) overlay(scene, pixels, mask, own[who]);
    heat(heatmap, probs, 0, 1);
    [inputs, ...found.slice(0, -1)].forEach((maps, l) => maps.forEach((map, i) => {
      // Coordinates keep one scale, so that they are seen to move; behind a ReLU dark is 0.
      const scale = !l && i < 2 ? [-Math.max(wide, high) / p.units[who], Math.max(wide, high) / p.units[who]] : l ? [0, range(map)[1]] : range(map);
      heat(strips[l].maps[i], map, ...scale);
      strips[l].maps[i].classList.toggle("off", !l && i < 2 && !seen);
    }));
    handle.setAttribute("transform", `translate(${at[0]} ${at[1]})`);
    choices.forEach((b, d) => b.setAttribute("aria-pressed", d === who));
    const near = p.homes.findIndex(([x, y]) => Math.hypot(x - at[0], y - at[1]) < 0.5);
    borrow.forEach((b, d) => b.setAttribute("aria-pressed", d === near));
    coords.setAttribute("aria-pressed", seen);
    const place = `column ${Math.round(at[0])}, row ${Math.round(at[1])}`, fit = own.map(m => maskIou(mask, m)), best = fit.indexOf(Math.max(...fit));
    let text = `From ${place} the filters of ${names[who]} draw ${area} of ${W * H} pixels. IoU with its mask as predicted: ${fit[who].toFixed(2)}.`;
    if (best !== who && fit[best] >= 0.1) text += ` The mask is more like that of ${names[best]}: IoU ${fit[best].toFixed(2)}.`;
    if (!seen) text += " Relative coordinates are 0 everywhere, so the location doesn't count.";
    handle.setAttribute("aria-valuenow", Math.round(at[0]));
    handle.setAttribute("aria-valuetext", `${place}: ${area} pixels`);
    heatmap.setAttribute("aria-label", `Probability in every cell, by the filters of ${names[who]}`);
    scene.setAttribute("aria-label", `Mask over the image: ${area} pixels`);
    status.textContent = text;
    say(text);
  }
  const go = (x, y) => { at = [clamp(x, 0, wide - 1), clamp(y, 0, high - 1)]; draw(); };
  drag(handle, svg, (dx, dy) => go(at[0] + dx, at[1] + dy), stride / 2);
  svg.addEventListener("pointerdown", e => {
    if (handle.contains(e.target)) return;
    const box = svg.getBoundingClientRect();
    go((e.clientX - box.left) / box.width * wide, (e.clientY - box.top) / box.height * high);
  });
  ground(p.image, W, H, found => { pixels = found; draw(); });
}
