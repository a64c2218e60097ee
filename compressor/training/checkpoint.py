"""The state of a training on disk: written often enough to lose little, and seldom enough to cost little."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from compressor.errors import RecipeError

SHARE = 0.01  # of the time that writing may take
AT_LEAST = 10.0  # seconds between two in the middle of an epoch, however cheap


class Checkpoint:
    """One file, which belongs to the run of this `identity`."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path, self._identity = path, identity
        self._saved, self._cost = time.perf_counter(), 0.0

    @property
    def is_cheap(self) -> bool:
        """Whether writing now would take no more than its share of the time."""
        return time.perf_counter() - self._saved > self._cost / SHARE

    @property
    def is_due(self) -> bool:
        """Whether it is time to write although no epoch is over."""
        return self.is_cheap and time.perf_counter() - self._saved > AT_LEAST

    def save(self, state: Callable[[], Mapping[str, object]]) -> None:
        """Write what `state()` gives; the old file stays whole until the new one is. Raises OSError."""
        start = time.perf_counter()
        # Through memory, because torch reports a full disk as a RuntimeError of its own.
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, **state()}, buffer)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".tmp")
        try:
            with beside.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        finally:
            beside.unlink(missing_ok=True)
        self._saved = time.perf_counter()
        self._cost = self._saved - start

    def restore(self) -> dict[str, Any] | None:
        """What was saved; None without a readable file.

        Raises RecipeError for a file of another identity: the hours in it are not for us to throw away.
        """
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:  # no file, or one the unpickler stumbles over in any way: start from the beginning
            return None
        if not isinstance(state, dict):
            return None
        if state.get("identity") != self._identity:
            found = "what is there was left by a run of another recipe, model, data or version"
            raise RecipeError(
                "--resume", str(self._path.parent), found, "repeat that run's command, or start over without --resume"
            )
        return state
