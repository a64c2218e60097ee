"""OpenMP's settings: what the user has set stays, the number of threads follows the machine, the waiting its load."""

from __future__ import annotations

import os

import pytest

from compressor.cli import openmp


def settings(monkeypatch: pytest.MonkeyPatch, *, granted: int, load: float, **given: str) -> dict[str, str]:
    monkeypatch.setattr(openmp, "usable_cpus", lambda: list(range(64)))
    monkeypatch.setattr(openmp, "usable_cpu_count", lambda: granted)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    environment = dict(given)
    openmp.set_openmp_defaults(environment)
    return environment


def test_a_container_of_one_cpu_on_a_large_host_starts_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, granted=1, load=0.0)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("load", [0.0, 500.0])
def test_without_a_limit_the_number_is_the_librarys_whatever_the_load(
    monkeypatch: pytest.MonkeyPatch, load: float
) -> None:
    assert "OMP_NUM_THREADS" not in settings(monkeypatch, granted=64, load=load)


def test_threads_spin_for_less_time_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, busy = (int(settings(monkeypatch, granted=4, load=load)["GOMP_SPINCOUNT"]) for load in (0.1, 3.0))
    assert 0 < busy < quiet < 300_000  # libgomp's own


@pytest.mark.parametrize(
    "given", [{"OMP_NUM_THREADS": "7"}, {"GOMP_SPINCOUNT": "infinity"}, {"OMP_WAIT_POLICY": "ACTIVE"}]
)
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    environment = settings(monkeypatch, granted=1, load=9.0, **given)
    assert given.items() <= environment.items()
    assert "OMP_WAIT_POLICY" not in given or "GOMP_SPINCOUNT" not in environment
