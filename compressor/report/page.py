"""report.html: one file with everything in it, readable offline, in light, dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from compressor.report import figures, words, words_costs
from compressor.report.figure_times import layer_times
from compressor.report.files import write_text
from compressor.report.history import IMAGES, curves
from compressor.report.plot import falls_in_powers
from compressor.report.schema import Report
from compressor.report.schema_latency import Samples


def render_page(report: Report, events: Iterable[Mapping[str, object]], samples: Samples) -> str:
    """The page's HTML: no script, no request, every name escaped."""
    here = resources.files("compressor.report")
    # `finalize` sees every expression before it is escaped: no name can bring control or bidi characters along.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else words.plain(value),
    )
    template = environment.from_string((here / "page.html.j2").read_text(encoding="utf-8"))
    history = curves(events)
    panels = (
        figures.latency(samples),
        figures.stages(report["metric_steps"], report["metric"]),
        *(figures.curve(key, f"Each epoch, on the {images}", history[key]) for key, images in IMAGES.items()),
        figures.curve("loss", "Training loss", history["loss"]),
        figures.curve("stop_value", "What the stop rule compares", history["stop_value"]),
        (figures.steps if falls_in_powers(history["lr"]) else figures.curve)("lr", "Learning rate", history["lr"]),
    )
    return template.render(
        report=report,
        words=words,
        costs=words_costs,
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        widths=figures.widths(report["layers"]),
        times=layer_times(report["layer_times"]),
        panels=[panel for panel in panels if panel is not None],
    )


def write_page(report: Report, events: Iterable[Mapping[str, object]], samples: Samples, path: Path) -> None:
    """Write report.html from report.json's contents, run.jsonl's events and the latency samples."""
    write_text(path, render_page(report, events, samples))
