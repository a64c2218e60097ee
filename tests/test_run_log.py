"""run.jsonl: decisions are made once, what was cut off is dropped, notes and warnings are kept apart."""

from __future__ import annotations

import json
from pathlib import Path

from compressor.run_log import RunLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_run_repeats_its_decisions_and_computes_others(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with RunLog(path) as log:
        assert log.decision("width multiple", lambda: 16) == 16
        assert log.decision("widths", lambda: {"a": 3}) == {"a": 3}
    with RunLog(path) as log:
        assert log.decision("width multiple", lambda: 8) == 16
        assert log.decision("widths", dict) == {"a": 3}
        assert log.decision("another", lambda: 8) == 8
    assert [(event["key"], event["value"]) for event in lines(path)] == [
        ("width multiple", 16), ("widths", {"a": 3}), ("another", 8)
    ]  # fmt: skip


def test_within_one_run_a_key_is_decided_every_time() -> None:
    """`plan` searches widths for one target after another."""
    log = RunLog()
    assert [log.decision("widths", lambda number=number: number) for number in (1, 2)] == [1, 2]


def test_the_last_decision_before_the_interruption_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with RunLog(path) as log:
        log.decision("widths", lambda: 1)
        log.decision("widths", lambda: 2)
    with path.open("a") as file:
        file.write('{"event": "decision", "key": "widths", "va')
    with RunLog(path) as log:
        assert log.decision("widths", lambda: 3) == 2
    assert len(lines(path)) == 2


def test_events_are_handed_on_and_progress_is_not_written(tmp_path: Path) -> None:
    heard: list[str] = []
    with RunLog(tmp_path / "run.jsonl", lambda event, fields: heard.append(event)) as log:
        log.note("n")
        log.warning("w")
        log("progress", {"done": 1})
        with log.stage("load"):
            pass
    assert heard == ["note", "warning", "progress", "stage"]
    assert [event["event"] for event in lines(tmp_path / "run.jsonl")] == ["note", "warning", "stage"]
    assert (log.notes, log.warnings, list(log.seconds)) == (["n"], ["w"], ["load"])
