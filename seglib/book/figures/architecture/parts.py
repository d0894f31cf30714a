"""What a drawing is made of: blocks, edges, groups, notes, and switches that turn a branch off."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from seglib.types import Category


class Call(NamedTuple):
    """One call of a module: what it was given and what it gave."""

    arguments: tuple[Any, ...]
    output: Any


def argument(index: int = 0) -> Callable[[Call], Any]:
    """What takes a module's argument, where the map has no module of its own, such as a sum."""

    def take(call: Call) -> Any:
        return call.arguments[index]

    take.source = "input of"  # type: ignore[attr-defined]  # the panel says it
    return take


def entry(key: Any) -> Callable[[Call], Any]:
    """What takes one entry of a module's output, a dict, list or tuple."""
    return lambda call: call.output[key]


@dataclass(frozen=True)
class Scene:
    """What painters may ask besides the value that they paint.

    Attributes:
        image: image of the forward pass, ``(C, H, W)``; of a volume its middle slice.
        categories: the class table.
        model: the drawn model.
        volume: whether the forward pass was that of a volume.
    """

    image: Tensor
    categories: Sequence[Category]
    model: nn.Module
    volume: bool = False


Painter = Callable[[Any, Scene], np.ndarray]
"""A block's value → ``(h, w, 3)`` uint8 of at most 128 pixels a side."""


@dataclass(frozen=True)
class Block:
    """One block of a drawing.

    Attributes:
        name: name by which edges, groups and ``here`` know it.
        label: what stands beside it.
        at: its middle ``(x, y)``, in units of the drawing.
        module: path of the module whose call gives its value; ``""`` is the model itself.
        code: piece of the line that computes it; the whole line is found in the source of ``home``.
        says: one sentence on what it does.
        take: function from that :class:`Call` to the value; ``None`` takes the output.
        call: number of the call, for a module that runs more than once.
        home: object whose class, or function whose source, holds the line; ``None`` is the model.
        weights: paths of the modules and parameters that count as its own weights; ``None`` means that of ``module``.
        shows: how the value is painted: ``"strength"`` (mean absolute value over the channels), ``"classes"`` (class of
            the highest score), ``"image"``, ``"prediction"``, or a :data:`Painter`.
        stride: pixels from one cell to the next; ``None`` reads it off the sizes where they divide.
        what: words under its map, for a :data:`Painter`.
        side: where its label stands: ``"below"``, ``"above"``, ``"left"``, ``"right"`` or ``""`` for nowhere.
        brief: whether its shape stands in the panel alone, not beside it.
        sign: text of a small round sign, such as ``"+"``, that is drawn instead of the map.
        size: height of its map in the drawing, in units; ``None`` follows from the resolution.
        parts: whether the axis before the channels counts things such as RoIs, not the batch.
    """

    name: str
    label: str
    at: tuple[float, float]
    module: str
    code: str
    says: str
    take: Callable[[Call], Any] | None = None
    call: int = 0
    home: Any = None
    weights: tuple[str, ...] | None = None
    shows: str | Painter = "strength"
    stride: float | None = None
    what: str = ""
    side: str = "below"
    brief: bool = False
    sign: str = ""
    size: float | None = None
    parts: bool = False


@dataclass(frozen=True)
class Edge:
    """An arrow between two blocks.

    Attributes:
        source: name of the block that it leaves.
        target: name of the block that it enters.
        label: text on it.
        via: corners ``(x, y)`` on its way.
        curved: whether it leaves and enters horizontally in a soft curve.
        switch: name of the switch that turns it off.
        leaves: side of ``source`` that it leaves: ``"left"``, ``"right"``, ``"top"``, ``"bottom"``; ``""`` chooses.
        enters: side of ``target`` that it enters.
        place: where on its piece of the line the label stands, 0 to 1.
        piece: number of the straight piece with the label; ``None`` is the longest.
    """

    source: str
    target: str
    label: str = ""
    via: tuple[tuple[float, float], ...] = ()
    curved: bool = False
    switch: str = ""
    leaves: str = ""
    enters: str = ""
    place: float = 0.5
    piece: int | None = None


@dataclass(frozen=True)
class Group:
    """Blocks that belong together: a step of the strip, and a frame of the drawing.

    Attributes:
        name: name by which ``here`` knows it.
        label: text of the step and of the frame.
        blocks: names of its blocks; the last one stands for the group in the strip.
        says: one sentence on what it does.
        frame: whether the drawing frames it always; otherwise only where ``here`` names it.
        step: whether it is a step of the strip.
    """

    name: str
    label: str
    blocks: tuple[str, ...]
    says: str
    frame: bool = False
    step: bool = True


