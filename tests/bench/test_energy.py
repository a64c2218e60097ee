"""Meters of energy: the counters of all boards are summed."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from compressor.bench.runner.energy import read_nvml


class Boards:
    """NVML with boards whose counters are `millijoules`; None = a board without one."""

    def __init__(self, *millijoules: int | None) -> None:
        self.millijoules = millijoules

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.millijoules)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, board: Any) -> int:
        board._obj.value = index + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, board: ctypes.c_void_p, total: Any) -> int:
        value = self.millijoules[(board.value or 0) - 1]
        total._obj.value = value or 0
        return 0 if value is not None else 3


@pytest.mark.parametrize(
    ("boards", "joules"),
    [((1_000,), 1.0), ((1_000, 20_000), 21.0), ((None, 20_000), 20.0), ((None,), None), ((), None)],
)
def test_the_counters_of_all_boards_are_summed(
    boards: tuple[int | None, ...], joules: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Boards(*boards))
    assert read_nvml() == joules
