"""The results of `compress inspect`: of a model, what can be pruned; of an ONNX file, which weights are N:M sparse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from rich.console import Console

from compressor.core import NMPattern
from compressor.report.blocks import Fact, Table
from compressor.report.findings.prunable_groups import Coverage
from compressor.report.format import format_count, format_shape, printable
from compressor.report.tables import name_range, print_facts, print_frozen, print_heading, print_table, runs_of_equal

if TYPE_CHECKING:
    from compressor.sparsity.onnx_check import Initializer


class InspectGroup(TypedDict):
    """`layers`: how many layers write the group's channels. `frozen`: why it can't be pruned."""

    name: str
    channels: int
    layers: int
    frozen: str | None


class Inspect(TypedDict):
    """`compress inspect MODEL`. `input`: channels, height, width; one list each for several inputs. `blocks`: what can
    be dropped."""

    model: str
    source: str
    architecture: str
    notes: list[str]
    params: int
    macs: int
    input: list[int] | list[list[int]]
    num_classes: int | None
    groups: list[InspectGroup]
    coverage: Coverage
    blocks: list[str]


class OnnxWeight(TypedDict):
    """A constant weight as its operator reads it, (K, C, ...). `reason`: why a runtime can't use zeros in it."""

    name: str
    operator: str
    shape: list[int]
    zeros_percent: float
    holds: bool
    reason: str | None


class OnnxWeights(TypedDict):
    """`compress inspect model.onnx`. `hold`: how many of the eligible weights keep the pattern."""

    file: str
    pattern: list[int]
    runtime: str
    eligible: int
    hold: int
    weights: list[OnnxWeight]


class OnnxInspect(OnnxWeights, total=False):
    """`compress inspect model.onnx`: its weights, and what can be pruned. `not_prunable`: why it cannot be imported."""

    model: str
    source: str
    architecture: str
    notes: list[str]
    params: int
    macs: int
    input: list[int] | list[list[int]]
    num_classes: int | None
    groups: list[InspectGroup]
    coverage: Coverage
    blocks: list[str]
    not_prunable: str | None


def onnx_weights_record(path: Path, pattern: NMPattern, runtime: str, weights: Sequence[Initializer]) -> OnnxWeights:
    """Return which weights of an ONNX file keep an N:M pattern.

    Args:
        path: The file.
        pattern: The N:M pattern.
        runtime: The runtime that weights are eligible for.
        weights: The constant weights of the file.
    """
    eligible = [weight for weight in weights if weight.reason is None]
    return {
        "file": str(path),
        "pattern": list(pattern),
        "runtime": runtime,
        "eligible": len(eligible),
        "hold": sum(weight.holds for weight in eligible),
        "weights": [
            {
                "name": weight.name,
                "operator": weight.operator,
                "shape": list(weight.shape),
                "zeros_percent": 100 * weight.zeros,
                "holds": weight.holds,
                "reason": weight.reason,
            }
            for weight in weights
        ],
    }


def show_inspect(info: Inspect, console: Console) -> None:
    """Print what a model is, which of its channel groups can be pruned, and why the others can't.

    Args:
        info: The result.
        console: Where to print.
    """
    print_heading(console, info["model"])
    print_facts(console, _facts(info))
    console.print()
    prunable = [group for group in info["groups"] if group["frozen"] is None]
    rows = [
        (name_range(first["name"], last["name"]), str(count), str(first["channels"]), str(first["layers"]))
        for first, last, count in runs_of_equal(prunable, lambda group: (group["channels"], group["layers"]))
    ]
    if rows:
        print_table(console, Table(("prunable groups", "groups", "channels", "layers in each"), rows))
    print_frozen(
        console,
        [{"name": group["name"], "reason": group["frozen"]} for group in info["groups"] if group["frozen"]],
        {share["reason"]: share["macs_percent"] for share in info["coverage"]["frozen_macs"]},
    )


def _facts(info: Inspect) -> Iterable[Fact]:
    coverage = info["coverage"]
    yield Fact("Architecture", info["architecture"])
    yield Fact("Source", info["source"])
    yield Fact("Input", format_shape(info["input"]))
    yield Fact("Classes", "unknown" if info["num_classes"] is None else str(info["num_classes"]))
    yield Fact("Parameters", format_count(info["params"]))
    yield Fact("MACs", format_count(info["macs"]))
    layers = f"{coverage['prunable_layers']} of {coverage['layers']} layers"
    channels = f"{coverage['prunable_channels']:,} of {coverage['channels']:,} channels"
    share = f"{coverage['prunable_macs_percent']:.1f} % of the MACs"
    yield Fact("Prunable", f"{layers}, {channels}; {share} depend on them")
    if info["blocks"]:
        yield Fact("Blocks", f"{len(info['blocks'])} can be dropped: {', '.join(map(printable, info['blocks']))}")
    for note in info["notes"]:
        yield Fact("Note", note)


def show_onnx_inspect(info: OnnxInspect, console: Console) -> None:
    """Print what can be pruned in an ONNX file, and which of its weights keep an N:M pattern.

    Args:
        info: The result.
        console: Where to print.
    """
    if "groups" in info:
        show_inspect(cast(Inspect, info), console)
        console.print()
    show_onnx_weights(info, console)
    reason = info.get("not_prunable")
    if reason is not None:
        print_facts(console, [Fact("Not prunable", reason)])


def show_onnx_weights(info: OnnxWeights, console: Console) -> None:
    """Print which weights of an ONNX file keep an N:M pattern.

    Args:
        info: The result.
        console: Where to print.
    """
    print_heading(console, info["file"])
    pattern = ":".join(map(str, info["pattern"]))
    rows = []
    for first, last, count in runs_of_equal(
        info["weights"], lambda weight: (weight["operator"], weight["shape"], weight["holds"], weight["reason"])
    ):
        rows.append(
            (
                name_range(first["name"], last["name"]),
                first["operator"] if count == 1 else f"{count} x {first['operator']}",
                format_shape(first["shape"]),
                f"{first['zeros_percent']:.1f} %" if count == 1 else "",
                first["reason"] or ("yes" if first["holds"] else "no"),
            )
        )
    print_table(console, Table(("weight", "operator", "shape", "zeros", pattern), rows))
    kept = f"kept by {info['hold']} of the {info['eligible']} weights that {info['runtime']} could use"
    print_facts(console, [Fact(f"{pattern} rule", kept)])
