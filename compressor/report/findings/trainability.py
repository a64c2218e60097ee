"""How fast the pruned model learned: the mean accuracy over the first stage of retraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

from compressor.report.blocks import Block, Fact
from compressor.report.findings.base import Finding, Report
from compressor.report.findings.epoch_curves import EVALUATED_ON, finite_value
from compressor.report.format import format_percent
from compressor.report.run_result import EpochRecord, RunResult

DEFINITION = (
    "mean of the top-1 accuracy on the {} after each epoch of the first stage of retraining, which lasts until the "
    "learning rate has first fallen to half of its maximum; comparable under the same learning rates only"
)


class TrainabilityRecord(TypedDict):
    """`accuracy` in %, over so many epochs; the definition in words."""

    accuracy: float
    epochs: int
    definition: str


class Trainability(Finding):
    """Reported where the task is judged by accuracy."""

    order = 150
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        metric = run.state.metric
        is_accuracy = metric is not None and metric.name == "accuracy"
        return {"trainability": trainability_record(run.epochs) if is_accuracy else None}

    def terminal(self, report: Report) -> Iterable[Block]:
        record: TrainabilityRecord | None = report["trainability"]
        if record is not None:
            yield Fact("Trainability", describe_trainability(record))

    def page(self, report: Report) -> Iterable[Block]:
        record: TrainabilityRecord | None = report["trainability"]
        if record is not None:
            yield Fact("Trainability", f"{describe_trainability(record)}: {record['definition']}")


def trainability_record(trainings: Sequence[Sequence[EpochRecord]]) -> TrainabilityRecord | None:
    """Return `T = 1/N sum_(i <= N) accuracy_i` of the last training whose epochs were evaluated; None without one.

    Wang et al., Why is the State of Neural Network Pruning so Confusing?, arXiv:2301.05219. The paper does not say
    which accuracy it means; DEFINITION says which one this is.
    """
    for training in reversed(trainings):
        for key, images in EVALUATED_ON.items():
            accuracies = [value for epoch in training if (value := finite_value(epoch.get(key))) is not None]
            rates = [rate for epoch in training if (rate := finite_value(epoch.get("lr"))) is not None]
            if accuracies and rates:
                epochs = min(first_stage(rates), len(accuracies))
                mean = sum(accuracies[:epochs]) / epochs
                return {"accuracy": mean, "epochs": epochs, "definition": DEFINITION.format(images)}
    return None


def first_stage(rates: Sequence[float]) -> int:
    """Number of epochs until the learning rate has first fallen to half of its maximum; all epochs where it never does.

    At least one: where a single epoch warms up, the rate at its start is 0.
    """
    highest = max(rates)
    peak = rates.index(highest)
    return next((epoch for epoch in range(peak + 1, len(rates)) if rates[epoch] <= highest / 2), len(rates))


def describe_trainability(record: TrainabilityRecord) -> str:
    """'88.10 % (mean over the first 60 epochs of retraining)'."""
    epochs = "the first epoch" if record["epochs"] == 1 else f"the first {record['epochs']} epochs"
    return f"{format_percent(record['accuracy'])} (mean over {epochs} of retraining)"
