"""What ``--set`` says about a model: keywords of its builder."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from seglib.models.zoo import find

FROM_DATA = ("num_classes", "num_things", "num_stuff", "task", "overlapping")
"""Keywords that no one sets: the data set and ``--task`` say them."""


def read_settings(model: str, texts: Sequence[str] | None, *, pretrained: bool = False) -> dict[str, Any]:
    """The keywords of a model's builder in options such as ``--set stride=8``, and that of ``--pretrained``.

    A value is JSON (``8``, ``true``, ``[1, 2, 4]``, ``null``) or, if it is no JSON, text.

    Args:
        model: the model in the zoo.
        texts: what was given to each ``--set``.
        pretrained: whether ``--pretrained`` was given.

    Raises:
        ValueError: for a text that is no ``key=value``, a key that the builder doesn't take or the data set says, or a
            value of another type.
    """
    parameters = inspect.signature(find(model).builder(), eval_str=True).parameters
    free = [name for name in parameters if name not in FROM_DATA]
    found: dict[str, Any] = {}
    for text in texts or ():
        key, is_setting, value = text.partition("=")
        if not is_setting:
            raise ValueError(f"--set {text!r} is no key=value; {model} takes {', '.join(free)}")
        if key in FROM_DATA and key in parameters:
            raise ValueError(f"--set {key} has no use: the data set and --task say it; {model} takes {', '.join(free)}")
        if key not in parameters:
            raise ValueError(f"--set {key!r} is unknown: {model} takes {', '.join(free)}")
        if key in found:
            raise ValueError(f"--set {key} was given twice; leave one out")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
        if not fits(found[key], parameters[key].annotation):
            raise ValueError(f"--set {key}: {value!r} is no {_in_words(parameters[key].annotation)}")
    if pretrained:
        if "pretrained" not in parameters:
            raise ValueError(
                f"--pretrained has no use: {model} has no published ImageNet weights; start from --weights or --encoder"
            )
        found["pretrained"] = True
    return found


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value out of JSON has the type of a parameter; lists stand for all sequences."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if annotation is type(None) or annotation is None:
        return value is None
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation) if isinstance(annotation, type) else True


def _in_words(annotation: Any) -> str:
    """A type for a message."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(one) for one in inner)
    if origin is typing.Literal:
        return " or ".join(str(one) for one in inner)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"list of {_in_words(inner[0])}, e.g. [1, 2, 4]"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(annotation, str(annotation))


def inherited(model: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments in a weights file's metadata those that a model of the same system takes, to train it further.

    Args:
        model: the model in the zoo that is trained.
        stored: the metadata of the weights that it starts from.
    """
    from seglib.weights.load import without_download

    if "model" not in stored or "arguments" not in stored:
        return {}
    first, other = (find(name).path.split(":")[0] for name in (model, stored["model"]))
    if first != other:
        return {}
    parameters = inspect.signature(find(model).builder()).parameters
    arguments = without_download(stored["model"], stored["arguments"])
    return {key: value for key, value in arguments.items() if key in parameters}
