"""A network as a list of steps and a block of numbers: what the pages of the book run in a browser.

``torch.export`` turns a module into a graph of about 40 operators (PyTorch's "Core ATen"). Here that graph becomes
JSON: each step names its operator, its arguments and the layer that it belongs to; the weights lie one after the other
in one block of bytes, in half precision where that loses nothing. Nothing in it is code, and reading it needs no
library.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export

from seglib.files import atomic_path

FORMAT = 1
"""Version of the file."""

SAME = {"clone", "alias", "detach", "_to_copy", "contiguous", "lift_fresh_copy", "_assert_tensor_metadata"}
"""Operators that leave the values as they are."""

FIRST = {"_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm"}
"""Operators with several outputs of which networks use the first."""

_DTYPES = {"f16": "<f2", "f32": "<f4", "i32": "<i4"}


@dataclass(frozen=True)
class Steps:
    """A network as steps.

    Attributes:
        manifest: what JSON can store: ``format``; ``inputs``, name → shape, null where a length may change;
            ``outputs``, name → step; ``tensors``, each with name, shape, dtype ("f16", "f32" or "i32") and offset in
            bytes; and ``steps``, each with ``op`` (the operator), ``args`` and ``layer`` (path of the module it belongs
            to). An argument is a number, a list or null, a step as ``{"step": i}``, a tensor as ``{"tensor": i}`` or an
            input as ``{"input": name}``.
        numbers: all weights, little-endian, each at an offset that 4 divides.
    """

    manifest: dict[str, Any]
    numbers: bytes

    def write(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """Write the manifest to a ``.json`` file, and the numbers beside it to a ``.bin`` file of the same name.

        Args:
            path: the ``.json`` file.
            about: facts that JSON can store, for the manifest's ``about``.
        """
        told = self.manifest | {"about": dict(about or {})}
        with atomic_path(path.with_suffix(".bin")) as beside:
            beside.write_bytes(self.numbers)
        with atomic_path(path) as beside:
            beside.write_text(json.dumps(told, separators=(",", ":"), allow_nan=False), encoding="utf-8")

    def run(self, **inputs: Tensor) -> list[Any]:
        """What every step gives, by PyTorch's own operators: the reference for other runtimes.

        Raises:
            ValueError: when an input is missing or has no part in the network.
        """
        if set(inputs) != set(self.manifest["inputs"]):
            raise ValueError(f"the network takes {sorted(self.manifest['inputs'])}, got {sorted(inputs)}")
        weights = [self._tensor(entry) for entry in self.manifest["tensors"]]
        values: list[Any] = []
        sources: dict[str, Any] = {"input": inputs, "step": values, "tensor": weights}

        def read(value: Any) -> Any:
            if isinstance(value, list):
                return [read(v) for v in value]
            if isinstance(value, dict):
                ((source, key),) = value.items()
                return sources[source][key]
            return float(value) if isinstance(value, str) else value

        for step in self.manifest["steps"]:
            values.append(_apply(step["op"], [read(a) for a in step["args"]]))
        return values

    def outputs(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The network's outputs by name. Errors as in :meth:`run`."""
        values = self.run(**inputs)
        return {name: values[ref["step"]] for name, ref in self.manifest["outputs"].items()}

    def _tensor(self, entry: Mapping[str, Any]) -> Tensor:
        count = math.prod(entry["shape"])
        array = np.frombuffer(self.numbers, _DTYPES[entry["dtype"]], count, entry["offset"]).reshape(entry["shape"])
        return torch.from_numpy(array.astype(np.int64 if entry["dtype"] == "i32" else np.float32))


