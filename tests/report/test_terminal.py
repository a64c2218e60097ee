"""What people read: the numbers are there, lines fit, names are not obeyed."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from compressor.core import Comparison, LayerTime, SustainedLoad, Verdict
from compressor.report.bench_result import bench_record
from compressor.report.findings import Report
from compressor.report.inspect_result import Inspect
from compressor.report.plan_result import Plan
from compressor.report.schedule_plot import LearningRateCurve
from compressor.report.terminal import show_bench, show_inspect, show_plan, show_report, show_verify
from compressor.report.verify_result import Verify

HOSTILE = "[bold red]net[/] \x1b[2J\u202e.pt"


def printed(show, value: object, *more: object, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(value, console, *more)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def training(rates: list[tuple[float, float]]) -> LearningRateCurve:
    return {"step": "Train(some epochs)", "epochs": int(rates[-1][0]), "rates": rates}


def joined(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def inspected() -> Inspect:
    names = [f"layer1.{index}.conv1" for index in range(9)]
    return {
        "model": "resnet56.pt",
        "source": "cifar:resnet56",
        "architecture": "CIFAR ResNet-56, option A",
        "notes": ["prefix module. removed"],
        "params": 853_018,
        "macs": 125_485_706,
        "input": [3, 32, 32],
        "num_classes": 10,
        "groups": [
            *({"name": name, "channels": 16, "layers": 1, "frozen": None} for name in names),
            {"name": "conv1", "channels": 16, "layers": 10, "frozen": None},
            {"name": "linear", "channels": 10, "layers": 1, "frozen": "[the model's outputs]"},
        ],
        "blocks": [f"layer1.{index}" for index in range(9)],
        "coverage": {
            "layers": 20,
            "prunable_layers": 19,
            "channels": 1_170,
            "prunable_channels": 1_160,
            "prunable_macs_percent": 99.7,
            "frozen_macs": [{"reason": "[the model's outputs]", "groups": 1, "channels": 10, "macs_percent": 0.25}],
            "model": {"groups": 10, "channels": 1_160, "macs_percent": 99.7},
            "recipe": None,
        },
    }


@pytest.fixture
def planned() -> Plan:
    return {
        "model": "resnet56.pt",
        "method": "l1",
        "steps": ["SelectChannels(l1)", "RemoveChannels"],
        "target": "at most 50 % of the MACs",
        "round_to": 8,
        "dense": {"params": 853_018, "macs": 125_485_706},
        "slim": {"params": 428_074, "macs": 62_924_426},
        "ratios": {"params": 1.993, "macs": 1.994},
        "groups": [
            *({"name": f"layer1.{index}.conv1", "before": 16, "after": 8} for index in range(9)),
            {"name": "whole", "before": 64, "after": 64},
        ],
        "frozen": [{"name": "linear", "reason": "outputs"}, {"name": "aux", "reason": "outputs"}],
        "coverage": {
            "layers": 20,
            "prunable_layers": 19,
            "channels": 1_170,
            "prunable_channels": 1_160,
            "prunable_macs_percent": 99.7,
            "frozen_macs": [{"reason": "outputs", "groups": 2, "channels": 10, "macs_percent": 12.3}],
            "model": {"groups": 10, "channels": 1_160, "macs_percent": 99.7},
            "recipe": None,
        },
        "latency": {
            "dense_ms": 5.81,
            "slim_ms": 3.7,
            "slim_interval_ms": [3.6, 3.8],
            "ratio": 1.57,
            "ratio_interval": [1.53, 1.61],
            "measured": True,
        },
        "memory": {"dense": 4_000_000, "slim": 2_500_000},
        "least": {"params": 0.02, "macs": 0.03},
        "bounds": {"fixed": 0.04, "between": 0.21, "least": 0.125},
        "risk": {"metric": "accuracy", "split": "held-out", "dense": 92.5, "slim": 41.0},
        "kept": 0.75,
        "worth_it": "yes: 1.57x faster is predicted",
        "schedules": [training([(epoch, 0.01 if epoch < 20 else 0.001) for epoch in range(31)])],
    }


def test_report_has_the_numbers(trained) -> None:
    text = joined(printed(show_report, trained.report, Path("out")))
    for expected in (
        "Parameters 853,018 428,074 1.99x",
        "MACs 125.5 M 62.9 M 1.99x",
        "ONNX file 3.52 MB 1.83 MB 1.92x",
        "Accuracy 91.42 % 90.88 % -0.54 points",
        "1.60x [1.57, 1.63]",
        "faster 1.60x",
        "1 thread, batch 1, onnxruntime 1.31.1 CPU, on local",
        "dense 91.42 -> surgery 24.61 -> recalibration 71.93 -> retraining 90.88",
        "Surgery proven: in float64",
        "3.1e-13",
        "agrees: largest difference to PyTorch 2.4e-06 (dense 2.4e-06); opset 20",
        "1.60x faster [1.57, 1.63], accuracy 90.88 % (-0.54 points), proven",
        "retrain 7 min 11 s",
        "Files out: model.onnx",
    ):
        assert expected in text
    assert "warning" not in text
    assert len(text.splitlines()) <= 40
    for detail in ("Isometry", "Trainability", "On disk", "Bottlenecks", "Model allows"):  # these are on the page
        assert detail not in text


def test_report_says_what_was_not_done(untrained) -> None:
    text = joined(printed(show_report, untrained.report))
    assert "warning not retrained" in text
    assert "fewer MACs (speed not measured), accuracy not measured, proven" in text
    assert "Latency not measured" in text
    assert "Files" not in text


def test_report_shouts_what_failed(trained) -> None:
    report: Report = {
        **trained.report,
        "certificate": {**trained.report["certificate"], "max_abs_error": None, "ok": False},
        "onnx": {**trained.report["onnx"], "ok": False},
        "gates": [{"name": "speedup", "asked": "at least 2.0x", "found": "1.60x", "ok": False, "status": "missed"}],
    }
    text = joined(printed(show_report, report))
    assert "1.60x faster [1.57, 1.63], accuracy 90.88 % (-0.54 points), NOT PROVEN, NOT ALL TARGETS MET" in text
    assert "Surgery NOT PROVEN:" in text
    assert "largest error not a number" in text
    assert "ONNX DISAGREES:" in text
    assert "speedup NOT MET: 1.60x, required: at least 2.0x" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_table_fits(
    width: int, trained, untrained, inspected: Inspect, planned: Plan, comparison: Comparison
) -> None:
    for run in (trained, untrained):
        printed(show_report, run.report, Path("a/long/folder" * 8), width=width)
    printed(show_inspect, inspected, width=width)
    printed(show_plan, planned, width=width)
    printed(show_bench, bench_record(comparison, ["out/dense.onnx", "out/model.onnx"]), width=width)


def test_names_are_not_obeyed(trained, inspected: Inspect, planned: Plan, comparison: Comparison) -> None:
    report: Report = {**trained.report, "model": HOSTILE, "warnings": [HOSTILE], "method": HOSTILE}
    group = inspected["groups"][0]
    for text in (
        printed(show_report, report, Path(HOSTILE)),
        printed(show_inspect, {**inspected, "model": HOSTILE, "groups": [{**group, "name": HOSTILE}]}),
        printed(show_plan, {**planned, "groups": [{"name": HOSTILE, "before": 2, "after": 1}]}),
        printed(show_bench, bench_record(comparison, [HOSTILE, HOSTILE])),
        printed(show_verify, {"folder": HOSTILE, "checks": [], "ok": True}),
    ):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold" in text


def test_inspect_folds_like_groups_and_keeps_brackets(inspected: Inspect) -> None:
    text = joined(printed(show_inspect, inspected))
    assert "layer1.0.conv1 .. layer1.8.conv1 9 16 1" in text
    assert "19 of 20 layers, 1,160 of 1,170 channels; 99.7 % of the MACs" in text
    assert "linear, 0.2 % of the MACs: [the model's outputs]" in text
    assert "3 x 32 x 32" in text


def test_plan_has_the_numbers(planned: Plan) -> None:
    text = joined(printed(show_plan, planned))
    assert "layer1.0.conv1 .. layer1.8.conv1 9 16 8 50 %" in text
    assert "whole" not in text
    assert "Latency, measured 5.81 ms 3.70 ms 1.57x [1.53, 1.61]" in text
    assert "linear and 1 more, 12.3 % of the MACs: outputs" in text
    assert "multiples of 8" in text
    assert "Untrained accuracy 92.5 -> 41 on a few held-out images" in text
    assert "75.0 %, averaged over layers" in text
    assert "30 epochs, learning rate at epoch 0: 0.01, 20: 0.001" in text
    assert "learning rate by epoch, Train(some epochs), log scale 0.01 ┤───" in text
    assert "yes: 1.57x faster is predicted" in text


def test_plan_of_a_smooth_schedule_and_of_none(planned: Plan) -> None:
    smooth = [training([(epoch, 0.1 * (10 - epoch)) for epoch in range(11)])]
    text = joined(printed(show_plan, {**planned, "schedules": smooth, "latency": None, "round_to": 1}))
    assert "10 epochs, learning rate at epoch 0: 1, 10: 0" in text
    assert "predicted 5.81" not in text
    assert "Widths any" in text
    assert "Training no epochs" in joined(printed(show_plan, {**planned, "schedules": []}))


def test_plan_of_a_method_that_trains_draws_each_training(planned: Plan) -> None:
    both = [training([(epoch, 1e-3) for epoch in range(5)]), *planned["schedules"]]
    text = joined(printed(show_plan, {**planned, "schedules": both}))
    assert text.count("learning rate by epoch") == 2
    assert "4 epochs, learning rate at epoch 0: 0.001 Training 30 epochs" in text


def test_plan_of_an_old_terminal_is_drawn_in_ascii(planned: Plan) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    show_plan(planned, Console(file=file, width=80))
    assert " 0.01 |----" in file.buffer.getvalue().decode("ascii")


def test_bench_of_two_files(comparison: Comparison) -> None:
    text = joined(printed(show_bench, bench_record(comparison, ["dense.onnx", "model.onnx"])))
    assert "Verdict faster 1.60x [1.57, 1.63]" in text
    assert f"dense.onnx {comparison.a.p50:.2f} ms" in text
    assert "Control 1.00x [0.99, 1.01]" in text
    assert "governor performance" in text


def test_bench_says_where_the_time_goes_and_what_it_took(comparison: Comparison) -> None:
    layers = [LayerTime(f"layer{n}[red]", "Conv", 10.0 * n, 9.5 * n, 100, 100) for n in range(1, 15)]
    layers.append(LayerTime("new", "Cast", None, 60.0, 0, 100))
    full = dataclasses.replace(
        comparison,
        a=dataclasses.replace(comparison.a, energy_j=0.5, peak_bytes=30_000_000),
        b=dataclasses.replace(comparison.b, energy_j=0.25, peak_bytes=20_000_000),  # type: ignore[type-var]
        layers=tuple(layers),
        sustained=SustainedLoad(300.0, 5.0, 5.5, 2.0),
    )
    text = joined(printed(show_bench, bench_record(full, ["dense.onnx", "model.onnx"])))
    assert "layer14[red] 140 µs 133 µs 1.05x" in text
    assert "new - 60.0 µs -" in text
    assert "layer3[red]" not in text
    assert "3 more rows, see --json" in text
    assert "Bottlenecks" in text
    assert "Peak memory 30.0 MB and 20.0 MB" in text
    assert "Energy 500 mJ and 250 mJ per run" in text
    assert "5.00 ms at the beginning and 5.50 ms at the end of 300 s, +2.00 % per minute" in text


def test_bench_that_was_unstable_states_no_ratio(comparison: Comparison) -> None:
    shaky = dataclasses.replace(comparison, verdict=Verdict("unstable", "unstable: control 1.09"))
    text = joined(printed(show_bench, bench_record(shaky, ["dense.onnx", "model.onnx"])))
    assert "1.60x" not in text
    assert "not stable enough" in text


@pytest.mark.parametrize(
    ("ok", "expected"), [(True, "verified: all 2 checks hold"), (False, "NOT VERIFIED: 1 of 2 checks failed")]
)
def test_verify_counts_what_failed(ok: bool, expected: str) -> None:
    checks = [
        {"name": "hashes", "ok": True, "detail": "match"},
        {"name": "parity", "ok": ok, "detail": "largest error 0.3"},
    ]
    result: Verify = {"folder": "out", "checks": checks, "gates": [], "proven": ok, "ok": ok}
    text = joined(printed(show_verify, result))
    assert text.endswith(expected)
    assert ("parity FAILED: largest error 0.3" in text) is not ok
