// A guess that is one of several options.

export const fits = ({options}, v) => Number.isInteger(v) && v >= 0 && v < options.length;

export function judge({options, answer, says}, v) {
  const name = i => `“${options[i]}”`, more = says[v ?? answer] ? ` ${says[v ?? answer]}` : "";
  if (v === null) return `The answer is ${name(answer)}.${more}`;
  if (v === answer) return `You said ${name(v)}, and that is right.${more}`;
  return `You said ${name(v)}. The answer is ${name(answer)}.${more}`;
}

function input({options, answer, question}) {
  const radios = options.map(() => el("input", {type: "radio", name: "option"})), notes = options.map(() => el("b"));
  const rows = options.map((text, i) => el("label", {}, radios[i], el("span", {}, ...rich(text), notes[i])));
  return {
    root: el("div", {role: "radiogroup", "aria-label": plain(question)}, ...rows), focus: () => radios[0],
    want: "Choose one of the options.",
    read() {
      const i = radios.findIndex(radio => radio.checked);
      return i < 0 ? undefined : i;
    },
    show(v) {
      const done = v !== undefined;
      options.forEach((_, i) => {
        const right = done && i === answer, mine = i === v;
        [radios[i].checked, radios[i].disabled] = [mine, done];
        rows[i].className = right ? "right" : mine ? "wrong" : "";
        notes[i].textContent = right ? mine ? " ✓ your guess, right" : " ✓ the answer" : mine ? " ✗ your guess" : "";
      });
    },
  };
}

const STYLE = `
label { display: flex; gap: 10px; align-items: baseline; margin-bottom: 4px; padding: 4px 8px; border: 1px solid transparent;
  border-radius: 6px; cursor: pointer; } label:has(:disabled) { cursor: default; }
label input { flex: none; accent-color: var(--accent); margin: 0; }
label:has(:checked), label:hover:not(:has(:disabled)) { background: var(--wash); border-color: var(--line); }
label.right { border-color: var(--green); background: color-mix(in srgb, var(--green) 12%, var(--bg)); }`;
