"""Two runs as the pipeline would report them: ResNet-56 retrained and measured, and a long net with neither."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from compressor.core import (
    Certificate,
    ChannelGroup,
    Comparison,
    Cost,
    ExportedModel,
    Latency,
    Metric,
    ModelSpec,
    PrunableShare,
    PrunePlan,
    TensorSlot,
    one_image,
)
from compressor.report.record import assemble_report
from compressor.report.record_latency import sample_rows
from compressor.report.schema import Report
from compressor.report.schema_latency import Samples

ACCURACY = Metric("accuracy", lambda output, target: target, unit="%")


class Run(NamedTuple):
    report: Report
    events: list[dict[str, object]]
    samples: Samples


def channel_group(name: str, size: int, tensors: list[str], frozen: str | None = None) -> ChannelGroup:
    """`size` channels of one entry each, written by every one of `tensors`."""
    positions = np.arange(size).reshape(-1, 1)
    return ChannelGroup(name, size, tuple(TensorSlot(each, 0, positions, "writer") for each in tensors), frozen)


def keep(size: int, kept: int) -> np.ndarray:
    return np.arange(size) < kept


def latency(p50: float, spread: float, seed: int, n: int = 1800) -> Latency:
    values = p50 * (1 + spread * np.random.default_rng(seed).gamma(1.2, 1.0, n))
    middle = float(np.median(values))
    return Latency(
        p50=middle,
        p90=float(np.quantile(values, 0.9)),
        p99=None,
        n=n,
        ci95=(middle * 0.99, middle * 1.01),
        cold_start_ms=31.5,
        samples=tuple(values.tolist()),
    )


def exported(name: str, octets: int) -> ExportedModel:
    digest = ("0f1e2d3c4b5a6978" * 4)[:64]
    notes = ("the exporter refused einsum; it was rewritten",)
    return ExportedModel(Path(name), 20, octets, digest, max_abs_error=2.4e-6, ok=True, notes=notes)


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    a, b = latency(5.81, 0.03, 0), latency(3.62, 0.03, 1)
    return Comparison(
        a=a,
        b=b,
        ratio=1.604,
        ratio_ci95=(1.571, 1.633),
        control=1.002,
        control_ci95=(0.991, 1.012),
        verdict="faster 1.60x [1.57, 1.63]",
        stable=True,
        target="local",
        runtime="onnxruntime 1.31.1",
        provider="CPUExecutionProvider",
        threads=1,
        batch=1,
        environment={"governor": "performance", "load": "0.41"},
    )


def resnet56_groups() -> tuple[list[ChannelGroup], list[str]]:
    order, groups = ["conv1.weight"], []
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        outer = ["conv1.weight"] if stage == 1 else []
        for block in range(9):
            inner = f"layer{stage}.{block}.conv1"
            groups.append(channel_group(inner, width, [f"{inner}.weight"]))
            outer.append(f"layer{stage}.{block}.conv2.weight")
            order += [f"{inner}.weight", outer[-1]]
        groups.append(channel_group(outer[0].removesuffix(".weight"), width, outer))
    groups.append(channel_group("linear", 10, ["linear.weight"], "these are the model's outputs"))
    return groups, [*order, "linear.weight"]


@pytest.fixture(scope="session")
def trained(comparison: Comparison) -> Run:
    groups, order = resnet56_groups()
    plan = PrunePlan({g.name: keep(g.size, g.size // 2) for g in groups if g.name.endswith(".conv1")})
    report = assemble_report(
        name="../checkpoints/resnet56-cifar10jpeg.pt",
        method="l1",
        steps=["SelectChannels(l1)", "RemoveChannels", "Recalibrate(4096 images)", "Train(6 epochs, sgd)"],
        spec=ModelSpec("cifar:resnet56", one_image((3, 32, 32)), 10),
        tensors=order,
        dense_cost=Cost(853_018, 125_485_706),
        slim_cost=Cost(428_074, 62_924_426),
        dense_onnx=exported("dense.onnx", 3_521_004),
        slim_onnx=exported("model.onnx", 1_834_220),
        metric=ACCURACY,
        quality={
            "dense": 91.42,
            "after surgery": 24.61,
            "after recalibration": 71.93,
            "after retraining": 90.88,
        },
        comparison=comparison,
        certificate=Certificate("masked-dense-float64", 3.1e-13, 8.8e-14, ok=True),
        groups=groups,
        plan=plan,
        held=[PrunableShare(None, 30, 1_160, 0.997), PrunableShare("these are the model's outputs", 1, 10, 0.0001)],
        seconds={
            "load": 0.4,
            "groups": 2.1,
            "prune": 1.3,
            "recalibrate": 9.8,
            "retrain": 431.0,
            "export": 14.2,
            "measure": 47.0,
        },
        seed=0,
        gates=[
            {"name": "target macs", "asked": "at most 50.2 %", "found": "50.1 %", "ok": True},
            {"name": "accuracy drop", "asked": "at most 1.00 points", "found": "0.54 points", "ok": True},
        ],
        notes=["prefix module. removed from 338 names", "recognised as cifar:resnet56 (option A)"],
    )
    events: list[dict[str, object]] = [{"event": "start", "model": "resnet56"}]
    for epoch in range(1, 7):
        fields: dict[str, object] = {
            "loss": 0.9 * math.exp(-epoch / 2) + 0.21,
            "lr": 0.01 if epoch < 5 else 0.001,
            "held_out": 90.88 - 7 * math.exp(-epoch) + 0.01,
        }
        events.append({"event": "epoch", "stage": "retrain", "epoch": epoch, "seconds": 70.1, **fields})
    return Run(report, events, sample_rows(comparison))


@pytest.fixture(scope="session")
def untrained() -> Run:
    rng = np.random.default_rng(0)
    sizes = [int(64 * 2 ** (index // 30) * (4 if index % 3 == 2 else 1)) for index in range(150)]
    names = [f"features.denseblock{1 + i // 38}.denselayer{1 + i % 38}.conv" for i in range(150)]
    reason = "aten.view at models/net.py:118 needs this size; add a layers: rule to silence this"
    groups = [
        channel_group(name, size, [f"{name}.weight"], reason if i % 11 == 10 else None)
        for i, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    shares = rng.uniform(0.2, 0.9, len(groups))
    plan = PrunePlan(
        {
            g.name: keep(g.size, max(int(g.size * share), 1))
            for g, share in zip(groups, shares, strict=True)
            if g.frozen is None
        }
    )
    report = assemble_report(
        name="torchvision:deepnet150",
        method="l1",
        steps=["SelectChannels(l1)", "RemoveChannels"],
        spec=ModelSpec("torchvision:deepnet150", one_image((3, 224, 224))),
        tensors=[f"{name}.weight" for name in names],
        dense_cost=Cost(60_192_808, 11_513_624_576),
        slim_cost=Cost(31_000_112, 5_712_004_000),
        dense_onnx=exported("dense.onnx", 240_912_000),
        slim_onnx=exported("model.onnx", 124_201_000),
        metric=None,
        quality={},
        comparison=None,
        certificate=Certificate("masked-dense-float64", 0.0, 0.0, ok=True),
        groups=groups,
        plan=plan,
        held=[PrunableShare(None, 30, 1_160, 0.997), PrunableShare("these are the model's outputs", 1, 10, 0.0001)],
        seconds={"load": 3.2, "prune": 12.0, "export": 61.3},
        seed=3,
    )
    return Run(report, [], sample_rows(None))
