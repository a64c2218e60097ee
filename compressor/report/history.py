"""run.jsonl's events -> what happened epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from compressor.report.schema import StableRateRecord, Trainability

IMAGES = {"held_out": "held-out split", "train_sample": "sample of the training images"}
"""What an epoch is judged on -> in words."""

QUANTITIES = ("loss", "lr", "stop_value", *IMAGES)
DEFINITION = (
    "mean of the top-1 accuracy on the {} after each epoch of the retraining's first stage, which lasts until the "
    "learning rate is first down to half of its highest; comparable under the same learning rates only"
)


def curves(events: Iterable[Mapping[str, object]]) -> dict[str, list[tuple[int, float]]]:
    """Quantity -> [(epoch, value)], from every event that names a whole epoch and a finite quantity.

    The last word on an epoch counts, as after a resumed run. Epochs that start over from the first one belong
    to a second training and go on after the first, unless that diverged: then they take its place.
    """
    found: dict[str, dict[int, float]] = {name: {} for name in QUANTITIES}
    start = latest = None
    offset = 0
    failed = False  # the training at hand, after its first epoch
    for event in events:
        if event.get("event") == "diverged":
            failed = event["epoch"] != 1
            continue
        epoch = event.get("epoch")
        values = {name: value for name in QUANTITIES if (value := _number(event.get(name))) is not None}
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not values:
            continue
        if start is None or latest is None:
            start = latest = epoch
        if epoch == start and failed:
            for points in found.values():
                for each in [each for each in points if each > offset]:
                    del points[each]
        elif epoch == start < latest:
            offset += latest - start + 1
        failed = False
        latest = epoch
        for name, value in values.items():
            found[name][offset + epoch] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def trainability_record(events: Iterable[Mapping[str, object]]) -> Trainability | None:
    """Trainability accuracy `T = 1/N sum_(i <= N) accuracy_i` of the last training; None without one.

    Wang et al., Why is the State of Neural Network Pruning so Confusing?, arXiv:2301.05219, who do not say which
    accuracy; DEFINITION says which one this is.
    """
    epochs: dict[int, tuple[float, float]] = {}
    images = ""
    for event in events:
        epoch, rate = event.get("epoch"), _number(event.get("lr"))
        for key, words in IMAGES.items():
            accuracy = _number(event.get(key))
            if isinstance(epoch, int) and rate is not None and accuracy is not None:
                epochs = {**({} if epoch == 1 else epochs), epoch: (rate, accuracy)}
                images = words
    if not epochs:
        return None
    stage = first_stage([rate for _, (rate, _) in sorted(epochs.items())])
    accuracies = [accuracy for _, (_, accuracy) in sorted(epochs.items())][:stage]
    return {"accuracy": sum(accuracies) / stage, "epochs": stage, "definition": DEFINITION.format(images)}


def stable_rate_record(events: Iterable[Mapping[str, object]]) -> StableRateRecord | None:
    """The last one that was told; None where there was no training, or one too short for it."""
    found: StableRateRecord | None = None
    for event in events:
        match event:
            case {"event": "stable_rate", "lr": float(lr), "curvature": float(curvature), "images": int(images)}:
                found = {"lr": lr, "curvature": curvature, "images": images}
    return found


def first_stage(rates: Sequence[float]) -> int:
    """How many epochs pass until the learning rate is first down to half of its highest, or all.

    At least one: where a single epoch warms up, the rate at its start is 0.
    """
    highest = max(rates)
    peak = rates.index(highest)
    return next((epoch for epoch in range(peak + 1, len(rates)) if rates[epoch] <= highest / 2), len(rates))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
