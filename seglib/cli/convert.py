"""``seglib convert``: published weights under seglib's names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seglib.commands.console import say
from seglib.models.zoo import build


def convert(
    origin: Annotated[str, typer.Argument(help="Where the weights come from, e.g. torchvision:fcn_resnet50.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    file: Annotated[Path | None, typer.Option(help="The published checkpoint, if it is on disk already.")] = None,
) -> None:
    """Turn published weights of another codebase into seglib's."""
    from seglib.weights import convert as rename
    from seglib.weights import read_origin, save_weights

    name, state, metadata = rename(origin, read_origin(origin, file))
    net = build(name, **metadata["arguments"])
    net.load_state_dict(state)
    save_weights(net, out, metadata)
    say(f"{origin} → {out} ({sum(v.numel() for v in state.values()):,} numbers)")