@dataclass(frozen=True)
class Note:
    """A text of the drawing at ``at``, in units, such as the heading of a column."""

    text: str
    at: tuple[float, float]


Change = Callable[[nn.Module, tuple[Any, ...], Any], Any]
"""A module, the arguments of a call and its output → what takes the output's place."""


@dataclass(frozen=True)
class Cut:
    """A branch that is turned off by a hook.

    Attributes:
        module: path of the module.
        argument: position of the argument that becomes zeros; ``None`` means the output.
        channels: slice of the channels that become zeros; ``None`` means all.
        change: function that gives the output instead; ``None`` gives zeros.
    """

    module: str
    argument: int | None = None
    channels: slice | None = None
    change: Change | None = None

    def install(self, model: nn.Module) -> Any:
        """Set the hook; its ``remove()`` takes it away."""
        module = module_at(model, self.module)
        if self.argument is None:
            change = self.change or (lambda _, arguments, output: self._zeros(output))
            return module.register_forward_hook(change)
        place = self.argument

        def before(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (*arguments[:place], self._zeros(arguments[place]), *arguments[place + 1 :])

        return module.register_forward_pre_hook(before)

    def _zeros(self, x: Tensor) -> Tensor:
        if self.channels is None:
            return torch.zeros_like(x)
        x = x.clone()
        x[:, self.channels] = 0
        return x


@dataclass(frozen=True)
class Swap:
    """A setting or a method of the model, or of one of its modules, that is exchanged while a branch is off.

    Attributes:
        name: name of the attribute.
        make: function from the module as it is to what takes the attribute's place.
        module: path of the module; ``""`` is the model itself.
    """

    name: str
    make: Callable[[Any], Any]
    module: str = ""

    def install(self, model: nn.Module) -> Any:
        """Exchange it; ``remove()`` of what comes back undoes that.

        Raises:
            ValueError: when the model has no such attribute.
        """
        owner = module_at(model, self.module)
        if not hasattr(owner, self.name):
            raise ValueError(f"{type(owner).__name__} has no attribute {self.name!r}, which a switch exchanges")
        own = dict(owner.__dict__)
        owner.__dict__[self.name] = self.make(owner)
        return _Undo(owner, self.name, own)


@dataclass(frozen=True)
class _Undo:
    model: nn.Module
    name: str
    own: dict[str, Any]

    def remove(self) -> None:
        if self.name in self.own:
            self.model.__dict__[self.name] = self.own[self.name]
        else:
            del self.model.__dict__[self.name]


@dataclass(frozen=True)
class Switch:
    """A branch that the reader turns off.

    Attributes:
        name: name by which edges know it.
        label: text of the button.
        cuts: what turns it off: hooks, and exchanges of settings or methods.
    """

    name: str
    label: str
    cuts: tuple[Cut | Swap, ...]


def count_at(model: nn.Module, path: str, asked_by: str) -> int:
    """The number of weights of the module, or of the parameter, of that path.

    Raises:
        ValueError: when the model has neither.
    """
    found = dict(model.named_parameters()).get(path)
    return found.numel() if found is not None else sum(p.numel() for p in module_at(model, path, asked_by).parameters())


def module_at(model: nn.Module, path: str, asked_by: str = "a switch") -> nn.Module:
    """The module of that path.

    Raises:
        ValueError: when the model has none.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(
            f"{type(model).__name__} has no module {path!r}, which {asked_by} names; its parts are {names}"
        ) from None


def line_of(code: str, home: Any) -> tuple[str, str]:
    """The line of the source that holds a piece of code, and the file.

    Args:
        code: piece of the line.
        home: function, class or object whose class is searched, and after it seglib's own classes that it derives from.

    Raises:
        ValueError: when no line holds it: the source has changed, and the drawing must follow.
    """
    unit = home if inspect.isfunction(home) or inspect.isclass(home) else type(home)
    unit = inspect.unwrap(unit)
    bases = [base for base in getattr(unit, "__mro__", ())[1:] if base.__module__.startswith("seglib.")]
    for place in (unit, *bases):
        file = "this notebook" if place.__module__ == "__main__" else place.__module__.replace(".", "/") + ".py"
        try:
            source = inspect.getsource(place)
        except (OSError, TypeError):  # a class that was typed in has no file
            return code, file
        for line in source.splitlines():
            if code in line:
                return re.sub(r"\s*# (type: ignore|noqa).*", "", line.strip()), file
    raise ValueError(
        f"no line of {unit.__qualname__} in {unit.__module__.replace('.', '/')}.py holds {code!r}; name a piece of the "
        "line as it is now"
    )
