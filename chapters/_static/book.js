// What pages do by themselves: outputs wait for a guess, ticks and progress are kept, wide boxes scroll by keyboard.
// One key of localStorage holds it all: {version, guesses: {name: {value, time}}, ticks: {page: {exercise: true}},
// chapters: {page: {visited, guesses: [names], exercises: [labels], read}}}. Guesses write theirs themselves (guess.js).
const book = (() => {
  const KEY = "segmentation-from-scratch", VERSION = 1;
  const texts = v => Array.isArray(v) && v.every(t => typeof t === "string");

  // Why data is not what this book keeps; empty when it is.
  function problem(data) {
    const {version, guesses, ticks, chapters} = data ?? {};
    if (version !== VERSION) return `it is not of version ${VERSION}`;
    const all = (part, test) => part?.constructor === Object && Object.values(part).every(v => v?.constructor === Object && test(v));
    const value = v => v === null || Number.isFinite(v) || texts(v);
    return all(guesses, g => value(g.value) && typeof g.time === "string") && all(ticks, page => Object.values(page).every(v => v === true))
      && all(chapters, c => texts(c.guesses) && texts(c.exercises) && typeof c.read === "boolean") ? "" : "some of it cannot be read";
  }

  // What was done of a chapter, in words and as a share; undefined before the first visit.
  function progress({guesses, ticks, chapters}, page) {
    const chapter = chapters[page];
    if (!chapter) return undefined;
    const parts = [["guesses", chapter.guesses, name => (guesses[name]?.value ?? null) !== null], ["exercises", chapter.exercises, label => ticks[page]?.[label]]]
      .map(([name, all, test]) => ({name, all: all.length, done: all.filter(test).length})).filter(part => part.all);
    const sum = key => parts.reduce((n, part) => n + part[key], 0);
    const words = [...parts.map(({name, all, done}) => `${done} of ${all} ${name}`), ...chapter.read ? ["read"] : []].join(", ");
    return {words: words || "started", share: (sum("done") + chapter.read) / (sum("all") + 1)};
  }

  // Both together; where they differ, the second wins.
  function merge(one, other) {
    const result = {version: VERSION, guesses: {...one.guesses, ...other.guesses}, ticks: {...one.ticks}, chapters: {...one.chapters}};
    for (const page in other.ticks) result.ticks[page] = {...one.ticks[page], ...other.ticks[page]};
    for (const page in other.chapters)
      result.chapters[page] = {...other.chapters[page], read: other.chapters[page].read || Boolean(one.chapters[page]?.read)};
    return result;
  }

  const pageOf = path => path.split(/[?#]/)[0].split("/").pop().replace(/\.html$/, "");

  function load() {
    try {
      const all = JSON.parse(localStorage.getItem(KEY));
      if (!problem(all)) return all;
    } catch { /* nothing can be kept here, or nothing readable is */ }
    return {version: VERSION, guesses: {}, ticks: {}, chapters: {}};
  }

  function keep(change) {
    const all = load();
    try {
      localStorage.setItem(KEY, JSON.stringify(change(all) ?? all));
      return true;
    } catch { return false; }
  }

  function el(tag, attributes, ...children) {
    const e = Object.assign(document.createElement(tag), attributes);
    e.append(...children);
    return e;
  }

  const query = (selector, root = document) => [...root.querySelectorAll(selector)];
  const guesses = () => query(".bd-article [data-params]").filter(e => e.localName.startsWith("seg-guess-"));

  // What overflows sideways can be scrolled with the keyboard too: give it a place in the tab order.
  function scrollable() {
    for (const box of query(".bd-article :is(pre, .katex-display, .cell_output, .pst-scrollable-table-container, dt.sig)"))
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
  }

  // The paragraphs behind such a cell speak of what it gives: they wait with it.
  function foldText(cell, waits) {
    let next = cell.nextElementSibling;
    while (next?.matches(".tag_after-guess, .tag_proof")) next = next.nextElementSibling;
    for (; next?.matches("p, ul, ol, dl, div.math, table, .pst-scrollable-table-container"); next = next.nextElementSibling) next.classList.toggle("waits", waits);
  }

  // Cells that wait in a row have one line that stands for them all.
  function waitsAbove(cell) {
    let before = cell.previousElementSibling;
    while (before?.matches(".tag_proof:not(.tag_after-guess)")) before = before.previousElementSibling;
    return before?.matches(".tag_after-guess:not(.unfolded)") && before.querySelector(".cell_output");
  }

  // An output tagged "after-guess" waits while the guess before it, in the same section, is open; proofs wait with it.
  function fold() {
    const all = guesses();
    let asked = [], answered = true;  // guesses in a row belong together: the outputs behind them wait for each
    for (const e of query(".bd-article :is(h2, [data-params], .tag_after-guess, .tag_proof)")) {
      if (e.localName === "h2") asked = [];
      else if (all.includes(e)) asked = answered ? [e] : [...asked, e];
      if (e.localName === "h2" || all.includes(e)) answered = false;
      if (!e.matches(".tag_after-guess, .tag_proof")) continue;
      answered = true;
      const group = asked, waits = group.some(g => g.dataset.state === "open"), output = e.querySelector(".cell_output");
      e.classList.toggle("unfolded", !waits);
      for (const note of query(".guess-waits", e)) note.remove();
      if (e.matches(".tag_after-guess")) foldText(e, waits);
      if (!waits || !output || !e.matches(".tag_after-guess") || waitsAbove(e)) continue;
      output.before(el("p", {className: "guess-waits"}, "Make your guess above, then this unfolds. ", el("button", {type: "button", onclick() {
        for (const g of group) g.dispatchEvent(new CustomEvent("seg-guess-show"));
        output.tabIndex = -1;
        output.focus({preventScroll: true});
      }}, "Show without a guess")));
    }
    scrollable();
  }

  // A link into an output or a text that waits leads to the line that stands for it.
  function arrive() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    let waiting = target?.closest(".tag_after-guess:not(.unfolded), .waits");
    while (waiting && !waiting.querySelector(".guess-waits")) waiting = waiting.previousElementSibling;
    waiting?.querySelector(".guess-waits").scrollIntoView({block: "center"});
  }

  function tick(text, name, checked, change) {
    const box = el("input", {type: "checkbox", checked, ariaLabel: name, onchange: () => keep(all => change(all, box.checked))});
    return el("label", {className: "book-tick"}, box, ` ${text}`);
  }

  function chapter(page) {
    const exercises = query(".bd-article .exercise.admonition[id]"), old = load();
    keep(all => { all.chapters[page] = {visited: new Date().toISOString(), read: false, ...all.chapters[page],
      guesses: guesses().map(e => JSON.parse(e.dataset.params).name), exercises: exercises.map(e => e.id)}; });
    for (const {id, firstElementChild: title} of exercises)
      title.append(tick("Done", `Done: ${title.textContent.trim()}`, Boolean(old.ticks[page]?.[id]), (all, on) => {
        const ticks = all.ticks[page] ??= {};
        if (on) ticks[id] = true;
        else delete ticks[id];
      }));
    const text = "I have read this chapter";
    document.querySelector(".bd-article").append(tick(text, text, Boolean(old.chapters[page]?.read), (all, on) => { all.chapters[page].read = on; }));
  }

  const links = () => query(".bd-sidebar-primary .toctree-l1 > a").filter(a => /^\s*\d+\./.test(a.textContent));

  // The landing page: a line a chapter, and what to do with all that is kept.
  function strip(box) {
    const list = el("ul"), status = el("p", {role: "status"}), buttons = el("div"), ask = el("div", {hidden: true});
    const say = text => { status.textContent = text; };
    const draw = () => list.replaceChildren(...links().map(a => {
      const name = a.textContent.trim(), {words = "not started", share = 0} = progress(load(), pageOf(a.getAttribute("href"))) ?? {};
      return el("li", {}, el("a", {href: a.href}, name), el("progress", {value: share, ariaLabel: `Progress in ${name}`}), el("span", {}, words));
    }));
    const button = (text, onclick) => el("button", {type: "button", onclick}, text);
    const file = el("input", {type: "file", accept: ".json", hidden: true, async onchange() {
      try {
        const data = JSON.parse(await file.files[0].text()), wrong = problem(data);
        if (wrong) throw new Error(wrong);
        say(keep(all => merge(all, data)) ? "Imported." : "This browser keeps nothing for this page.");
        draw();
      } catch (error) { say(`Not imported, nothing has changed: ${error instanceof SyntaxError ? "the file is not JSON" : error.message}.`); }
      file.value = "";
    }});
    const turn = asking => {
      [buttons.hidden, ask.hidden] = [asking, !asking];
      (asking ? ask : buttons).querySelector("button:last-of-type").focus();
    };
    buttons.append(button("Export", () => {
      const url = URL.createObjectURL(new Blob([JSON.stringify(load(), null, 1)], {type: "application/json"}));
      el("a", {href: url, download: `${KEY}.json`}).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    }), button("Import", () => file.click()), file, button("Reset", () => turn(true)));
    ask.append("Forget all guesses, ticks and chapters? ", button("Yes, forget them", () => {
      keep(() => ({version: VERSION, guesses: {}, ticks: {}, chapters: {}}));
      draw();
      turn(false);
      say("Everything is forgotten.");
    }), button("No, keep them", () => turn(false)));
    box.append(el("h2", {}, "Your progress"), el("p", {}, "Guesses, ticks and chapters read are kept in this browser only."), list, buttons, ask, status);
    box.hidden = false;
    draw();
    addEventListener("storage", draw);
    addEventListener("pageshow", draw);
  }

  document.documentElement.classList.add("book-js");
  document.addEventListener("DOMContentLoaded", () => {
    fold();
    const page = pageOf(location.pathname), box = document.getElementById("reading-progress");
    if (links().some(a => a.matches(".current"))) chapter(page);
    if (box) strip(box);
  });
  document.addEventListener("seg-guess", fold);
  addEventListener("hashchange", arrive);
  const shown = document.documentElement.dataset;
  let screen;
  matchMedia("print").addEventListener("change", ({matches}) => {  // paper is light, whatever the screen is
    if (matches) screen = shown.theme;
    shown.theme = matches ? "light" : screen;
  });
  addEventListener("load", () => { scrollable(); arrive(); });
  addEventListener("resize", scrollable);
  return {problem, progress, merge, pageOf};
})();
