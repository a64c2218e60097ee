"""The device that a search measures on, and the times that it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import nn

from compressor.budget.latency_model import LatencyModel
from compressor.graph.dependency_graph import DependencyGraph

PRECISION = 0.012  # half-width of an interval, as a share, that decides whether a plan meets its target


@dataclass(frozen=True, slots=True)
class LatencyPair:
    """Median milliseconds of the dense and the slim model, and the interval of the slim model's."""

    dense: float
    slim: float
    interval: tuple[float, float]

    @property
    def half_width(self) -> float:
        """Half of the interval, as a share of the slim model's time."""
        low, high = self.interval
        return (high - low) / 2 / self.slim


def known_well(pair: LatencyPair) -> bool:
    """Whether the interval is narrow enough to decide whether a plan meets its target."""
    return pair.half_width <= PRECISION


def pooled(first: LatencyPair, second: LatencyPair) -> LatencyPair:
    """Pool two measurements of the same models: the mean ratio of their times, and an interval that covers both.

    Args:
        first: One measurement.
        second: The other one.

    Returns:
        The mean of the dense times, and shares of it.
    """
    dense = (first.dense + second.dense) / 2
    shares = [(pair.slim / pair.dense, *(end / pair.dense for end in pair.interval)) for pair in (first, second)]
    (first_share, *_), (second_share, *_) = shares
    low, high = min(low for _, low, _ in shares), max(high for _, _, high in shares)
    return LatencyPair(dense, (first_share + second_share) / 2 * dense, (low * dense, high * dense))


@dataclass(frozen=True, slots=True)
class LatencyEstimate:
    """The latency of a plan. `bottlenecks`: what keeps it from being lower, see `LatencyModel.bottlenecks`."""

    pair: LatencyPair
    measured: bool  # else predicted
    bottlenecks: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The estimate as the log of a run stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LatencyEstimate:
        """The estimate that `to_json` wrote."""
        pair = fields["pair"]
        interval = (pair["interval"][0], pair["interval"][1])
        return cls(LatencyPair(pair["dense"], pair["slim"], interval), fields["measured"], fields["bottlenecks"])


class DeviceSession(Protocol):
    """A device that is held for a search."""

    def latency_model(self, graph: DependencyGraph, module: nn.Module) -> LatencyModel:
        """Time the layers of a model at several widths.

        Args:
            graph: The model's graph.
            module: The model.

        Returns:
            Predicted times of plans, calibrated by the time of the whole model.
        """
        ...

    def time(self, module: nn.Module) -> float:
        """Time a model.

        Args:
            module: The model.

        Returns:
            Milliseconds, which can be compared with those of other models and of predictions in this session, however
            the speed of the machine changes meanwhile.
        """
        ...

    def measure_pair(
        self, dense: nn.Module, slim: nn.Module, is_enough: Callable[[LatencyPair], bool] = known_well
    ) -> LatencyPair:
        """Measure two models in turn.

        Args:
            dense: The model that shares are of.
            slim: The other one.
            is_enough: Whether the interval is narrow enough, or must become narrower if it can.

        Returns:
            Both times.
        """
        ...


class LatencyProbe(Protocol):
    """How a latency target is met: on which device, and by at most `rounds` measured models (0 = by predictions)."""

    @property
    def rounds(self) -> int: ...

    def open(self) -> AbstractContextManager[DeviceSession]: ...


@dataclass(frozen=True, slots=True)
class OpenProbe:
    """A probe whose device is held already, for several searches that only predict."""

    session: DeviceSession
    rounds: int = 0

    @contextmanager
    def open(self) -> Iterator[DeviceSession]:
        yield self.session


@contextmanager
def hold_device(probe: LatencyProbe | None) -> Iterator[OpenProbe | None]:
    """Hold a device for several searches.

    Args:
        probe: The device; None = nothing is measured.

    Yields:
        A probe for these searches.
    """
    if probe is None:
        yield None
    else:
        with probe.open() as session:
            yield OpenProbe(session)
