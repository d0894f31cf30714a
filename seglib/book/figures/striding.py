"""A moving figure of chapter 5: a stride that becomes a dilation."""

from __future__ import annotations

from collections.abc import Sequence

from seglib.book.figures.element import Figure


def stride_dilation(
    signal: Sequence[int] = (2, 0, 1, 3, 1, 0, 2, 1, 0, 1, 3, 2),
    *,
    first: Sequence[int] = (1, 2, 1),
    second: Sequence[int] = (1, 0, -1),
    stride: int = 2,
) -> Figure:
    """The strided networks that a dense twin holds: one from each of the first cells, interleaved.

    Args:
        signal: the input of both networks, 8 to 16 whole numbers.
        first: three weights of layer 1, which has the stride.
        second: three weights of layer 2, which gets the dilation in the twin.
        stride: stride of layer 1 at the start, 1 to 4.

    Raises:
        ValueError: when the signal, the weights or the stride are outside these.
    """
    if not 8 <= len(signal) <= 16:
        raise ValueError(f"the figure shows a signal of 8 to 16 numbers, got {len(signal)}")
    if len(first) != 3 or len(second) != 3:
        raise ValueError(f"each layer has three weights, got {tuple(first)} and {tuple(second)}")
    if not 1 <= stride <= 4:
        raise ValueError(f"stride must be 1 to 4, got {stride}")
    return Figure(
        "stride_dilation",
        {"x": list(signal), "first": list(first), "second": list(second), "stride": stride},
        text="a stride becomes a dilation",
        fallback=(
            f"<p>Two layers over a signal of {len(signal)} numbers (needs JavaScript). With stride {stride} in layer 1 "
            f"the network has an answer at every cell whose number leaves the rest 0 when divided by {stride}. Started "
            "at the other cells it has the answers in between. Interleaved, they are the outputs of the dense twin, "
            f"which has no stride, and dilation {stride} in layer 2.</p>"
        ),
    )
