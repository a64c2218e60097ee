"""What things cost, in short words: the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator

from compressor.report import words
from compressor.report.schema_costs import DiskRecord, RemovedRecord, TrainingReport

COLUMNS = ("training", "parameters", "a batch", "memory", "time", "energy")


def cost_rows(report: TrainingReport) -> Iterator[tuple[str, ...]]:
    """Under `COLUMNS`: each training, and all together where there are several."""
    for each in report["trainings"]:
        yield (
            f"{words.plain(each['stage'])}, {_epochs(each['epochs'])}",
            words.format_count(each["params"]),
            words.milliseconds(each["batch_ms"]),
            words.NOTHING if each["peak_bytes"] is None else words.format_bytes(each["peak_bytes"]),
            words.duration(each["seconds"]),
            format_joules(each["energy_j"]),
        )
    if len(report["trainings"]) > 1:
        epochs = _epochs(sum(each["epochs"] for each in report["trainings"]))
        yield (f"in all, {epochs}", "", "", "", words.duration(report["seconds"]), format_joules(report["energy_j"]))


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' if number != 1 else ''}"


def format_joules(value: float | None) -> str:
    """Of a training: '812 J', '12.3 kJ', '1.02 kWh'."""
    if value is None:
        return words.NOTHING
    for unit, scale in (("kWh", 3.6e6), ("kJ", 1e3)):
        if value >= scale:
            return f"{words.significant(value / scale)} {unit}"
    return f"{words.significant(value)} J"


def training_savings(report: TrainingReport) -> str | None:
    """How the last training compares with the first, where it trained less of a model in the same way."""
    first, last = report["trainings"][0], report["trainings"][-1]
    alike = all(first[key] == last[key] for key in ("batch_size", "device"))
    if last["params"] >= first["params"] or not alike:
        return None
    told = [
        f"{100 * after / before:.0f} % of the {what}"
        for what, before, after in (
            ("time", first["batch_ms"], last["batch_ms"]),
            ("peak memory", first["peak_bytes"], last["peak_bytes"]),
        )
        if before and after
    ]
    if not told:
        return None
    return f"A batch of the last training took {' and '.join(told)} of one of the first, before channels went"


def unmeasured_costs(report: TrainingReport) -> Iterator[str]:
    """'Energy is not measurable here: no ...'"""
    for name, why in report["unmeasured"].items():
        yield f"{name.capitalize()} is not measurable here: {words.plain(why)}"


def column_notes(report: TrainingReport) -> str:
    """What the columns hold."""
    images = sorted({each["batch_size"] for each in report["trainings"]})
    memory = (
        "is that of the GPU"
        if report["trainings"][-1]["device"] == "cuda"
        else "is what the process grew by, to some MB, and weights"
    )
    by = f"; energy by {' and '.join(report['meters'])}, of all that runs there" if report["meters"] else ""
    sizes = " or ".join(map(str, images))
    return f"Median time of a batch of {sizes} with its data; peak memory {memory}; time without evaluation{by}"


def describe_removed(record: RemovedRecord) -> str:
    """'95.10 % of the weights, 65.80 % of the nodes'."""
    weights, nodes = (words.percent(record[each]["sparsity"]) for each in ("weights", "nodes"))
    return f"{weights} of the weights, {nodes} of the nodes"


def describe_disk(record: DiskRecord) -> str:
    """'weights 44.7 MB -> 2.31 MB; 1.20 MB with zeros left out (an estimate)'."""
    told = f"weights {words.format_bytes(record['dense'])} -> {words.format_bytes(record['slim'])}"
    if record["sparse"] is None:
        return told
    return (
        f"{told}; {words.format_bytes(record['sparse'])} with zeros left out, an estimate: no runtime reads such a file"
    )
