// What overflows sideways can be scrolled with the keyboard too: give it a place in the tab order.
(() => {
  const boxes = ".bd-article pre, .bd-article .katex-display, .bd-article .cell_output, .bd-article dt.sig";
  const update = () => {
    for (const box of document.querySelectorAll(boxes)) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("load", update);
  addEventListener("resize", update);
})();
