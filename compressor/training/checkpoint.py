"""The state of a training on disk: written often enough to lose little, and seldom enough to cost little."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressor import __version__
from compressor.atomic_write import write_bytes
from compressor.core import Data, EventSink, LoadedModel
from compressor.errors import RecipeError

SAMPLED_IMAGES = 64  # that tell one data set from another
SHARE = 0.01  # of the time that writing may take
AT_LEAST = 10.0  # seconds between two in the middle of an epoch, however cheap


class TrainingCheckpoint:
    """One file, which belongs to the training of this `identity` at the learning rate `lr`, the recipe's `key`."""

    def __init__(self, path: Path, identity: str, lr: float = 0.0, key: str = "lr") -> None:
        self._path, self._identity, self._lr, self._key = path, identity, lr, key
        self._saved, self._cost = time.perf_counter(), 0.0
        self.written, self.seconds = 0, 0.0  # how often, and how long that took in all

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
        self._write(state(), diverged=False)
        self._saved = time.perf_counter()
        self._cost = self._saved - start
        self.written, self.seconds = self.written + 1, self.seconds + self._cost

    def mark_diverged(self) -> None:
        """From now on the training may be started anew with another learning rate. Raises OSError."""
        found = _read(self._path)
        ours = found is not None and (found["identity"], found["lr"]) == (self._identity, self._lr)
        self._write(found["state"] if found is not None and ours else None, diverged=True)

    def restore(self, emit: EventSink) -> Mapping[str, Any] | None:
        """What was saved; None without a readable file, or where the training diverged at another learning rate.

        Such a training starts anew: its weights were on their way out long before a number was not finite. One that
        ended before another with a rate of the same name diverged is kept.
        Raises RecipeError for a file of another identity, or of another learning rate that has not failed: the hours
        in it are not for us to throw away.
        """
        found = _read(self._path)
        if found is None:
            return None
        if found["identity"] != self._identity:
            problem = "the folder was left by a run with another recipe, model, data or version"
            hint = (
                "repeat the command of that run (only a learning rate that diverged may change), or start over without"
            )
            raise RecipeError("resume/other-run", str(self._path.parent), problem, f"{hint} --resume")
        state: Mapping[str, Any] | None = found["state"]
        if found["lr"] == self._lr:
            return state
        before = f"{self._key}={found['lr']:g}"
        if found["diverged"]:
            emit("note", {"text": f"training diverged with {before}: it starts anew with {self._lr:g}"})
            return None
        if not self._another_diverged(found["lr"]):
            problem = f"the interrupted training has {before}, not {self._lr:g}, and did not diverge"
            raise RecipeError(
                "resume/other-learning-rate",
                str(self._path.parent),
                problem,
                f"set {before}, or start over without --resume",
            )
        emit("note", {"text": f"a training that ended with {before} is kept"})
        self._write(state, diverged=False)
        return state

    def _another_diverged(self, lr: float) -> bool:
        others = [_read(path) for path in self._path.parent.iterdir() if path != self._path]
        return any(each and each["diverged"] and (each["key"], each["lr"]) == (self._key, lr) for each in others)

    def _write(self, state: Mapping[str, object] | None, *, diverged: bool) -> None:
        # Through memory, because torch reports a full disk as a RuntimeError of its own.
        buffer = io.BytesIO()
        head = {"identity": self._identity, "lr": self._lr, "key": self._key, "diverged": diverged}
        torch.save({**head, "state": state}, buffer)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self._path, buffer.getbuffer())


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """A folder with one checkpoint per training of a run, which only a run of the same fingerprint may continue."""

    folder: Path
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
        return TrainingCheckpoint(self.folder / str(index), f"{self.fingerprint} {index}", lr, key)

    def delete(self) -> None:
        """Delete the folder, once the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


def run_fingerprint(settings: object, round_to: int, model: LoadedModel, data: Data | None) -> str:
    """Hash everything a training depends on, so that only the same run is continued.

    Learning rates are left out: checkpoints store their own, which may be changed once a training has diverged.

    Args:
        settings: The parts of the recipe that say how to prune and train, as JSON.
        round_to: What widths are multiples of.
        model: The dense model.
        data: The data, if there are any.

    Returns:
        A SHA-256 over version, settings, weights and a sample of the images.
    """
    text = json.dumps(_without_rates(settings), sort_keys=True)
    about = (data.name, data.train_size, data.num_classes) if data else None
    digest = hashlib.sha256(f"{__version__}\n{text}\n{round_to}\n{model.spec}\n{about}\n".encode())
    sample: dict[str, torch.Tensor] = {}
    if data is not None:
        sample["sample"] = torch.cat(list(data.calibration_batches(SAMPLED_IMAGES, images=SAMPLED_IMAGES)))
    for name, tensor in {**model.module.state_dict(), **sample}.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _without_rates(settings: object) -> object:
    if isinstance(settings, dict):
        return {key: _without_rates(value) for key, value in settings.items() if key != "lr"}
    return settings


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # no file, or one the unpickler stumbles over in any way: start from the beginning
        return None
    return found if isinstance(found, dict) else None
