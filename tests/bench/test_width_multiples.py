"""The rule that reads steps, on invented timing tables; and the cache."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest

from compressor.bench import width_multiples as staircase
from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Timing
from compressor.bench.device.session import RunnerSession
from compressor.bench.measurement_cache import add_to_cache, cache_file, read_cache
from compressor.bench.synthetic_models import BLOCKS, residual_block
from compressor.bench.width_multiples import (
    CACHE_KEY,
    MULTIPLES,
    WIDTHS,
    coarsest_free_step,
    latency_tables,
    preferred_width_multiple,
)

HERE = cast(RunnerSession, SimpleNamespace(fingerprint="print", device=Device()))
ALL = sorted(width for widths in WIDTHS.values() for width in widths)


def table(step: int, noise: float = 0.0, seed: int = 0) -> dict[int, float]:
    """A device that computes `step` channels at a time, with a fixed cost beside."""
    rng = np.random.default_rng(seed)
    ideal = {width: 0.05 + 0.004 * math.ceil(width / step) * step for width in ALL}
    return {width: time * math.exp(noise * rng.standard_normal()) for width, time in ideal.items()}


@pytest.mark.parametrize(("step", "answer"), [(1, 1), (4, 1), (8, 1), (16, 16), (32, 32)])
def test_stairs_too_low_to_pay_for_are_left_alone(step: int, answer: int) -> None:
    """With steps of 8 a width of 75 costs what 80 does, 6 %: less than rounding is worth."""
    assert coarsest_free_step([table(step), table(step)]) == answer


@pytest.mark.parametrize("step", MULTIPLES)
def test_device_that_punishes_other_widths(step: int) -> None:
    punished = {width: time * (1.0 if width % step == 0 else 1.15) for width, time in table(1).items()}
    assert coarsest_free_step([punished]) == step


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_two_percent_does_not_hide_it(seed: int) -> None:
    steep = [{w: t * (1.2 if w % 16 else 1.0) for w, t in table(1, 0.02, seed + 50 * k).items()} for k in range(2)]
    assert coarsest_free_step(steep) == 16


def test_measured_tables_of_a_cpu_with_512_bit_vectors() -> None:
    bottleneck = {
        75: 0.234,
        90: 0.293,
        101: 0.356,
        110: 0.399,
        121: 0.463,
        76: 0.207,
        84: 0.258,
        100: 0.325,
        116: 0.397,
        72: 0.207,
        88: 0.258,
        104: 0.321,
        120: 0.393,
        80: 0.207,
        112: 0.333,
        64: 0.144,
        96: 0.255,
        128: 0.399,
    }
    basic = {
        75: 0.84,
        90: 0.984,
        101: 1.1,
        110: 1.162,
        121: 1.269,
        76: 0.725,
        84: 0.844,
        100: 0.951,
        116: 1.098,
        72: 0.72,
        88: 0.822,
        104: 0.954,
        120: 1.086,
        80: 0.722,
        112: 0.958,
        64: 0.537,
        96: 0.833,
        128: 1.078,
    }
    assert coarsest_free_step([bottleneck, basic]) == 16


def test_widths_are_sorted_by_their_largest_step() -> None:
    for step, widths in WIDTHS.items():
        for width in widths:
            assert max(each for each in MULTIPLES if width % each == 0) == step


def test_block_is_valid_and_has_the_width() -> None:
    for kind in BLOCKS:
        model = residual_block(kind, 75)
        onnx.checker.check_model(model)
        assert 75 in {tensor.dims[0] for tensor in model.graph.initializer}


def timings(factor: dict[int, float]) -> dict[tuple[str, int], Timing]:
    def timing(width: int) -> Timing:
        windows = (((width * factor.get(width % 16, 1.0)),) * 5,) * 4
        return Timing(windows, windows, 1.0, 1.0, True)

    return {(kind, width): timing(width) for kind in BLOCKS for widths in WIDTHS.values() for width in widths}


def test_answer_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = dict.fromkeys(range(1, 16), 1.3)
    monkeypatch.setattr(staircase, "time_blocks", lambda session: timings(slow))
    events: list[object] = []
    assert preferred_width_multiple(HERE, emit=lambda _name, fields: events.append(fields["cached"])) == 16
    assert read_cache(cache_file("print")) == {CACHE_KEY: 16}
    monkeypatch.setattr(staircase, "time_blocks", lambda session: pytest.fail("measured again"))
    assert preferred_width_multiple(HERE, emit=lambda _name, fields: events.append(fields["cached"])) == 16
    assert events == [False, True]
    assert cache_file("another") != cache_file("print")


def test_a_multiple_that_is_none_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(staircase, "time_blocks", lambda session: timings(dict.fromkeys(range(1, 16), 1.3)))
    add_to_cache(cache_file("print"), {CACHE_KEY: 7})
    assert preferred_width_multiple(HERE, emit=lambda _name, _fields: None) == 16
    assert read_cache(cache_file("print")) == {CACHE_KEY: 16}


def test_halves_that_disagree_give_the_coarser_and_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    steep, flat = timings(dict.fromkeys(range(1, 16), 1.3)), timings({})
    mixed = {
        block: Timing(windows, windows, 1.0, 1.0, True)
        for block in steep
        for windows in [(steep[block].cpu[0], flat[block].cpu[0]) * 2]
    }
    monkeypatch.setattr(staircase, "time_blocks", lambda session: mixed)
    assert coarsest_free_step(latency_tables(mixed, 1, "cpu")) == 1
    assert preferred_width_multiple(HERE, emit=lambda _name, _fields: None) == 16
    assert read_cache(cache_file("print")) == {}
