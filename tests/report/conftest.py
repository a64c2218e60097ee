"""Two runs as the pipeline would report them: ResNet-56 retrained and measured, and a long net with neither."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from compressor.core import (
    Certificate,
    ChannelGroup,
    Comparison,
    Cost,
    ExportedModel,
    Freeze,
    Latency,
    LoadedModel,
    Metric,
    ModelSpec,
    PrunePlan,
    StableLearningRate,
    TensorSlot,
    TrainingCost,
    TrainingHistory,
    Verdict,
    one_image,
)
from compressor.recipe import read_recipe
from compressor.report.findings import Report, build_report
from compressor.report.run_result import RunResult
from compressor.steps.state import Baseline, PruningState

ACCURACY = Metric("accuracy", lambda output, target: target, unit="%")


class Run(NamedTuple):
    report: Report
    result: RunResult


class MacsByGroup:
    """A cost whose multiply-adds are the groups' own, of 10,000; the rest depends on no channel."""

    def __init__(self, macs: Mapping[str, int], groups: Sequence[ChannelGroup]) -> None:
        self._macs_G = np.array([macs.get(group.name, 0) for group in groups])

    def cost(self, removed_G: np.ndarray) -> Cost:
        return Cost(0, 10_000 - int(self._macs_G[removed_G > 0].sum()))


@pytest.fixture(scope="session")
def macs_by_group() -> type[MacsByGroup]:
    return MacsByGroup


def module_of(tensors: Sequence[str]) -> nn.Module:
    """A module whose state dict has these names, one number each."""
    root = nn.Module()
    for tensor in tensors:
        *path, name = tensor.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(name, nn.Parameter(torch.zeros(1)))
    return root


def pruned_state(
    name: str,
    spec: ModelSpec,
    tensors: Sequence[str],
    groups: Sequence[ChannelGroup],
    macs: Mapping[str, int],
    plan: PrunePlan,
    **known: Any,
) -> PruningState:
    """What steps leave behind, without having performed any."""
    model = LoadedModel(module_of(tensors), spec, name)
    structure: Any = SimpleNamespace(groups=tuple(groups), cost=MacsByGroup(macs, groups))
    baseline = Baseline(model.module, Cost(0, 0), {}, structure, tuple(groups))
    return PruningState(model, baseline, graph=structure, groups=tuple(groups), removed=plan, **known)


def channel_group(name: str, size: int, tensors: list[str], frozen: str | None = None) -> ChannelGroup:
    """`size` channels of one entry each, written by every one of `tensors`."""
    positions = np.arange(size).reshape(-1, 1)
    freeze = Freeze("model", frozen) if frozen else None
    return ChannelGroup(name, size, tuple(TensorSlot(each, 0, positions, "writer") for each in tensors), freeze)


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
        verdict=Verdict("faster", "faster 1.60x [1.57, 1.63]"),
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
    macs = {group.name: 1 if group.frozen else 332 for group in groups}
    records = [
        {
            "epoch": epoch,
            "loss": 0.9 * math.exp(-epoch / 2) + 0.21,
            "lr": 0.01 if epoch < 5 else 0.001,
            "held_out": 90.88 - 7 * math.exp(-epoch) + 0.01,
        }
        for epoch in range(1, 7)
    ]
    cost = TrainingCost(
        "retraining", "cpu", 428_074, 128, 6, 431.0, batch_ms=160.0, peak_bytes=240_000_000, energy_j=None
    )
    stable_lr = StableLearningRate(0.042, 90.4, 32)
    state = pruned_state(
        "../checkpoints/resnet56-cifar10jpeg.pt",
        ModelSpec("cifar:resnet56", one_image((3, 32, 32)), 10),
        order,
        groups,
        macs,
        plan,
        steps=("SelectChannels(l1)", "RemoveChannels", "Recalibrate(4096 images)", "Train(6 epochs, sgd)"),
        metric=ACCURACY,
        quality={"dense": 91.42, "after surgery": 24.61, "after recalibration": 71.93, "after retraining": 90.88},
        certificate=Certificate(("masked-dense-float64",), 3.1e-13, 8.8e-14, ok=True),
        seconds={"retrain": 431.0},
        trainings=(TrainingHistory("retraining", tuple(records), cost, stable_lr),),
    )
    result = RunResult(
        recipe=read_recipe("l1"),
        baseline=state,
        state=state,
        dense_cost=Cost(853_018, 125_485_706, 850_000, 1_160),
        slim_cost=Cost(428_074, 62_924_426, 425_000, 660),
        zero_weights=0,
        dense_onnx=exported("dense.onnx", 3_521_004),
        slim_onnx=exported("model.onnx", 1_834_220),
        int8_onnx=None,
        comparisons=(comparison,),
        gates=(
            {
                "name": "target macs",
                "asked": "at most 50.2 %",
                "found": "50.1 %",
                "ok": True,
                "status": "met",
            },
            {
                "name": "accuracy_drop",
                "asked": "at most 1.00 points",
                "found": "0.54 points",
                "ok": True,
                "status": "met",
            },
        ),
        weights_bytes=1_730_000,
        seconds={"load": 0.4, "groups": 2.1, "prune": 1.3, "recalibrate": 9.8, "retrain": 431.0, "export": 14.2},
        warnings=(),
        notes=("prefix module. removed from 338 names", "recognized as cifar:resnet56 (option A)"),
    )
    return Run(build_report(result), result)


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
    state = pruned_state(
        "torchvision:deepnet150",
        ModelSpec("torchvision:deepnet150", one_image((3, 224, 224))),
        [f"{name}.weight" for name in names],
        groups,
        {group.name: 60 for group in groups},
        plan,
        steps=("SelectChannels(l1)", "RemoveChannels"),
        certificate=Certificate(("masked-dense-float64",), 0.0, 0.0, ok=True),
    )
    result = RunResult(
        recipe=read_recipe("l1", ["seed=3"]),
        baseline=state,
        state=state,
        dense_cost=Cost(60_192_808, 11_513_624_576, 60_000_000, 20_000),
        slim_cost=Cost(31_000_112, 5_712_004_000, 30_900_000, 11_000),
        zero_weights=0,
        dense_onnx=exported("dense.onnx", 240_912_000),
        slim_onnx=exported("model.onnx", 124_201_000),
        int8_onnx=None,
        comparisons=(),
        gates=(),
        weights_bytes=124_000_000,
        seconds={"load": 3.2, "prune": 12.0, "export": 61.3},
        warnings=(),
        notes=(),
    )
    return Run(build_report(result), result)
