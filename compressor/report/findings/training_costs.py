"""What the trainings of a run cost: time, memory, energy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypedDict

from compressor.core import TrainingCost
from compressor.report.blocks import Block, Fact, Section, Table
from compressor.report.findings.base import Finding, Report
from compressor.report.format import (
    NOTHING,
    format_bytes,
    format_count,
    format_duration,
    format_joules,
    format_ms,
    format_number,
    printable,
)
from compressor.report.run_result import RunResult

COLUMNS = ("training", "parameters", "per batch", "peak memory", "time", "energy")
NO_PEAK = "only Linux reports the peak memory of a process, and only NVIDIA GPUs that of a GPU"
LOST_METER = "a meter was reset, or could be read for part of the time only"


class TrainingRecord(TypedDict):
    """One training, without its evaluations. `params`: of the model it trained; `batch_ms`: median time from one batch
    to the next; `peak_bytes`: of the GPU, or what the process grew by."""

    stage: str
    device: str
    params: int
    batch_size: int
    epochs: int
    seconds: float
    batch_ms: float | None
    peak_bytes: int | None
    energy_j: float | None


class TrainingReport(TypedDict):
    """All trainings in order, and their sums. `meters`: what `energy_j` was read from; `unmeasured`: quantity -> why
    it is None."""

    trainings: list[TrainingRecord]
    seconds: float
    energy_j: float | None
    meters: list[str]
    unmeasured: dict[str, str]


class TrainingCosts(Finding):
    """A table with a row for each training."""

    order = 130
    detail = True

    def record(self, run: RunResult) -> Mapping[str, object]:
        from compressor.bench.runner.energy import meter_readings, meter_unavailable_reason

        return {
            "training": training_record(
                [training.cost for training in run.state.trainings], meter_readings(), meter_unavailable_reason()
            )
        }

    def terminal(self, report: Report) -> Iterable[Block]:
        training: TrainingReport | None = report["training"]
        if training is None:
            return
        yield Table(COLUMNS, list(cost_rows(training)))
        for index, sentence in enumerate(cost_sentences(training)):
            yield Fact("" if index else "Training", sentence)

    def page(self, report: Report) -> Iterable[Block]:
        training: TrainingReport | None = report["training"]
        if training is not None:
            table = Table(COLUMNS, list(cost_rows(training)))
            yield Section("Cost of training", [table, " ".join(cost_sentences(training))])


def training_record(
    costs: Sequence[TrainingCost], meters: Collection[str], no_meter_reason: str
) -> TrainingReport | None:
    """Return what the trainings cost, and their sums.

    Args:
        costs: Of each training, in order; those without an epoch are left out.
        meters: Names of the energy meters that can be read here.
        no_meter_reason: Why none can be read.

    Returns:
        The JSON under `training`; None where nothing was trained.
    """
    trained = [cost for cost in costs if cost.epochs]
    if not trained:
        return None
    energies = [cost.energy_j for cost in trained if cost.energy_j is not None]
    complete = len(energies) == len(trained)
    unmeasured = {} if complete else {"energy": LOST_METER if meters else no_meter_reason}
    if any(cost.peak_bytes is None for cost in trained):
        unmeasured["peak memory"] = NO_PEAK
    return {
        "trainings": [_record(cost) for cost in trained],
        "seconds": sum(cost.seconds for cost in trained),
        "energy_j": sum(energies) if complete else None,
        "meters": sorted(meters) if energies else [],
        "unmeasured": unmeasured,
    }


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


def cost_rows(report: TrainingReport) -> Iterable[tuple[str, ...]]:
    """The cells under `COLUMNS`: one row for each training, and the sums where there are several."""
    trainings = report["trainings"]
    for training in trainings:
        yield (
            f"{printable(training['stage'])}, {format_number(training['epochs'], 'epoch')}",
            format_count(training["params"]),
            format_ms(training["batch_ms"]),
            NOTHING if training["peak_bytes"] is None else format_bytes(training["peak_bytes"]),
            format_duration(training["seconds"]),
            format_joules(training["energy_j"]),
        )
    if len(trainings) > 1:
        epochs = format_number(sum(training["epochs"] for training in trainings), "epoch")
        yield (f"total, {epochs}", "", "", "", format_duration(report["seconds"]), format_joules(report["energy_j"]))


def cost_sentences(report: TrainingReport) -> Iterable[str]:
    """What became cheaper, what the columns hold, and what could not be measured."""
    if savings := training_savings(report):
        yield savings
    sizes = " or ".join(map(str, sorted({training["batch_size"] for training in report["trainings"]})))
    yield f"Time per batch is the median for batches of {sizes}, loading included; time excludes evaluation."
    if report["trainings"][-1]["device"] == "cuda":
        yield "Peak memory is that of the GPU."
    else:
        yield "Peak memory is the growth of the process plus the weights, to within some MB."
    if report["meters"]:
        yield f"Energy was read from {' and '.join(report['meters'])} and covers everything that ran there."
    for quantity, reason in report["unmeasured"].items():
        yield f"{quantity.capitalize()} is not measurable here: {printable(reason)}."


def training_savings(report: TrainingReport) -> str | None:
    """Compare a batch of the last training with one of the first, where it trained a smaller model in the same way."""
    first, last = report["trainings"][0], report["trainings"][-1]
    alike = (first["batch_size"], first["device"]) == (last["batch_size"], last["device"])
    if not alike or last["params"] >= first["params"]:
        return None
    shares = [
        f"{100 * after / before:.0f} % of the {quantity}"
        for quantity, before, after in (
            ("time", first["batch_ms"], last["batch_ms"]),
            ("peak memory", first["peak_bytes"], last["peak_bytes"]),
        )
        if before and after
    ]
    if not shares:
        return None
    return f"A batch of the last training took {' and '.join(shares)} of a batch of the first, of a larger model."
