"""What each verb prints for people: compact tables that fit 80 columns and survive a pipe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from compressor.report import words, words_costs
from compressor.report.schema import Report
from compressor.report.schema_latency import LatencyRecord
from compressor.report.schema_verbs import Verify
from compressor.report.tables import STRONG, facts_table, mark_cell, table, title, warnings
from compressor.report.terminal_bench import show_bench
from compressor.report.terminal_inspect import show_inspect, show_onnx_weights
from compressor.report.terminal_plan import show_pareto, show_plan

__all__ = ["show_bench", "show_inspect", "show_onnx_weights", "show_pareto", "show_plan", "show_report", "show_verify"]


def show_report(report: Report, console: Console, folder: Path | None = None) -> None:
    """The result of a run: dense against slim, what was proven, what was not measured, where files are."""
    dense, slim, gain = report["dense"], report["slim"], report["ratios"]
    title(console, report["model"], report["steps"], method=report["method"])
    numbers = table("", "dense", "slim", "dense / slim")
    numbers.add_row(
        "Parameters",
        words.format_count(dense["params"]),
        words.format_count(slim["params"]),
        words.ratio(gain["params"]),
    )
    numbers.add_row(
        "MACs", words.format_count(dense["macs"]), words.format_count(slim["macs"]), words.ratio(gain["macs"])
    )
    smaller = dense["onnx_bytes"] / slim["onnx_bytes"] if slim["onnx_bytes"] else None
    numbers.add_row(
        "ONNX file",
        words.format_bytes(dense["onnx_bytes"]),
        words.format_bytes(slim["onnx_bytes"]),
        words.ratio(smaller),
    )
    before, after, metric = dense["metric"], slim["metric"], report["metric"]
    numbers.add_row(
        Text(words.plain(words.name_of(metric))),
        Text(words.plain(words.quality(before, metric))),
        Text(words.plain(words.quality(after, metric))),
        words.format_change(before, after, metric),
    )
    faster = words.ratio(gain["latency"], gain["latency_ci95"])
    # Cells of numbers hold brackets, which are console markup unless said otherwise.
    numbers.add_row("Latency p50", _p50(dense["latency_ms"]), _p50(slim["latency_ms"]), Text(faster))
    console.print(numbers)
    console.print()
    _training(report, console)
    facts_table(console, _proofs(report))
    warnings(console, report["warnings"])
    if folder is not None:
        console.print()
        facts_table(console, [("Files", f"{folder}: model.onnx is the slim model, report.html tells more")])


def _training(report: Report, console: Console) -> None:
    training = report.get("training")
    if training is None:
        return
    took = table(*words_costs.COLUMNS)
    for row in words_costs.cost_rows(training):
        took.add_row(*row)
    console.print(took)
    console.print()


def _proofs(report: Report) -> Iterable[tuple[str, Text | str]]:
    bench, surgery, onnx, groups = report["bench"], report["certificate"], report["onnx"], report["groups"]
    yield "Latency", Text(words.plain(bench["verdict"]), STRONG)
    if bench["runtime"] is not None:
        yield "", words.describe_measurement(bench)
    training = report.get("training")
    if training is not None:
        said = [
            words_costs.training_savings(training),
            words_costs.column_notes(training),
            *words_costs.unmeasured_costs(training),
        ]
        yield from (("" if place else "Training", each) for place, each in enumerate(filter(None, said)))
    gone, files = report.get("removed"), report.get("disk")
    if gone is not None:
        yield "Removed", words_costs.describe_removed(gone)
    if files is not None:
        yield "On disk", words_costs.describe_disk(files)
    metric = report["metric"]
    reached = [
        f"{stage.removeprefix('after ')} {words.quality(value, metric).removesuffix(' ' + metric['unit'])}"
        for stage, value in report["metric_steps"].items()
        if value is not None
    ]
    if reached:
        yield words.plain(f"{words.name_of(metric)} {metric['unit']}"), words.plain(" -> ".join(reached))
    if report["isometry"]:
        yield "Isometry", words.describe_isometry(report["isometry"])
    if report["trainability"] is not None:
        yield "Trainability", words.describe_trainability(report["trainability"])
    if report["stable_rate"] is not None:
        yield "Largest rate", words.describe_stable_rate(report["stable_rate"])
    yield (
        "Surgery",
        mark_cell(surgery["ok"], "proven: ", "NOT PROVEN: ").append(
            f"{words.describe_proof(surgery['kind'])}; largest error {words.error(surgery['max_abs_error'])}, "
            f"relative {words.error(surgery['max_rel_error'])}",
            "default",
        ),
    )
    yield (
        "ONNX",
        mark_cell(onnx["ok"], "agrees", "DISAGREES").append(
            f"{words.describe_parity_scope(onnx)}; largest error {words.error(onnx['max_abs_error'])}; "
            f"opset {onnx['opset']}",
            "default",
        ),
    )
    sparsity = report.get("sparsity")
    if sparsity is not None:
        yield "Sparsity", words.describe_sparsity(sparsity)
        yield "", Text(words.plain(sparsity["predicted"]))
        if sparsity["measured"] is not None:
            yield "", Text(words.plain(f"measured: {sparsity['measured']}"))
    masks = report.get("masks")
    if masks is not None:
        yield "Weights", words.describe_masks(masks)
        yield "", words.plain(masks["expected"])
        if masks["measured"] is not None:
            yield "", words.plain(f"measured: {masks['measured']}")
    for sentence in report["left_to_win"]:
        yield "Left to win", sentence
    quantised = report.get("int8")
    if quantised is not None:
        yield "Int8", words.plain(words.describe_int8(quantised, metric))
    for gate in report["gates"]:
        found = f"{gate['found']}, asked: {gate['asked']}"
        yield gate["name"], mark_cell(gate["ok"], "met: ", "NOT MET: ").append(words.plain(found), "default")
    reach = report["coverage"]
    share = f"prunable groups hold {reach['prunable_macs_percent']:.1f} % of the MACs"
    yield "Groups", f"{groups['pruned']} of {groups['total']} cut, {len(groups['frozen'])} frozen; {share}"
    for kept in reach["frozen_macs"][:1]:
        yield "Frozen most", words.plain(f"{kept['macs_percent']:.1f} % of the MACs: {kept['reason']}")
    spent = report["seconds"]
    if spent:
        stages = ", ".join(f"{stage} {words.duration(value)}" for stage, value in spent.items())
        yield "Time", f"{words.duration(sum(spent.values()))} ({stages})"


def _p50(latency: LatencyRecord | None) -> str:
    return words.milliseconds(latency["p50"] if latency else None)


def show_verify(result: Verify, console: Console) -> None:
    """Each check of an output folder, and whether all hold."""
    title(console, result["folder"])
    facts_table(
        console,
        (
            (
                each["name"],
                mark_cell(each["ok"], "ok  ", "FAILED  ").append(words.plain(each["detail"]), "default"),
            )
            for each in result["checks"]
        ),
    )
    bad = sum(not each["ok"] for each in result["checks"])
    total = len(result["checks"])
    console.print()
    console.print(
        mark_cell(
            result["ok"],
            f"verified: all {total} checks hold",
            f"not verified: {bad} of {total} checks failed",
        )
    )
