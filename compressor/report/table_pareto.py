"""Several targets for one model as a table, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterable

from compressor.report import words
from compressor.report.schema import CostRecord
from compressor.report.schema_verbs import Pareto, ParetoPoint


def pareto_headings(found: Pareto) -> list[str]:
    timed = ["latency", "interval"] if _timed(found) else []
    return ["asked", *timed, "MACs", "params", "kept", *(["untrained"] if _risky(found) else [])]


def pareto_cells(found: Pareto) -> list[list[str]]:
    """Of each target that can be met, in the order asked."""
    return [
        [point["asked"], *_of(point, slim, found)] for point in found["points"] if (slim := point["slim"]) is not None
    ]


def pareto_notes(found: Pareto) -> Iterable[tuple[str, str]]:
    """What can't be met, and how to read the columns."""
    for point in found["points"]:
        if point["reason"] is not None:
            yield point["asked"], f"not reachable: {point['reason']}"
    dense = found["dense"]
    yield (
        "Shares",
        f"of the dense model's {words.format_count(dense['macs'])} MACs "
        f"and {words.format_count(dense['params'])} params",
    )
    latency = next((point["latency"] for point in found["points"] if point["latency"]), None)
    if latency is not None:
        how = "measured" if latency["measured"] else "predicted from the layers' times; a run measures until it holds"
        yield "Latency", f"on {found['device']}, the dense model's is {words.milliseconds(latency['dense_ms'])}; {how}"
    yield "Kept", "share of a layer's L1 norm, mean over layers; the rest is what retraining must mend"
    risk = next((point["risk"] for point in found["points"] if point["risk"]), None)
    if risk is not None:
        what = f"{risk['metric']} on a few {risk['split']} images, statistics of norms estimated anew"
        yield "Untrained", f"{what}; the dense model's is {risk['dense']:.4g}"


def _of(point: ParetoPoint, slim: CostRecord, found: Pareto) -> Iterable[str]:
    latency, risk, kept = point["latency"], point["risk"], point["kept"]
    if _timed(found):
        yield words.milliseconds(latency["slim_ms"] if latency else None)
        yield " to ".join(map(words.significant, latency["slim_interval_ms"])) if latency else words.NOTHING
    dense = found["dense"]
    yield f"{slim['macs'] / dense['macs']:.1%}" if dense["macs"] else words.NOTHING
    yield f"{slim['params'] / dense['params']:.1%}"
    yield words.NOTHING if kept is None else f"{kept:.1%}"
    if _risky(found):
        yield f"{risk['slim']:.4g}" if risk else words.NOTHING


def _timed(found: Pareto) -> bool:
    return any(point["latency"] for point in found["points"])


def _risky(found: Pareto) -> bool:
    return any(point["risk"] for point in found["points"])
