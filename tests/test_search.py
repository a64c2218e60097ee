"""The loop that measures, corrects and measures again, on an invented device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.bench.device.device import Device
from compressor.bench.device.protocol import Job, Timing
from compressor.bench.device_timer import MAX_PROCESSES, DeviceTimer, timing_conditions
from compressor.budget.greedy import Budget, retained_score
from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelSpec, PrunePlan, one_image
from compressor.criteria.magnitude import l1
from compressor.errors import TargetNotReached
from compressor.recipe import read_recipe
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.latency_probe import PRECISION, LatencyPair, OpenProbe
from compressor.steps.latency_search import AIM, HIGH, LOW, MeasuredPlan, meet_latency, next_budget, search_widths
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.training.run_fingerprint import run_fingerprint
from compressor.training.training_checkpoint import Checkpoints


class Line:
    """A surface of plans that are a number of milliseconds each, on a grid."""

    def __init__(self, whole: float = 10.0, grid: float = 0.01) -> None:
        self.whole, self.grid = whole, grid

    def predict(self, plan: PrunePlan) -> float:
        return float(plan.kept["ms"].sum()) * self.grid if plan.kept else self.whole

    def interval(self, predicted: float) -> tuple[float, float]:
        return 0.9 * predicted, 1.1 * predicted


def search(
    selection: PruningTarget, *, overhead: float, factor: float, noise: float = 0.0, least: float = 0.5,
    grid: float = 0.01, rounds: int = 8, seed: int = 0,
) -> tuple[MeasuredPlan, list[float]]:  # fmt: skip
    random = np.random.default_rng(seed)
    line, fills = Line(grid=grid), []

    def choose(budget: float) -> tuple[PrunePlan, tuple[()]]:
        if budget < least:
            raise TargetNotReached(
                "target-not-reachable/beyond-maximum", "prune.target", f"below {least} ms", "raise it"
            )
        return PrunePlan({"ms": np.ones(int(budget / grid), dtype=bool)}), ()

    def measure(plan: PrunePlan, is_enough: object) -> LatencyPair:
        slim = (overhead + factor * line.predict(plan)) * float(np.exp(noise * random.standard_normal()))
        return LatencyPair(10.0, slim, (slim, slim))

    def emit(event: str, fields: object) -> None:
        assert isinstance(fields, dict)
        fills.append(fields["fill"])

    return meet_latency(selection, choose, line, measure, dense_ms=10.0, rounds=rounds, emit=emit), fills  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.7, 0.5, 0.35])
@pytest.mark.parametrize(("overhead", "factor"), [(0.0, 1.0), (1.5, 0.85), (3.0, 0.7), (-2.0, 1.2)])
def test_a_factor_and_an_overhead_are_found_out(share: float, overhead: float, factor: float) -> None:
    found, fills = search(PruningTarget(latency=share), overhead=overhead, factor=factor)
    assert LOW <= found.utilization <= HIGH
    assert found.pair.slim == pytest.approx(found.utilization * share * 10)
    assert len(fills) <= 5


@pytest.mark.parametrize("seed", range(10))
def test_noise_of_one_percent_is_lived_with(seed: int) -> None:
    found, _ = search(PruningTarget(latency=0.5), overhead=1.0, factor=0.9, noise=0.01, seed=seed)
    assert LOW <= found.utilization <= 1


def test_milliseconds_and_the_tighter_of_two_targets() -> None:
    found, _ = search(PruningTarget(latency_ms=4.0), overhead=0.2, factor=1.0)
    assert LOW * 4 <= found.pair.slim <= 4
    found, _ = search(PruningTarget(latency=0.9, latency_ms=4.0), overhead=0.2, factor=1.0)
    assert LOW * 4 <= found.pair.slim <= 4


def test_steps_too_coarse_for_the_window_end_below_the_target() -> None:
    found, fills = search(PruningTarget(latency=0.5), overhead=0.0, factor=1.0, grid=1.5)
    assert found.pair.slim == 4.5
    assert len(fills) < 8, "the same widths are not measured again"


def test_what_cannot_be_met_says_what_came_nearest() -> None:
    with raises_error(TargetNotReached, "target-not-reachable/latency", re.compile(r"6\.0\d* ms"), "5 ms"):
        search(PruningTarget(latency=0.5), overhead=0.0, factor=1.0, least=6.0)
    # 3 + 2.5 ms are the least there is
    with raises_error(TargetNotReached, "target-not-reachable/latency", re.compile(r"5\.[56]\d* ms"), "5 ms"):
        search(PruningTarget(latency=0.5), overhead=3.0, factor=1.0, least=2.5)
    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "11.0 ms"):
        search(PruningTarget(latency=0.5), overhead=0.0, factor=1.0, least=11.0)


def test_a_prediction_that_no_plan_is_fast_enough_is_measured() -> None:
    """Of 6 ms that are predicted, 3.6 are measured."""
    best, fills = search(PruningTarget(latency=0.5), overhead=0.0, factor=0.6, least=6.0)
    assert LOW <= best.utilization <= HIGH
    assert len(fills) <= 6
    with raises_error(TargetNotReached, "target-not-reachable/beyond-maximum", "6.0 ms"):
        search(PruningTarget(latency=0.5), overhead=0.0, factor=0.6, least=6.0, rounds=0)


def test_without_rounds_nothing_is_measured() -> None:
    found, _ = search(PruningTarget(latency=0.5), overhead=9.0, factor=1.0, rounds=0)
    assert found.pair == LatencyPair(10.0, found.predicted, (0.9 * found.predicted, 1.1 * found.predicted))
    assert found.predicted <= 5.0


def test_the_line_goes_through_the_two_nearest() -> None:
    """The utilization is 0.1 + 0.2 p."""
    assert next_budget([(10.0, 2.1), (5.0, 1.1), (4.0, 0.9)]) == pytest.approx((AIM - 0.1) / 0.2)
    assert next_budget([(10.0, 2.0)]) == pytest.approx(10 * AIM / 2)


# ---------------------------------------------------------------- from a module to its widths, on an invented device


class InventedDevice:
    """Computes 16 channels at a time; what a file takes is read off its weights."""

    runtime, fingerprint = "invented 1.0", "invented"

    def __init__(self) -> None:
        self.seen: list[Path] = []

    def run(self, job: Job) -> tuple[Timing, ...]:
        self.seen += job.models
        times = [self.ms(path) for path in job.models]
        return tuple(
            Timing(((ms,) * 5,) * job.windows, ((ms,) * 5,) * job.windows, session_ms=1.0, first_run_ms=1.0, warm=True)
            for ms in times
        )

    def ms(self, path: Path) -> float:
        weights = {each.name: list(each.dims) for each in onnx.load(path).graph.initializer}
        blocks = [np.prod([-(-size // 16) * 16 for size in dims]) for dims in weights.values() if len(dims) > 1]
        return 0.05 + 1e-4 * float(sum(blocks))


@dataclasses.dataclass(frozen=True)
class InventedTarget:
    name: str = "invented"
    provider: str = "cpu"
    threads: int = 1
    clock: str = "cpu"
    device: InventedDevice = dataclasses.field(default_factory=InventedDevice)

    @contextmanager
    def open(self) -> Iterator[InventedDevice]:
        yield self.device


def net() -> nn.Module:
    torch.manual_seed(0)
    convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 64), (64, 96), (96, 64))]
    body = [each for conv in convs for each in (conv, nn.ReLU())]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(1024, 5)).eval()


def export(module: nn.Module, path: Path) -> None:
    """The weights are all the invented device looks at."""
    tensors = [onnx.numpy_helper.from_array(p.detach().numpy(), name) for name, p in module.named_parameters()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "net", [], [], tensors)), path)


Events = list[tuple[str, dict[str, object]]]


def planned_by(work: PruningState) -> PrunePlan:
    assert work.plan is not None
    return work.plan


def started(tmp_path: Path, target: InventedTarget, events: Events) -> tuple[PruningState, Context]:
    def emit(event: str, fields: object) -> None:
        assert isinstance(fields, dict)
        events.append((event, fields))

    model = LoadedModel(net(), ModelSpec("net", one_image((3, 4, 4))), "net")
    watch = DeviceTimer(target, 1, 8, {}, export, emit)  # type: ignore[arg-type]
    around = Context(None, 0, RunLog(emit=emit), Checkpoints(tmp_path, ""), latency_probe=watch)
    return initial_state(model, around), around


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_a_module_gets_the_widths_for_its_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target, events = InventedTarget(), []
    work, around = started(tmp_path, target, events)
    selection = PruningTarget(latency=share, round_to=32, allow_finer_rounding=True)
    with RunLog(tmp_path / "run.jsonl", around.log) as log:
        chosen = run_step(SelectChannels(l1, selection), work, dataclasses.replace(around, log=log))
    plan = planned_by(chosen)
    measured = [fields for event, fields in events if event == "latency"]
    assert 0.85 < float(str(measured[-1]["fill"])) <= 1, "as near as steps of 16 channels come"
    for group in chosen.groups:
        if group.name in plan.kept:
            assert plan.kept[group.name].sum() % 16 == 0, "channels within a step are kept"
    mass = retained_score(chosen.groups, l1.score_channels(work.model.module, chosen.groups), plan.kept)
    assert share < mass < 1

    assert chosen.latency is not None
    assert chosen.latency.measured
    assert chosen.latency.pair.slim == pytest.approx(measured[-1]["slim_ms"])
    timed = len(target.device.seen)
    with RunLog(tmp_path / "run.jsonl") as log:
        again = run_step(SelectChannels(l1, selection), work, dataclasses.replace(around, log=log))
    assert planned_by(again).round_to == plan.round_to
    assert all((planned_by(again).kept[name] == kept).all() for name, kept in plan.kept.items())
    assert len(target.device.seen) == timed, "a resumed run keeps its widths and measures nothing"
    with RunLog(tmp_path / "run.jsonl") as log:
        other = dataclasses.replace(around, log=log, checkpoints=Checkpoints(tmp_path, "another recipe or device"))
        run_step(SelectChannels(l1, selection), work, other)
    assert len(target.device.seen) > timed, "decisions of another run are not repeated"


def test_times_of_another_device_make_another_run() -> None:
    model = LoadedModel(net(), ModelSpec("net", one_image((3, 4, 4))), "net")
    latency, macs = "prune.target={latency: 50%}", "prune.target={macs: 50%}"
    runs = [
        (Device("a"), [macs]),
        (Device("a"), [latency]),
        (Device("a", threads=2), [latency]),
        (Device("b"), [latency]),
        (Device("b"), [latency, "bench.batch=[8]"]),
    ]
    conditions = [timing_conditions(read_recipe("l1", overrides), device) for device, overrides in runs]
    assert conditions[0] is None
    assert len({run_fingerprint({}, 32, model, None, timed_on) for timed_on in conditions}) == len(runs)


def test_more_targets_beside_the_latency_hold_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    work, around = started(tmp_path, InventedTarget(), [])
    selection = PruningTarget(
        latency=0.8, params=0.3, macs=0.6, memory=0.5, size=0.4, round_to=32, allow_finer_rounding=True
    )
    chosen = run_step(SelectChannels(l1, selection), work, around)
    cost = work.baseline.graph.cost.of(planned_by(chosen))
    assert cost.params <= 0.3 * work.baseline.cost.params
    assert cost.macs <= 0.6 * work.baseline.cost.macs


class Disagreeing(InventedDevice):
    """Every second process finds the slim model so much slower."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.orders = share, list[str]()

    def run(self, job: Job) -> tuple[Timing, ...]:
        self.orders.append("".join(path.name[0] for path in job.models))
        slow = [1 + self.share * (path.name[0] == "s") * (len(self.orders) % 2) for path in job.models]
        return tuple(
            dataclasses.replace(timing, cpu=tuple(tuple(factor * ms for ms in window) for window in timing.cpu))
            for factor, timing in zip(slow, super().run(job), strict=True)
        )


