"""run.jsonl: what happened in a run, one JSON object per line, for people and for `--resume`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

from compressor.core import EventSink, ignore_event

DECISION = "decision"
T = TypeVar("T")


class RunLog:
    """An EventSink that writes all events except progress to a file, and hands all of them on.

    What a resumed run must decide as the interrupted run did goes through `decision`. Nothing else is read back.
    """

    def __init__(self, path: Path | None = None, emit: EventSink = ignore_event) -> None:
        self._path, self._emit = path, emit
        self._file: TextIO | None = None
        self._start = time.perf_counter()
        self.events: list[dict[str, Any]] = [] if path is None else _earlier_events(path)
        self._decisions = {event["key"]: event["value"] for event in self.events if event["event"] == DECISION}
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> RunLog:
        if self._path is not None:
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        if event == "warning":
            self.warnings.append(str(fields["text"]))
        if event == "note":
            self.notes.append(str(fields["text"]))
        if event != "progress":
            entry = {"event": event, "at": round(time.perf_counter() - self._start, 3), **fields}
            self.events.append(entry)
            if self._file is not None:
                self._file.write(json.dumps(entry) + "\n")
        self._emit(event, fields)

    def note(self, text: str) -> None:
        """Log something that the user should know."""
        self("note", {"text": text})

    def warning(self, text: str) -> None:
        """Log something that is probably not what the user wants."""
        self("warning", {"text": text})

    def decision(self, key: str, compute: Callable[[], T]) -> T:
        """Decide as the interrupted run did, or compute and record the decision.

        Args:
            key: What is decided; unique within a run.
            compute: Makes the decision, which JSON can hold.

        Returns:
            The decision that the resumed run recorded under this key, else the result of `compute`.
        """
        if key in self._decisions:
            recorded: T = self._decisions[key]
            return recorded
        value = compute()
        self(DECISION, {"key": key, "value": value})
        return value

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Log the beginning of a stage, and measure how long it takes."""
        self("stage", {"name": name})
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _earlier_events(path: Path) -> list[dict[str, Any]]:
    """Events of the run that is resumed. A last line that a kill or a full disk has cut off is removed."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    os.truncate(path, end)
    return [json.loads(line) for line in content[:end].splitlines()]
