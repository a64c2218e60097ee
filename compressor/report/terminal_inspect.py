"""What inspect prints for people."""

from __future__ import annotations

from rich.console import Console

from compressor.report import words
from compressor.report.schema_verbs import Inspect, OnnxWeights
from compressor.report.tables import facts_table, frozen, runs, span, table, title


def show_inspect(info: Inspect, console: Console) -> None:
    """What a model is, what of it can be pruned, and why the rest can't."""
    title(console, info["model"])
    reach = info["coverage"]
    classes = "unknown" if info["num_classes"] is None else str(info["num_classes"])
    facts_table(
        console,
        [
            ("Architecture", info["architecture"]),
            ("Source", info["source"]),
            ("Input", words.format_shapes(info["input"])),
            ("Classes", classes),
            ("Parameters", words.format_count(info["params"])),
            ("MACs", words.format_count(info["macs"])),
            (
                "Prunable",
                f"{reach['prunable_layers']} of {reach['layers']} layers, "
                f"{reach['prunable_channels']:,} of {reach['channels']:,} channels, "
                f"{reach['prunable_macs_percent']:.1f} % of the MACs",
            ),
            *(("Note", note) for note in info["notes"]),
        ],
    )
    free = [group for group in info["groups"] if group["frozen"] is None]
    if free:
        console.print()
        groups = table("prunable groups", "groups", "channels", "layers in each")
        for first, last, same in runs(free, lambda group: (group["channels"], group["layers"])):
            name = span(first["name"], last["name"])
            groups.add_row(name, str(same), str(first["channels"]), str(first["layers"]))
        console.print(groups)
    frozen(
        console,
        [{"name": each["name"], "reason": each["frozen"]} for each in info["groups"] if each["frozen"]],
        reach["frozen_macs"],
    )


def show_onnx_weights(found: OnnxWeights, console: Console) -> None:
    """Which weights of an ONNX file keep an N:M rule."""
    title(console, found["file"])
    pattern = ":".join(map(str, found["pattern"]))
    rows = table("weight", "operator", "shape", "zeros", pattern)
    for first, last, same in runs(
        found["weights"], lambda each: (each["operator"], each["shape"], each["holds"], each["reason"])
    ):
        name = span(first["name"], last["name"])
        zeros = "" if same > 1 else f"{first['zeros_percent']:.1f} %"
        rows.add_row(
            name,
            f"{same} x {first['operator']}" if same > 1 else first["operator"],
            " x ".join(map(str, first["shape"])),
            zeros,
            first["reason"] or ("yes" if first["holds"] else "no"),
        )
    console.print(rows)
    console.print()
    held, eligible = found["hold"], found["eligible"]
    facts_table(
        console, [(f"{pattern} rule", f"kept by {held} of the {eligible} weights that {found['runtime']} could use")]
    )
