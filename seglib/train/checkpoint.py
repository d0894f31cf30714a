"""The state of a run in one safetensors file: weights, optimiser, random states, progress. Nothing is pickled.

Tensors lie in the file under ``model.…``, ``ema.…``, ``optim.…`` and ``rng.…`` (one of each process, by its rank);
everything else is JSON in its header. torch's distributed state-dict API names the optimiser's entries by parameter, so
the same code serves one process and several (DDP).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from seglib.ops.processes import gather_from_processes, rank
from seglib.weights import mismatch
from seglib.weights.load import write_tensors

_SAVE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_LOAD = StateDictOptions(full_state_dict=True)


def save_state(
    path: Path, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any], *, ema: nn.Module | None, main: bool
) -> None:
    """Write the run's state to ``path``, beside it first and then renamed. Every process must call it.

    Args:
        path: the file to write.
        model: the model as it is trained (wrapped or not).
        optimizer: its optimiser.
        progress: JSON-able facts of the run (step, configuration, scores).
        ema: the moving average of the weights, if the run keeps one.
        main: whether this process writes the file.
    """
    both: Any = get_state_dict(model, optimizer, options=_SAVE)
    weights, optim = both
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in weights.items()}
    if ema is not None:
        tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    kept: dict[str, dict[str, Any]] = optim.get(
        "state", {}
    )  # {parameter: {name: tensor}}; only the main process has it
    tensors |= {f"optim.{parameter}/{name}": v for parameter, s in kept.items() for name, v in s.items()}
    device = next(model.parameters()).device  # processes can communicate from there
    for name, own in _random_states().items():
        for number, of_rank in enumerate(gather_from_processes(own.to(device))):
            tensors[f"rng.{name}.{number}"] = of_rank
    if main:
        # safetensors refuses tensors that share memory, so each becomes its own contiguous copy on the CPU
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        write_tensors(tensors, path, {"progress": json.dumps(progress), "groups": json.dumps(optim["param_groups"])})


def read_progress(path: Path) -> dict[str, Any]:
    """The JSON facts that :func:`save_state` put into the file's header.

    Raises:
        ValueError: when the file is no state of a run, or is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} can't be read as the state of a run ({error}); delete it to start again") from error
    if "progress" not in header:
        raise ValueError(f"{path} holds no state of a run, perhaps only weights; train without --resume to start again")
    return json.loads(header["progress"])


def settings_of(
    config: dict[str, Any], metadata: dict[str, Any] | None, *, samples: int, val_samples: int, processes: int
) -> dict[str, Any]:
    """All that decides the numbers of a run, as it reads when it comes back from JSON."""
    counts = {"samples": samples, "val_samples": val_samples, "processes": processes}
    settings = {**(metadata or {}), **config, **counts}
    return json.loads(json.dumps(settings))


def check_same_run(old: dict[str, Any], new: dict[str, Any], state: Path) -> None:
    """Check that a state of a run with the ``old`` settings can go on with the ``new`` ones.

    Raises:
        ValueError: when a setting differs that changes the numbers; the message lists old and new values.
    """
    free = {"workers", "save_every", "steps"}  # these change no number of the steps that are done
    changed = [(k, old[k], v) for k, v in new.items() if k in old and k not in free and old[k] != v]
    other = ["other images to train on" if k == "trained_on" else f"{k} {before} → {v}" for k, before, v in changed]
    if other:
        raise ValueError(
            f"{state} is of a run with other settings ({'; '.join(other)}); repeat them, or start a new run in another "
            "--out, from the weights of this one if you like (--weights)"
        )


def check_state(path: Path, model: nn.Module) -> None:
    """Check that the weights in ``path`` are those of a model like ``model`` (not wrapped).

    Raises:
        ValueError: when a tensor is missing, left over or of another shape.
    """
    with safe_open(path, "pt") as file:
        shapes = {
            name.removeprefix("model."): torch.empty(file.get_slice(name).get_shape(), device="meta")
            for name in file.keys()  # noqa: SIM118 (safe_open is no mapping)
            if name.startswith("model.")
        }
    if problem := mismatch(model, shapes):
        raise ValueError(f"{path} is the state of another model: {problem}; build the same one, or choose another out")


def load_state(path: Path, model: nn.Module, optimizer: Optimizer, *, ema: nn.Module | None) -> None:
    """Put the weights, the optimiser's state and the random states of ``path`` back. Every process must call it."""
    with safe_open(path, "pt") as file:
        groups = json.loads(file.metadata()["groups"])
        if not all("initial_lr" in group for group in groups) or f"rng.cpu.{rank()}" not in file.keys():  # noqa: SIM118
            raise ValueError(f"{path} was written by an older version of seglib; train without --resume to start again")
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    part = {p: {k[len(p) :]: v for k, v in tensors.items() if k.startswith(p)} for p in ("model.", "ema.", "optim.")}
    kept: dict[str, Any] = {}
    for key, value in part["optim."].items():
        parameter, name = key.rsplit("/", 1)
        kept.setdefault(parameter, {})[name] = value
    if kept:
        optim: dict[str, Any] = {"state": kept, "param_groups": groups}
        set_state_dict(model, optimizer, model_state_dict=part["model."], optim_state_dict=optim, options=_LOAD)
    else:  # SGD without momentum remembers nothing, which set_state_dict can't say
        set_model_state_dict(model, part["model."], options=_LOAD)
    if ema is not None:
        ema.load_state_dict(part["ema."])
    torch.set_rng_state(tensors[f"rng.cpu.{rank()}"])
    if torch.cuda.is_available() and (own := tensors.get(f"rng.cuda.{rank()}")) is not None:
        torch.cuda.set_rng_state(own)


def _random_states() -> dict[str, Tensor]:
    """The random states of this process: that of the CPU, and of its GPU if it has one."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
