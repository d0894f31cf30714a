"""Builders that hand keywords on show them: a signature that tells all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Builder = TypeVar("Builder", bound=Callable[..., Any])


def hands_keywords_to(inner: Callable[..., Any]) -> Callable[[Builder], Builder]:
    """A decorator for a builder with ``**keywords`` that go to ``inner``: they stand in its signature by name.

    ``help``, the documentation and the check of :func:`seglib.models.zoo.build` then know them.

    Args:
        inner: the function whose keyword-only parameters the builder takes, too.
    """

    def with_signature(builder: Builder) -> Builder:
        own = inspect.signature(builder)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in named}
        more = inspect.signature(inner, eval_str=True).parameters.values()
        named += [p for p in more if p.kind is p.KEYWORD_ONLY and p.name not in taken]
        builder.__signature__ = own.replace(parameters=named)  # type: ignore[attr-defined]  # functions have one
        return builder

    return with_signature
