"""What a model must answer: its outputs on this machine's CPU, which every timed process is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compressor.bench.runner.ort_session import LoadedSession
from compressor.bench.runner.worker import WorkerError
from compressor.export.random_nodes import may_draw


def write_reference(model: Path, batch: int, inputs: Path | None, file: Path) -> bool:
    """Keep the outputs of the first batch in `file` (.npz); False where there is nothing to compare with.

    That is so where this machine can't run the model, and where the model draws random numbers.
    """
    if may_draw(model):
        return False
    request: dict[str, object] = {
        "inputs": str(inputs) if inputs else None,
        "batch": batch,
        "threads": 1,
        "provider": "cpu",
        "options": {},
        "cpu_fallback": False,
        "graph": "all",
    }
    try:
        outputs = LoadedSession(str(model), request).outputs
    except WorkerError:
        return False  # the device may be able to; what it says is told then
    arrays = {f"output{place}": array for place, array in enumerate(outputs) if isinstance(array, np.ndarray)}
    np.savez(file, allow_pickle=False, **arrays)
    return True
