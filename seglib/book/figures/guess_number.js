// A guess that is a number: a field, a slider where there are two ends, and afterwards both on a line.

// The number in a text such as 0.5, 0,5, −3 or 1/2; NaN where there is none.
export function parse(text) {
  const [a, b = "1", ...more] = text.replace("−", "-").replace(",", ".").split("/");
  const v = a.trim() && b.trim() && !more.length ? a / b : NaN;
  return Number.isFinite(v) ? v : NaN;
}

// A number with its unit: 3 pixels, 1 pixel, 50%.
export function write(v, unit = "") {
  const text = String(Number.isInteger(v) ? v : +v.toPrecision(6)).replace(/^-/, "−");
  const name = Math.abs(v) === 1 ? unit.replace(/^(\w*(?:ch|x|ss))es$|^(\w+[^\Ws])s$/, "$1$2") : unit;
  return text + (/^$|^[%°×]/.test(unit) ? "" : " ") + name;
}

export const fits = (p, v) => Number.isFinite(v);

export function judge({answer, unit, tolerance}, v) {
  if (v === null) return `The answer is ${write(answer, unit)}.`;
  if (v === answer) return `You said ${write(v, unit)}, and that is right.`;
  const off = Math.abs(v - answer), near = off <= tolerance * (1 + 1e-9);
  return `You said ${write(v, unit)}. The answer is ${write(answer, unit)}: your guess is ${write(off, unit)} too `
    + `${v > answer ? "high" : "low"}${near ? ", close enough" : ""}.`;
}

function input({low, high, step, unit, answer}) {
  const line = low !== null, field = el("input", {size: 9, autocomplete: "off"}), stage = el("div", {class: "line"});
  const range = el("input", {type: "range", min: low, max: high, step, "aria-label": "Your guess on a line"});
  const label = el("label", {}, "Your guess ", field, ` ${unit}`);
  const ends = () => line ? [el("div", {class: "ends"}, el("span", {}, write(low)), el("span", {}, write(high)))] : [];
  const aloud = () => range.setAttribute("aria-valuetext", field.value.trim() ? `${field.value} ${unit}` : "nothing yet");
  range.oninput = () => { field.value = write(+range.value); aloud(); };
  field.oninput = () => { range.value = parse(field.value); aloud(); };
  return {
    root: el("div", {}, label, stage), focus: () => field,
    want: line ? `Give a number from ${write(low)} to ${write(high, unit)}.` : "Give a number, such as 12, 0.5 or 1/2.",
    read() {
      const v = parse(field.value);
      return v >= (low ?? -Infinity) && v <= (high ?? Infinity) ? v : undefined;
    },
    show(v) {
      field.value = "";
      field.oninput();
      label.hidden = v !== undefined;
      if (v === undefined) return stage.replaceChildren(...line ? [range] : [], ...ends());
      const all = [answer, v ?? answer, low ?? answer, high ?? answer], min = Math.min(...all), size = Math.max(...all) - min;
      const mark = (x, name) => {
        const style = `--at: ${100 * (x - min) / size}%`;
        return [el("i", {class: name, style}), el("span", {class: name, style}, `${name} ${write(x)}`)];
      };
      const track = el("div", {class: "track", "aria-hidden": "true"}, ...v === null ? [] : mark(v, "you"), ...mark(answer, "answer"));
      stage.replaceChildren(...size ? [track] : [], ...ends());
    },
  };
}

const STYLE = `
label { display: inline-flex; gap: 8px; align-items: center; }
label input { font: inherit; width: 7em; padding: 4px 8px; color: var(--ink); background: var(--bg);
  border: 1px solid var(--soft); border-radius: 6px; }
.line { max-width: 480px; margin-top: 10px; } .line input { width: 100%; }
.ends { display: flex; justify-content: space-between; color: var(--soft); }
.track { position: relative; height: 4px; margin: 36px 0 0; background: var(--line); border-radius: 2px; }
.track * { position: absolute; left: var(--at); white-space: nowrap; }
.track i { width: 16px; height: 16px; margin: -6px -8px; border: 3px solid var(--accent); border-radius: 50%; background: var(--bg); }
.track i.answer { border-color: var(--ink); background: var(--ink); border-radius: 0; transform: scale(.75) rotate(45deg); }
.track span { translate: calc(-1 * var(--at)); bottom: 12px; } .track span.answer { bottom: auto; top: 12px; font-weight: 650; }
.track + .ends, .track:last-child { margin-bottom: 34px; } .track + .ends { margin: 30px 0 0; }`;
