"""A progress bar for training inside a notebook, which leaves one short line behind."""

from __future__ import annotations

import html
import math
import time
from typing import Any

_SECONDS_BETWEEN_UPDATES = 0.2

_BAR = (
    '<div style="display:flex;flex-wrap:wrap;align-items:center;gap:.3rem .8rem;font-variant-numeric:tabular-nums">'
    "<span>{label}</span>"
    '<div role="progressbar" aria-label="{label}" aria-valuemin="0" aria-valuemax="{steps}" aria-valuenow="{step}" '
    'aria-valuetext="step {step} of {steps}" '
    'style="flex:1 1 8rem;max-width:22rem;height:.7rem;border:1px solid;border-radius:.4rem;overflow:hidden">'
    '<div style="width:{percent:.1f}%;height:100%;background:#0072b2"></div></div>'
    "<span>{step}/{steps}, loss {loss}, {rate:.0f} images/s, {eta} left</span></div>"
)


class progress:  # noqa: N801 - used like a function: fit(..., on_step=book.progress("FCN-8s"))
    """A callback for ``seglib.train.fit(..., on_step=...)`` that shows a bar while it runs.

    When the last step is done the bar gives way to one line such as ``FCN-8s: 300 steps, loss 2.31 → 0.58``. It holds
    no times, so a stored notebook does not change when it runs again. Outside a notebook only that line is printed.

    Args:
        label: name of what is being trained.
    """

    def __init__(self, label: str = "training") -> None:
        self.label = label
        self._start()

    def _start(self) -> None:
        self._first_loss = math.nan
        self._last_step = 0
        self._handle: Any = None  # IPython's DisplayHandle
        self._shown_at = -math.inf

    def __call__(self, step: int, steps: int, loss: float, rate: float, eta: float) -> None:
        """Report one finished step.

        Args:
            step: number of steps done, 1 … ``steps``. A value not above the last one starts a new bar.
            steps: number of steps in all.
            loss: the loss of this step.
            rate: samples trained per second.
            eta: estimated seconds left.
        """
        if step <= self._last_step:
            self._start()
        if self._last_step == 0:
            self._first_loss = loss
        self._last_step = step
        if step >= steps:
            line = f"{self.label}: {steps} steps, loss {_digits(self._first_loss)} → {_digits(loss)}"
            self._show(_Line(line, f"<p>{html.escape(line)}</p>"), last=True)
        elif time.monotonic() - self._shown_at >= _SECONDS_BETWEEN_UPDATES:
            self._shown_at = time.monotonic()
            label = html.escape(self.label, quote=True)
            share = 100 * step / steps
            values = {"label": label, "step": step, "steps": steps, "percent": share, "rate": rate}
            bar = _BAR.format(**values, loss=_digits(loss), eta=_clock(eta))
            self._show(_Line(f"{self.label}: step {step} of {steps}", bar), last=False)

    def _show(self, line: _Line, *, last: bool) -> None:
        if not _in_notebook():
            if last:
                print(line)
        elif self._handle is None:
            from IPython.display import display

            self._handle = display(line, display_id=True)
        else:
            self._handle.update(line)


class _Line:
    """One message as plain text and as HTML; a front end takes the one it can show."""

    def __init__(self, text: str, markup: str) -> None:
        self._text, self._markup = text, markup

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._markup


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None


def _digits(value: float) -> str:
    """A loss with two decimals, or with two significant digits where two decimals would say 0.00."""
    return f"{value:.2f}" if not 0 < abs(value) < 0.01 else f"{value:.1e}"


def _clock(seconds: float) -> str:
    """Seconds as ``m:ss``; a dash while the rate is not known."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02d}"