@pytest.mark.parametrize(("share", "processes"), [(0.0, 4), (0.012, 4), (0.02, 6), (0.1, MAX_PROCESSES)])
def test_processes_that_disagree_are_asked_again(tmp_path: Path, share: float, processes: int) -> None:
    """By hand for 1.2 %: of four processes Student's half-width is 3.18 * 0.69 % / 2 = 1.10 %; for 2 % it is 1.84 %,
    and of six processes half of the range of the bootstrap."""
    device = Disagreeing(share)
    watch = DeviceTimer(InventedTarget(device=device), 1, 8, {}, export, lambda _event, _fields: None)  # type: ignore[arg-type]
    with watch.open() as clock:
        pair = clock.measure_pair(net(), net())
    assert device.orders == (["ds", "sd"] * MAX_PROCESSES)[:processes], "in one process, in mirrored turn"
    assert pair.interval[0] <= pair.slim <= pair.interval[1]
    assert (pair.half_width <= PRECISION) == (processes < MAX_PROCESSES)


def test_a_plan_that_is_surely_too_slow_is_measured_no_longer() -> None:
    """Wide intervals decide when they lie beside the accepted range; within it only narrow ones do."""
    heard: list[bool] = []

    def measure(plan: PrunePlan, is_enough: Callable[[LatencyPair], bool]) -> LatencyPair:
        heard.extend(is_enough(LatencyPair(10.0, ms, (0.95 * ms, 1.05 * ms))) for ms in (7.0, 3.0, 4.9))
        return LatencyPair(10.0, 4.9, (4.88, 4.92))

    def choose(budget: float) -> tuple[PrunePlan, tuple[()]]:
        return PrunePlan({"ms": np.ones(int(budget / 0.01), dtype=bool)}), ()

    target = PruningTarget(latency=0.5)
    meet_latency(target, choose, Line(), measure, dense_ms=10.0, rounds=1, emit=lambda *_: None)  # type: ignore[arg-type]
    assert heard == [True, True, False] * 2, "the plan is accepted, and measured again"


