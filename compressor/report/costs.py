"""What trainings took, what is left, and what files weigh -> the JSON the program writes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from compressor.core import Cost, TrainingCost
from compressor.report.schema_costs import DiskRecord, RemovedRecord, Share, TrainingRecord, TrainingReport

COUNTED = (
    "weights are the entries of the weights of convolutions and linear layers, without biases and norms, and zeros are "
    "gone; nodes are the output channels of these layers, counted at each of them but the last"
)
PACKED = "zeros left out: 4 bytes for each other entry, and a bit for every entry to say which it is"
NO_PEAK = "the peak of a process is told by Linux alone, and by GPUs of NVIDIA"
FLOAT = 4  # bytes


def training_record(trainings: Sequence[TrainingCost], meters: Collection[str], why_none: str) -> TrainingReport | None:
    """None where nothing was trained. `meters`: by name, those that can be read here; `why_none`: if none can."""
    done = [each for each in trainings if each.epochs]
    if not done:
        return None
    energies = [each.energy_j for each in done]
    known = [each for each in energies if each is not None]
    reason = "a meter started over, or could be read for a part of the time only" if meters else why_none
    missing = {
        "energy": reason if len(known) < len(done) else None,
        "peak memory": NO_PEAK if any(each.peak_bytes is None for each in done) else None,
    }
    return {
        "trainings": [_record(each) for each in done],
        "seconds": sum(each.seconds for each in done),
        "energy_j": sum(known) if len(known) == len(done) else None,
        "meters": sorted(meters) if known else [],
        "unmeasured": {name: why for name, why in missing.items() if why},
    }


def removed_record(dense: Cost, slim: Cost, zeros: int) -> RemovedRecord:
    """`zeros`: entries of the slim model's weights that are zero."""
    return {
        "weights": _share(dense.weights, slim.weights - zeros),
        "nodes": _share(dense.nodes, slim.nodes),
        "convention": COUNTED,
    }


def disk_record(dense_bytes: int, slim_bytes: int, file_bytes: int, weights: int, zeros: int) -> DiskRecord:
    """`zeros` of the slim model's `weights` are zero; `file_bytes`: what its `slim_bytes` take as they were written."""
    packed = slim_bytes - FLOAT * zeros + weights // 8
    return {
        "dense": dense_bytes,
        "slim": file_bytes,
        "sparse": packed if zeros and packed < file_bytes else None,
        "convention": PACKED,
    }


def _share(dense: int, left: int) -> Share:
    return {"dense": dense, "left": left, "sparsity": 100 * (1 - left / dense) if dense else 0.0}


def _record(cost: TrainingCost) -> TrainingRecord:
    return {
        "stage": cost.stage,
        "device": cost.device,
        "params": cost.params,
        "batch_size": cost.batch_size,
        "epochs": cost.epochs,
        "seconds": cost.seconds,
        "batch_ms": cost.batch_ms,
        "peak_bytes": cost.peak_bytes,
        "energy_j": cost.energy_j,
    }
