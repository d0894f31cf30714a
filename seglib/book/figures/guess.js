// A guess before the output: a question, the reader's answer, then what they said beside what is right. It is kept in the
// browser under the book's one key; book.js hears of every change and keeps outputs folded until then.
//
// The file that comes after this one is the input. It defines STYLE and, for the parameters p and a guess v (null where
// the reader asked for the answer without one):
//   fits(p, v)   whether v fits the question, which may have changed since v was kept
//   judge(p, v)  what is said about v
//   input(p)     root; focus(), what gets the focus; want, what is asked for; read(), the guess or undefined;
//                show(v), which draws v beside the answer, or the empty input for undefined
const KEY = "segmentation-from-scratch";

// Reads a guess, or keeps one: undefined forgets it.
export function kept(name, ...change) {
  try {
    const all = {version: 1, guesses: {}, ticks: {}, chapters: {}, ...JSON.parse(localStorage.getItem(KEY))};
    if (!change.length) return all.guesses[name]?.value;
    all.guesses[name] = change[0] === undefined ? undefined : {value: change[0], time: new Date().toISOString()};
    localStorage.setItem(KEY, JSON.stringify(all));
  } catch { /* a sandboxed frame keeps nothing */ }
}

// Text with code between backquotes, without and with them.
const plain = text => text.replaceAll("`", "");
const rich = text => text.split("`").map((part, i) => i % 2 ? el("code", {}, part) : part);

const CSS = `
.card { border-left: 5px solid var(--accent); }
.question { margin: 0 0 10px; font-size: 16px; } .question b { display: block; color: var(--accent); font-size: 14px; }
code { background: var(--wash); border-radius: 4px; padding: 0 .25em; }
.note { color: var(--accent); } .result { margin: 12px 0 0; font-size: 15px; } .note:empty, .result:empty { display: none; }
.main { background: var(--ink); color: var(--bg); border-color: var(--ink); } [hidden] { display: none !important; }
@media print { .controls { display: none; } }`;

export function render(root, p) {
  const host = root.host, part = input(p), note = el("p", {class: "note"}), result = el("p", {class: "result num"});
  const title = el("b");
  const button = (text, onclick) => el("button", {type: "button", onclick}, text);
  const commit = button("This is my guess", take), show = button("Show without a guess", () => change(null));
  const again = button("Guess again", () => change(undefined));
  commit.className = "main";
  // No form: a sandboxed frame may not submit one.
  part.root.addEventListener("keydown", e => { if (e.key === "Enter" && e.target.matches("input")) take(); });
  const say = card(root, `Guess: ${plain(p.question)}`, CSS + STYLE,
    el("p", {class: "question"}, title, ...rich(p.question)), part.root, note, result, el("div", {class: "controls"}, commit, show, again));
  const section = root.querySelector("section");
  section.tabIndex = -1;
  host.setAttribute("data-lm-suppress-shortcuts", "true");  // JupyterLab would take the keys for its own

  function draw(v) {
    const open = v === undefined, text = open ? "" : judge(p, v);
    host.dataset.state = open ? "open" : v === null ? "shown" : "guessed";
    title.textContent = open ? "Your guess first" : v === null ? "Shown without a guess" : "Your guess";
    part.show(v);
    note.textContent = "";
    result.replaceChildren(...rich(text));
    commit.hidden = show.hidden = !open;
    again.hidden = open;
    return plain(text);
  }

  function take() {
    const v = part.read();
    if (host.dataset.state !== "open") return;
    if (v !== undefined) return change(v);
    say(note.textContent = part.want);
    part.focus().focus();
  }

  function change(v, here = true) {
    kept(p.name, v);
    say(draw(v));
    if (here) (v === undefined ? part.focus() : section).focus();
    const detail = {name: p.name, value: v, state: host.dataset.state};
    host.dispatchEvent(new CustomEvent("seg-guess", {bubbles: true, composed: true, detail}));
  }

  host.addEventListener("seg-guess-show", () => { if (host.dataset.state === "open") change(null, false); });
  const v = kept(p.name);
  draw(v === null || fits(p, v) ? v : undefined);
}
