"""The state of a training on disk, which is written at intervals that keep the cost small."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.core import EventSink
from compressor.errors import RecipeError
from compressor.training.saved_file import read_saved, write_saved

MAX_SHARE = 0.01  # of the time that writing may take
MIN_INTERVAL = 10.0  # seconds between two writes within an epoch


class TrainingCheckpoint:
    """The file of one training."""

    def __init__(self, path: Path, identity: str, lr: float = 0.0, key: str = "lr") -> None:
        """Name the file; it may not exist yet.

        Args:
            path: The file.
            identity: Identifies the training and everything it depends on but learning rates.
            lr: Its learning rate.
            key: The recipe's key of the learning rate.
        """
        self._path, self._identity, self._lr, self._key = path, identity, lr, key
        self._saved, self._cost = time.perf_counter(), 0.0
        self.written, self.seconds = 0, 0.0  # number of writes, and their total time

    @property
    def is_cheap(self) -> bool:
        """Whether writing now would take at most MAX_SHARE of the time."""
        return time.perf_counter() - self._saved > self._cost / MAX_SHARE

    @property
    def is_due(self) -> bool:
        """Whether to write within an epoch."""
        return self.is_cheap and time.perf_counter() - self._saved > MIN_INTERVAL

    def save(self, state: Callable[[], Mapping[str, object]]) -> None:
        """Write what `state()` returns; the old file is kept until the new one is complete. Raises OSError."""
        start = time.perf_counter()
        self._write(state(), diverged=False)
        self._saved = time.perf_counter()
        self._cost = self._saved - start
        self.written, self.seconds = self.written + 1, self.seconds + self._cost

    def mark_diverged(self) -> None:
        """Allow the training to start again with another learning rate. Raises OSError."""
        saved = read_saved(self._path)
        if saved is not None and (saved["identity"], saved["lr"]) != (self._identity, self._lr):
            saved = None
        self._write(saved["state"] if saved is not None else None, diverged=True)

    def restore(self, emit: EventSink) -> Mapping[str, Any] | None:
        """Read the saved state.

        A training that diverged with another learning rate starts again, because its weights were bad long before a
        number was not finite. A training that ended with a learning rate with which another one diverged is kept.

        Args:
            emit: Takes a note if the learning rate differs.

        Returns:
            The state; None if there is no readable file or the training starts again.

        Raises:
            RecipeError: The file belongs to another run, or to another learning rate that did not diverge, so that a
                good training would be lost.
        """
        saved = read_saved(self._path)
        if saved is None:
            return None
        folder = str(self._path.parent)
        if saved["identity"] != self._identity:
            problem = "the folder belongs to a run with another recipe, model, data, device or version"
            command = "repeat the command of that run (only a learning rate that diverged may change)"
            raise RecipeError("resume/other-run", folder, problem, f"{command}, or start over without --resume")
        state: Mapping[str, Any] | None = saved["state"]
        if saved["lr"] == self._lr:
            return state
        before = f"{self._key}={saved['lr']:g}"
        if saved["diverged"]:
            emit("note", {"text": f"training diverged with {before}; it starts again with {self._lr:g}"})
            return None
        if not self._another_diverged(saved["lr"]):
            problem = f"the interrupted training has {before}, not {self._lr:g}, and did not diverge"
            hint = f"set {before}, or start over without --resume"
            raise RecipeError("resume/other-learning-rate", folder, problem, hint)
        emit("note", {"text": f"a training that ended with {before} is kept"})
        self._write(state, diverged=False)
        return state

    def _another_diverged(self, lr: float) -> bool:
        others = [read_saved(path) for path in self._path.parent.iterdir() if path != self._path]
        return any(file and file["diverged"] and (file["key"], file["lr"]) == (self._key, lr) for file in others)

    def _write(self, state: Mapping[str, object] | None, *, diverged: bool) -> None:
        head = {"identity": self._identity, "lr": self._lr, "key": self._key, "diverged": diverged}
        write_saved(self._path, {**head, "state": state})


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of a run, one per training. Only a run with the same fingerprint can continue from them."""

    folder: Path | None  # None = nothing is kept, for runs without trainings
    fingerprint: str

    def of_training(self, index: int, lr: float, key: str) -> TrainingCheckpoint:
        """Name the checkpoint of one training.

        Args:
            index: Index of its step in the run.
            lr: Its learning rate.
            key: The recipe's key for that rate.

        Returns:
            The checkpoint, which may not exist yet.
        """
        assert self.folder is not None, "a run with trainings has a folder"
        return TrainingCheckpoint(self.folder / str(index), f"{self.fingerprint} {index}", lr, key)

    def delete(self) -> None:
        """Delete the folder after the run."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
