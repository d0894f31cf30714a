"""`book.setup` and `book.budget`."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from seglib import book
from seglib.viz import style


@pytest.fixture(autouse=True)
def no_outside_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGLIB_BUDGET", "CI", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)


def on_gpu(monkeypatch: pytest.MonkeyPatch, present: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002 - this generator is meant


def test_the_same_seed_gives_the_same_draws_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    book.setup(seed=3)
    first = draws()
    book.setup(seed=3)
    assert draws() == first
    book.setup(seed=4)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_what_it_prints_and_shows_is_the_same_on_every_machine(capsys: pytest.CaptureFixture[str]) -> None:
    here = book.setup(seed=7)
    assert capsys.readouterr().out == "Ready: random seed 7, figures in the book's style.\n"
    assert repr(here) == "Setup(seed=7)"


def test_it_says_where_and_with_what_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_gpu(monkeypatch, False)
    here = book.setup()
    assert here.device == torch.device("cpu") and not here.full
    assert here.versions["torch"] == torch.__version__.split("+")[0]
    assert {"python", "seglib", "numpy", "torchvision", "matplotlib"} <= here.versions.keys()


def test_it_sets_the_figure_style(capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib

    style()
    want = matplotlib.rcParams["figure.facecolor"]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        book.setup()
        assert matplotlib.rcParams["figure.facecolor"] == want


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_numpys_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed must lie in .* got {seed}"):
        book.setup(seed)


@pytest.mark.parametrize(
    ("gpu", "environment", "want"),
    [
        (False, {}, "fast"),
        (True, {}, "full"),
        (True, {"CI": "true"}, "fast"),
        (True, {"CI": "false"}, "full"),
        (True, {"PYTEST_VERSION": "9"}, "fast"),
        (False, {"SEGLIB_BUDGET": "full"}, "full"),
        (True, {"SEGLIB_BUDGET": "fast"}, "fast"),
        (True, {"SEGLIB_BUDGET": "full", "CI": "true"}, "full"),
    ],
)
def test_the_budget_follows_device_tests_and_the_readers_wish(
    gpu: bool, environment: dict[str, str], want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu(monkeypatch, gpu)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert book.budget(fast="fast", full="full") == want


def test_an_unknown_wish_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLIB_BUDGET", "huge")
    with pytest.raises(ValueError, match="SEGLIB_BUDGET='huge' is not known; set it to 'fast' or 'full'"):
        book.budget(fast=1, full=2)