def steps_of(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    half: bool = False,
    prefix: str = "",
) -> Steps:
    """The steps of a module in evaluation mode, and its weights.

    Args:
        module: takes the inputs in their order, gives a tensor or a tuple of tensors.
        inputs: name of each input → an example.
        outputs: names of the outputs.
        dynamic: name of an input → its axes whose length may change.
        half: round float weights to 16 bits; else those that 16 bits cannot hold stay at 32.

        prefix: beginning of the layers' paths that is left out.

    Raises:
        ValueError: when the module gives another number of outputs, or a weight is neither float nor integer.
    """
    axes = {name: (dynamic or {}).get(name, ()) for name in inputs}
    shapes = tuple({axis: Dim.DYNAMIC for axis in axes[name]} for name in inputs)
    program = export(module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False).run_decompositions()
    signature = program.graph_signature
    weights = {**program.state_dict, **program.constants}
    stored = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    writer = _Writer(weights, half)
    refs: dict[fx.Node, Any] = {}
    steps: list[dict[str, Any]] = []
    names, found = iter(inputs), {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            refs[node] = {"weight": stored[node.name]} if node.name in stored else {"input": next(names)}
        elif node.op == "output":
            (given,) = node.args
            if len(given) != len(outputs):
                raise ValueError(f"the module gives {len(given)} outputs, but {len(outputs)} were named: {outputs}")
            found = {name: refs[n] for name, n in zip(outputs, given, strict=True)}
        elif (op := _kind(node)) in SAME or (op == "getitem" and _kind(node.args[0]) in FIRST):
            refs[node] = refs[node.args[0]]
        else:
            arguments = [writer.plain(argument, refs) for argument in _arguments(node)]
            refs[node] = {"step": len(steps)}
            steps.append({"op": op, "args": arguments, "layer": _layer(node).removeprefix(prefix)})
    given_shapes = {
        name: [None if axis in axes[name] else n for axis, n in enumerate(t.shape)] for name, t in inputs.items()
    }
    facts = {"format": FORMAT, "inputs": given_shapes, "outputs": found, "tensors": writer.entries, "steps": steps}
    return Steps(facts, bytes(writer.numbers))


class _Writer:
    """Turns arguments into what JSON holds, and stores each weight when a step uses it for the first time."""

    def __init__(self, weights: Mapping[str, Any], half: bool) -> None:
        self.weights, self.half = weights, half
        self.entries: list[dict[str, Any]] = []
        self.numbers = bytearray()
        self.places: dict[str, int] = {}

    def plain(self, value: Any, refs: Mapping[fx.Node, Any]) -> Any:
        if isinstance(value, (list, tuple)):
            return [self.plain(v, refs) for v in value]
        if isinstance(value, fx.Node):
            ref = refs[value]
            return {"tensor": self.place(ref["weight"])} if "weight" in ref else ref
        if isinstance(value, (int, float)):
            return value if math.isfinite(value) else str(value)
        return None

    def place(self, name: str) -> int:
        if name not in self.places:
            self.places[name] = len(self.entries)
            self.entries.append(self.entry(name, self.weights[name].detach().cpu().contiguous()))
        return self.places[name]

    def entry(self, name: str, values: Tensor) -> dict[str, Any]:
        if values.is_floating_point():
            small = self.half or torch.equal(values.half().to(values.dtype), values)
            dtype = "f16" if small else "f32"
        elif values.dtype in (torch.bool, torch.uint8, torch.int32, torch.int64):
            dtype = "i32"
        else:
            raise ValueError(f"{name} is {values.dtype}; only real numbers can be stored")
        self.numbers.extend(bytes(-len(self.numbers) % 4))
        offset = len(self.numbers)
        self.numbers.extend(values.numpy().astype(_DTYPES[dtype]).tobytes())
        return {"name": name, "shape": list(values.shape), "dtype": dtype, "offset": offset}


def _apply(op: str, arguments: list[Any]) -> Any:
    if op == "sym_size":
        return arguments[0].shape[arguments[1]]
    if not any(isinstance(a, (Tensor, list)) for a in arguments) and hasattr(operator, op):
        return getattr(operator, op)(*arguments)  # of lengths
    if op == "getitem":
        return arguments[0][arguments[1]]
    if op == "index":
        arguments[1] = [i.long() for i in arguments[1]]
    if op == "view":
        return arguments[0].reshape(arguments[1])  # no step promises how its numbers lie in memory
    found = getattr(torch.ops.aten, op)(*arguments)
    return found[0] if op in FIRST else found


def _kind(node: Any) -> str:
    target = node.target
    if target is operator.getitem:
        return "getitem"
    name = target._schema.name if hasattr(target, "_schema") else target.__name__
    return name.removeprefix("aten::")


def _arguments(node: fx.Node) -> list[Any]:
    """All positional arguments, with the defaults of those not given. Others, such as dtypes, change no numbers."""
    values = list(node.args)
    if not hasattr(node.target, "_schema"):
        return values
    declared = node.target._schema.arguments
    if node.kwargs.get("alpha", 1) != 1:
        raise ValueError(f"{node} scales what it adds by alpha, which steps cannot say; multiply first")
    values += [node.kwargs.get(a.name, a.default_value) for a in declared[len(values) :] if not a.kwarg_only]
    return values


def _layer(node: fx.Node) -> str:
    """Path of the innermost module that a step belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return "" if path.startswith("_") else path  # the exporter's own names begin so
