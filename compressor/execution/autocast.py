"""Run a forward that turns autocast on in the type of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_autocast() -> Iterator[list[str]]:
    """Switch autocast off inside. The list names the types that were requested."""
    requested: list[str] = []
    enter: Callable[[Any], Any] = torch.autocast.__enter__

    def inert(self: Any) -> Any:
        if self._enabled:
            requested.append(str(self.fast_dtype).removeprefix("torch."))
        self._enabled = False
        return enter(self)

    torch.autocast.__enter__ = inert  # type: ignore[method-assign]
    try:
        yield requested
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]
