"""run.jsonl: what happened, one JSON object a line, handed on to whoever watches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from compressor.core import EventSink


class RunLog:
    """An Emit that writes every event but progress ticks, and remembers warnings, notes and times."""

    def __init__(self, path: Path, emit: EventSink) -> None:
        self._path, self._emit = path, emit
        self._start = time.perf_counter()
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.events: list[dict[str, object]] = _earlier(path)
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> RunLog:
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, event: str, fields: Mapping[str, object]) -> None:
        if event == "warning":
            self.warnings.append(str(fields["text"]))
        if event == "note":
            self.notes.append(str(fields["text"]))
        if event != "progress":
            entry = {"event": event, "at": round(time.perf_counter() - self._start, 3), **fields}
            self.events.append(entry)
            self._file.write(json.dumps(entry) + "\n")
        self._emit(event, fields)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tells of the stage, and notes how long it took."""
        self("stage", {"name": name})
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _earlier(path: Path) -> list[dict[str, object]]:
    """Events of the run that is resumed; a last line that a kill or a full disk cut off is removed."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    os.truncate(path, whole)
    return [json.loads(line) for line in content[:whole].splitlines()]
