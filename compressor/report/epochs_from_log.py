"""The epochs of each training, read from the events of a run log.

To be deleted once steps return them in the state: then `RunResult.epochs` and `RunResult.stable_lr` come from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compressor.core import StableLearningRate
from compressor.report.findings.epoch_curves import QUANTITIES, finite_value
from compressor.report.run_result import EpochRecord


def epochs_from_log(events: Iterable[Mapping[str, object]]) -> list[list[EpochRecord]]:
    """Return the epochs of each training, in order.

    Of several events about an epoch, as after a resumed run, the last value of each quantity counts. A training begins
    where epochs start over; one that diverged after its first epoch is replaced by the next.
    """
    trainings: list[dict[int, dict[str, object]]] = []
    first: int | None = None
    diverged = False
    for event in events:
        if event.get("event") == "diverged":
            diverged = event["epoch"] != 1
            continue
        epoch = event.get("epoch")
        values = {name: value for name in QUANTITIES if (value := finite_value(event.get(name))) is not None}
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not values:
            continue
        first = epoch if first is None else first
        if not trainings:
            trainings.append({})
        elif epoch == first and diverged:
            trainings[-1] = {}
        elif epoch == first and max(trainings[-1]) > first:
            trainings.append({})
        diverged = False
        trainings[-1].setdefault(epoch, {"epoch": epoch}).update(values)
    return [[training[epoch] for epoch in sorted(training)] for training in trainings]


def stable_lr_from_log(events: Iterable[Mapping[str, object]]) -> StableLearningRate | None:
    """The last stable learning rate that a training logged; None without one."""
    rate: StableLearningRate | None = None
    for event in events:
        match event:
            case {"event": "stable_rate", "lr": float(lr), "curvature": float(curvature), "images": int(images)}:
                rate = StableLearningRate(lr, curvature, images)
    return rate
