"""The options of a run beside its model, its recipe and its output folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.core import EventSink, ignore_event


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one run, as the command line or the caller of `compressor.compress` has them."""

    data: object = None  # --data: a folder, a file or the name of a source; or splits or samples in memory
    resume: bool = False  # continue an interrupted run
    force: bool = False  # replace the output folder of an earlier run
    trust_pickle: bool = False  # unpickle files that may contain code
    emit: EventSink = ignore_event  # receives what happens
    trainer: Callable[..., Any] | None = None  # trains with several processes; None = this process trains
    devices_file: Path | None = None  # another targets.yaml
