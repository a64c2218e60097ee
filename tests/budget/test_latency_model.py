"""The cost surface on an invented device: exact on its levels, stairs between them, calibrated by the whole."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.budget.latency_model import LatencyModel, fit_latency_model, layers_to_benchmark
from compressor.core import Freeze, Layer, PrunePlan
from compressor.graph.dependency_graph import DependencyGraph
from compressor.surgery.analysis import analyze

STEP = 8


def device_ms(layer: Layer) -> float:
    """Computes 8 channels at a time, with a fixed cost beside."""
    inputs, outputs = (math.ceil(each / STEP) * STEP for each in (layer.in_channels, layer.out_channels))
    return 0.01 + 1e-6 * inputs * outputs * math.prod((*layer.kernel, *layer.spatial_shape)) / layer.groups


def steps(layer: Layer) -> tuple[int, int]:
    return STEP, STEP


@pytest.fixture(scope="module")
def structure() -> DependencyGraph:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 16, 1),
        nn.Flatten(), nn.Linear(16 * 64, 10),
    ).eval()  # fmt: skip
    return analyze(net, torch.randn(1, 3, 8, 8), name="net")


@pytest.fixture(scope="module")
def made(structure: DependencyGraph) -> LatencyModel:
    times = {layer: device_ms(layer) for layer in layers_to_benchmark(structure.workload, structure.groups, steps)}
    return fit_latency_model(structure.workload, structure.groups, steps, times)


def truth(structure: DependencyGraph, removed: list[int]) -> float:
    work = structure.workload
    sizes = work.sizes(np.array([removed]))[0]
    return sum(
        device_ms(layer.resized(round(sizes[a]), round(sizes[b])))
        for layer, a, b in zip(work.layers, work.inputs_W, work.outputs_W, strict=True)
    )


def test_levels_lie_on_the_steps_and_hold_the_full_width(structure: DependencyGraph) -> None:
    asked = layers_to_benchmark(structure.workload, structure.groups, steps)
    widths = {layer.out_channels for layer in asked if layer.op == "conv2d" and layer.kernel == (3, 3)}
    assert widths == {8, 16, 24, 32, 48, 64}
    assert {layer.in_channels for layer in asked if layer.out_channels == 32 and layer.in_channels < 8} == {3}, (
        "the image stays"
    )


@settings(max_examples=60, deadline=None)
@given(removed=st.tuples(st.integers(0, 31), st.integers(0, 63), st.integers(0, 15)))
def test_a_device_that_is_bilinear_on_its_steps_is_predicted_exactly(
    structure: DependencyGraph, made: LatencyModel, removed: tuple[int, int, int]
) -> None:
    """Down to the lowest level, an eighth of the width, below which the line goes on."""
    gone = [0] * len(structure.groups)
    free = [index for index, group in enumerate(structure.groups) if group.frozen is None]
    for index, count in zip(free, removed, strict=True):
        gone[index] = count
    assert made.ms(np.array([gone]))[0] == pytest.approx(truth(structure, gone), rel=1e-9)


def test_channels_within_a_step_are_free(structure: DependencyGraph, made: LatencyModel) -> None:
    first = next(index for index, group in enumerate(structure.groups) if group.frozen is None)
    plans = np.zeros((9, len(structure.groups)), dtype=np.int64)
    plans[:, first] = np.arange(9)
    times = made.ms(plans)
    assert (times[:8] == times[0]).all()
    assert times[8] < times[0]


def test_what_groups_should_be_multiples_of(structure: DependencyGraph, made: LatencyModel) -> None:
    units = made.preferred_multiples(structure.groups, 32).tolist()
    free = {group.name: unit for group, unit in zip(structure.groups, units, strict=True) if group.frozen is None}
    assert free == {"0": 8, "2": 8, "4": 4}, "16 channels in steps of a quarter"
    coarser = made.preferred_multiples(structure.groups, 4).tolist()
    assert all(unit <= 4 for unit in coarser)


def test_narrow_layers_are_timed_at_four_widths_whatever_wider_ones_reward(structure: DependencyGraph) -> None:
    """Steps of 32 are measured on layers of 64 channels and more: 16 channels are 4, 8, 12 and 16."""
    layers = layers_to_benchmark(structure.workload, structure.groups, lambda _layer: (32, 32))
    pointwise = [layer for layer in layers if layer.kernel == (1, 1)]
    assert {layer.out_channels for layer in pointwise} == {4, 8, 12, 16}
    assert {layer.in_channels for layer in pointwise} == {16, 32, 48, 64}


def test_calibration_reproduces_the_whole_model_either_way(made: LatencyModel) -> None:
    layers = made.predict(PrunePlan({}))
    for whole in (1.3 * layers, 0.8 * layers):
        found = made.calibrated(whole)
        assert found.predict(PrunePlan({})) == pytest.approx(whole)
        assert found.residual == pytest.approx(abs(whole - layers) / whole)
        low, high = found.interval(1.0)
        assert low == pytest.approx(1 - found.residual)
        assert high == pytest.approx(1 + found.residual)


def test_what_bounds_a_plan_by_hand(structure: DependencyGraph, made: LatencyModel) -> None:
    """10 % of the whole model's time lies between layers; of a plan, the share of the elements that are left."""
    layers = made.predict(PrunePlan({}))
    found = made.calibrated(layers / 0.9)
    whole = found.bottlenecks(PrunePlan({}), structure.groups)
    assert whole["between"] == pytest.approx(0.1)
    assert whole["fixed"] == 0.0, "every layer reads or writes channels that can go"
    gone = [0 if group.frozen else group.size - 1 for group in structure.groups]
    assert whole["least"] == pytest.approx(found.ms(np.array([gone]))[0] / found.predict(PrunePlan({})))
    assert 0 < whole["least"] < 0.3
    frozen = [dataclasses.replace(group, frozen=Freeze("recipe", "by hand")) for group in structure.groups]
    assert found.bottlenecks(PrunePlan({}), frozen)["least"] == 1.0


def test_layers_that_stay_are_told_apart(structure: DependencyGraph) -> None:
    frozen = [dataclasses.replace(group, frozen=Freeze("recipe", "by hand")) for group in structure.groups]
    times = {layer: device_ms(layer) for layer in layers_to_benchmark(structure.workload, frozen, steps)}
    made = fit_latency_model(structure.workload, frozen, steps, times)
    assert made.bottlenecks(PrunePlan({}), frozen) == {"fixed": 1.0, "between": 0.0, "least": 1.0}