def test_shares_are_of_the_dense_model_though_blocks_are_gone() -> None:
    """Without its blocks 14 of 20 ms are predicted and measured; half of the dense model's time is required."""

    class Predicted(Line):
        ms = preferred_multiples = None

        def bottlenecks(self, _plan: PrunePlan, _groups: object) -> dict[str, float]:
            return {}

    class Session:
        def latency_model(self, _graph: object, _module: nn.Module) -> Line:
            return Predicted(whole=14.0)

        def time(self, _module: nn.Module) -> float:
            return 20.0

    def pick(budgets: Sequence[Budget], _multiples: object) -> tuple[PrunePlan, tuple[()]]:
        return PrunePlan({"ms": np.ones(int(budgets[-1].limit / 0.01), dtype=bool)}), ()

    _, estimate = search_widths(
        PruningTarget(latency=0.5), nn.Identity(), None, pick, (),  # type: ignore[arg-type]
        baseline=nn.Identity(), probe=OpenProbe(Session()), emit=lambda *_: None,  # type: ignore[arg-type]
    )  # fmt: skip
    assert estimate.pair.dense == 20.0
    assert LOW * 10 <= estimate.pair.slim <= 10


class Slowing(InventedDevice):
    """Every process is slower than the one before it, by a tenth of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.processes = 0

    def run(self, job: Job) -> tuple[Timing, ...]:
        self.processes += 1
        slower = 0.9 + 0.1 * self.processes
        timings = super().run(job)
        return tuple(
            dataclasses.replace(timing, cpu=tuple(tuple(slower * ms for ms in window) for window in timing.cpu))
            for timing in timings
        )


def test_times_of_a_session_compare_though_the_device_slows_down(tmp_path: Path) -> None:
    device = Slowing()
    watch = DeviceTimer(InventedTarget(device=device), 1, 8, {}, export, lambda _event, _fields: None)  # type: ignore[arg-type]
    large, small = net(), nn.Conv2d(16, 16, 1)
    with watch.open() as session:
        ratio = session.time(large) / session.time(small)
        processes = device.processes
        assert session.time(large) / session.time(small) == ratio
    assert device.processes == processes, "a model is timed once"
    export(large, tmp_path / "large.onnx")
    export(small, tmp_path / "small.onnx")
    assert ratio == pytest.approx(device.ms(tmp_path / "large.onnx") / device.ms(tmp_path / "small.onnx"))


def test_a_plan_is_accepted_by_two_measurements() -> None:
    """The first plan takes 49 % at first and 53 % again: its mean is 51 %, and the next plan is measured."""
    times = iter([4.9, 5.3, 4.8, 4.9])

    def measure(_plan: PrunePlan, _is_enough: Callable[[LatencyPair], bool]) -> LatencyPair:
        slim = next(times)
        return LatencyPair(10.0, slim, (0.99 * slim, 1.01 * slim))

    def choose(budget: float) -> tuple[PrunePlan, tuple[()]]:
        return PrunePlan({"ms": np.ones(int(budget / 0.01), dtype=bool)}), ()

    best = meet_latency(
        PruningTarget(latency=0.5),
        choose,
        Line(),
        measure,
        dense_ms=10.0,
        rounds=8,
        emit=lambda *_: None,  # type: ignore[arg-type]
    )
    assert best.pair.slim == pytest.approx(4.85)
    assert best.pair.interval == pytest.approx((0.99 * 4.8, 1.01 * 4.9))
    assert best.predicted < 5 * AIM - 0.02, "the first was predicted to take 5 AIM ms"
    assert list(times) == []


def test_noise_is_corrected_from_both_sides() -> None:
    """Twenty searches with 1 % of noise: every true time is within 46 and 50.5 % of the dense model's."""
    for seed in range(20):
        best, _ = search(PruningTarget(latency=0.5), overhead=1.0, factor=0.9, noise=0.008, seed=seed)
        assert 4.6 <= 1.0 + 0.9 * best.predicted <= 5.05


def test_one_surface_serves_several_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target, events = InventedTarget(), []
    work, around = started(tmp_path, target, events)
    assert around.latency_probe is not None
    with around.latency_probe.open() as clock:
        held = dataclasses.replace(around, latency_probe=OpenProbe(clock))
        timed = []
        for share in (0.7, 0.5, 0.35):
            target_ms = PruningTarget(latency=share, round_to=32, allow_finer_rounding=True)
            state = run_step(SelectChannels(l1, target_ms), work, held)
            timed.append(len(target.device.seen))
            assert state.latency is not None
            assert not state.latency.measured
            assert set(state.latency.bottlenecks or {}) == {"fixed", "between", "least"}
    assert timed[0] > 0
    assert timed == timed[:1] * 3, "the first has timed all there is to time"
    predicted = [fields["slim_ms"] for event, fields in events if event == "latency"]
    assert predicted == sorted(predicted, reverse=True)
