"""Progress on stderr: a bar with the remaining time on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from compressor.core import EventSink, ignore_event

Fields = Mapping[str, object]


@contextmanager
def progress_reporter(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[EventSink]:
    """Yield an event sink that prints progress; the bar disappears when the block ends.

    It prints the events stage {name}, epoch {epoch, and any key of _FORMATS}, metric {stage, metric, unit, and the
    value under the metric's name}, progress {done, total, what}, note {text} and warning {text}; others are only
    logged.

    Args:
        quiet: Whether to print nothing.
        stream: What to print to; standard error by default.
    """
    stream = sys.stderr if stream is None else stream
    if quiet:
        yield ignore_event
    elif stream.isatty():
        with _bars(stream) as emit:
            yield emit
    else:
        yield _lines(stream)


def _lines(stream: TextIO) -> EventSink:
    began = time.monotonic()

    def _emit(event: str, fields: Fields) -> None:
        line = _line(event, fields)
        if line is not None:
            # The reader of the lines may close the pipe; the run continues.
            with suppress(BrokenPipeError):
                print(f"[{time.monotonic() - began:7.1f}s] {line}", file=stream, flush=True)

    return _emit


@contextmanager
def _bars(stream: TextIO) -> Iterator[EventSink]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TimeRemainingColumn(),
        TextColumn("{task.fields[measured]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream), transient=True, expand=True) as progress:
        bar, last = None, ""  # the measurements after the last epoch

        def _advance(what: str, done: float, total: float, measured: str = "") -> None:
            nonlocal bar
            bar = progress.add_task(what, measured=measured) if bar is None else bar
            progress.update(bar, description=what, completed=done, total=total, measured=measured)

        def _emit(event: str, fields: Fields) -> None:
            nonlocal bar, last
            line = _line(event, fields)
            if line is not None:
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            match event:
                case "stage":
                    if bar is not None:
                        progress.remove_task(bar)
                    bar, last = None, ""
                case "epoch":
                    last = _formatted(fields, _MEASURED)
                case "progress" if "epoch" in fields:  # one bar for all epochs, so that it shows the time to the end
                    done = _number(fields["epoch"]) - 1 + _number(fields["done"]) / _number(fields["total"])
                    now = _formatted(fields, _NOW, " ")
                    _advance(str(fields["what"]), done, _number(fields["epochs"]), f"{now} {last}".rstrip())
                case "progress":
                    _advance(str(fields["what"]), _number(fields["done"]), _number(fields["total"]))

        yield _emit


def _line(event: str, fields: Fields) -> str | None:
    """Return the event as one line; None for an event that is only shown as a bar, or not at all."""
    match event:
        case "stage":
            return str(fields["name"])
        case "epoch":
            return _epoch(fields)
        case "metric":
            value = _number(fields[str(fields["metric"])])
            text = f"{value:.2f} %" if fields["unit"] == "%" else f"{value:.4g} {fields['unit']}".strip()
            return f"  {fields['metric']} {text} ({fields['stage']})"
        case "note":
            return f"  {fields['text']}"
        case "warning":
            return f"  warning: {fields['text']}"
    return None


_FORMATS: Mapping[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.4f}",
    "lr": lambda value: f"lr {value:.3g}",
    "held_out": lambda value: f"held out {value:.4g}",
    "train_sample": lambda value: f"training sample {value:.4g}",
    "stop_value": lambda value: f"stop rule {value:.3g}",
    "images_per_second": lambda value: f"{value:,.0f} images/s",
    "seconds": lambda value: f"{value:.1f} s",
}
_MEASURED = ("held_out", "train_sample")
_NOW = ("loss", "lr", "images_per_second")


def _epoch(fields: Fields) -> str:
    of = f"/{fields['epochs']}" if "epochs" in fields else ""
    return f"  epoch {fields['epoch']}{of}  {_formatted(fields, tuple(_FORMATS))}".rstrip()


def _formatted(fields: Fields, keys: Sequence[str], between: str = "  ") -> str:
    return between.join(_FORMATS[key](_number(fields[key])) for key in keys if fields.get(key) is not None)


def _number(value: object) -> float:
    assert isinstance(value, int | float), f"an event's field is {value!r}, not a number"
    return value
