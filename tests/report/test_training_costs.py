"""What is told of trainings, of what is left and of files: numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from compressor.core import Cost, TrainingCost
from compressor.report.findings import Report
from compressor.report.findings.removed_weights import describe_removed, removed_record
from compressor.report.findings.training_costs import (
    COLUMNS,
    TrainingReport,
    cost_rows,
    cost_sentences,
    training_record,
    training_savings,
)
from compressor.report.findings.weights_on_disk import disk_record
from compressor.report.html import render_page
from compressor.report.terminal import show_report

DENSE = TrainingCost("regularising", "cpu", 853_018, 128, 2, 90.0, 400.0, 600_000_000, 900.0)
SLIM = TrainingCost("retraining", "cpu", 428_074, 128, 6, 150.0, 160.0, 240_000_000, 1500.0)
WHY = "no counter, and no board"


def reported(*trainings: TrainingCost, meters: tuple[str, ...] = ("RAPL",)) -> TrainingReport:
    found = training_record(trainings, meters, WHY)
    assert found is not None
    return found


def test_trainings_are_summed_and_none_is_none() -> None:
    found = reported(DENSE, SLIM)
    assert (found["seconds"], found["energy_j"], found["meters"], found["unmeasured"]) == (240.0, 2400.0, ["RAPL"], {})
    assert [each["stage"] for each in found["trainings"]] == ["regularising", "retraining"]
    assert training_record([], ["RAPL"], WHY) is None
    assert training_record([replace(SLIM, epochs=0)], ["RAPL"], WHY) is None


def test_what_can_not_be_measured_says_why() -> None:
    blind = replace(SLIM, energy_j=None, peak_bytes=None)
    found = reported(DENSE, blind, meters=())
    assert (found["energy_j"], found["unmeasured"]["energy"]) == (None, WHY)
    assert "Linux" in found["unmeasured"]["peak memory"]
    assert [*cost_rows(found)][1][3:] == ("-", "2 min 30 s", "-")
    assert any(WHY in sentence for sentence in cost_sentences(found))
    assert reported(replace(SLIM, energy_j=None))["unmeasured"].keys() == {"energy"}


def test_the_table_of_trainings() -> None:
    rows = [*cost_rows(reported(DENSE, SLIM))]
    assert rows == [
        ("regularising, 2 epochs", "853,018", "400 ms", "600 MB", "1 min 30 s", "900 J"),
        ("retraining, 6 epochs", "428,074", "160 ms", "240 MB", "2 min 30 s", "1.50 kJ"),
        ("total, 8 epochs", "", "", "", "4 min 00 s", "2.40 kJ"),
    ]
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert len([*cost_rows(reported(SLIM))]) == 1


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (DENSE, SLIM, "40 % of the time and 40 % of the peak memory"),
        (DENSE, replace(SLIM, peak_bytes=None), "40 % of the time"),
        (DENSE, replace(SLIM, params=853_018), None),  # nothing went in between
        (DENSE, replace(SLIM, batch_size=64), None),
        (DENSE, replace(SLIM, device="cuda"), None),
        (DENSE, replace(SLIM, peak_bytes=None, batch_ms=None), None),
    ],
)
def test_how_much_cheaper_training_got(first: TrainingCost, last: TrainingCost, expected: str | None) -> None:
    savings = training_savings(reported(first, last))
    assert savings is None if expected is None else expected in str(savings)


def test_sparsities_are_shares_of_the_dense_model() -> None:
    found = removed_record(Cost(0, 0, weights=1000, nodes=80), Cost(0, 0, weights=400, nodes=60), zeros=350)
    assert found["weights"] == {"dense": 1000, "left": 50, "sparsity": 95.0}
    assert found["nodes"] == {"dense": 80, "left": 60, "sparsity": 25.0}
    assert describe_removed(found) == "95.00 % of the weights and 25.00 % of the nodes"
    assert removed_record(Cost(0, 0), Cost(0, 0), 0)["nodes"]["sparsity"] == 0.0


def test_a_file_without_zeros_needs_a_bit_for_each_entry() -> None:
    found = disk_record(4400, 4200, 4300, weights=1000, zeros=900)  # 100 floats, and 200 bytes of something else
    assert (found["dense"], found["slim"], found["sparse"]) == (4400, 4300, 4200 - 3600 + 125)
    assert disk_record(4400, 4200, 4250, weights=1000, zeros=0)["sparse"] is None
    assert disk_record(4400, 4200, 4200, weights=1000, zeros=31)["sparse"] is None  # 124 bytes won, 125 lost
    assert disk_record(4400, 4200, 600, weights=1000, zeros=900)["sparse"] is None  # the file is packed, and better


def test_terminal_and_page_tell_it(trained, capsys: pytest.CaptureFixture[str]) -> None:
    report: Report = {
        **trained.report,
        "training": reported(DENSE, replace(SLIM, energy_j=None), meters=()),
        "removed": removed_record(Cost(0, 0, weights=1000, nodes=80), Cost(0, 0, weights=400, nodes=60), 350),
        "disk": disk_record(4400, 4200, 4300, 1000, 900),
    }
    page = render_page(report, trained.result)
    for expected in ("regularising, 2 epochs", "400 ms", "600 MB", "40 % of the time", WHY, "95.00 %", "25.00 %"):
        assert expected in page
    for width in (40, 60, 80):
        show_report(report, Console(width=width))
        assert max(map(len, capsys.readouterr().out.splitlines())) <= width
