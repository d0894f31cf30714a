"""Builders that hand keywords on show them: a signature that tells all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def hands_keywords_to(inner: Callable[..., Any]) -> Callable[[T], T]:
    """A decorator for a builder with ``**keywords`` that go to ``inner``: they stand in its signature by name.

    ``help``, the documentation and the check of :func:`seglib.models.zoo.build` then know them.

    Args:
        inner: the function whose keyword-only parameters the builder takes, too.
    """

    def with_signature(builder: T) -> T:
        own = inspect.signature(builder)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in named}
        more = inspect.signature(inner, eval_str=True).parameters.values()
        named += [p for p in more if p.kind is p.KEYWORD_ONLY and p.name not in taken]

        @wraps(builder)  # a function of its own: Sphinx would look for the other defaults in the builder's source
        def build(*arguments: Any, **keywords: Any) -> Any:
            return builder(*arguments, **keywords)

        del build.__wrapped__
        build.__signature__ = own.replace(parameters=named)  # type: ignore[attr-defined]  # functions have one
        return build  # type: ignore[return-value]  # with the builder's parameters

    return with_signature
