"""The state of a training run between two epochs, on disk."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from compressor.errors import RecipeError


def save(
    path: Path,
    identity: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    records: Sequence[Mapping[str, float]],
) -> None:
    """Write everything a continuation needs; the old file stays whole until the new one is. Raises OSError."""
    state = {
        "identity": identity,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "records": [dict(record) for record in records],
    }
    # Through memory, because torch reports a full disk as a RuntimeError of its own.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def restore(path: Path, identity: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Put back what `save` wrote and return its records; without a readable file, nothing and [].

    Raises RecipeError for a file of another identity: the hours in it are not for us to throw away.
    """
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # no file, or one the unpickler stumbles over in any way: start from the beginning
        return []
    if not isinstance(state, dict):
        return []
    if state.get("identity") != identity:
        found = "what is there was left by a run of another recipe, model, data or version"
        raise RecipeError(
            "--resume", str(path.parent), found, "repeat that run's command, or start over without --resume"
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    records: list[dict[str, float]] = state["records"]
    return records
