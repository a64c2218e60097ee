"""run.jsonl: what happened, one JSON object a line, handed on to whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from compressor.core import Emit


class Journal:
    """An Emit that writes every event but progress ticks, and remembers warnings, notes and times."""

    def __init__(self, path: Path, emit: Emit) -> None:
        self._path, self._emit = path, emit
        self._start = time.perf_counter()
        self.warnings: list[str] = []
        self.notes: list[str] = []
        earlier = path.read_text(encoding="utf-8").splitlines() if path.exists() else []  # of a run that is resumed
        self.events: list[dict[str, object]] = [json.loads(line) for line in earlier]
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Journal:
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
