"""Pages, report.html the first: one file with everything in it, readable offline, in light, dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from compressor.atomic_write import write_text
from compressor.report import figures, words, words_costs
from compressor.report.figure_pareto import pareto_figure
from compressor.report.figure_times import layer_times_figure
from compressor.report.history import IMAGES, curves
from compressor.report.plot import falls_in_powers
from compressor.report.schema import Report
from compressor.report.schema_latency import Samples
from compressor.report.schema_verbs import Pareto
from compressor.report.table_pareto import pareto_cells, pareto_headings, pareto_notes


def render_page(report: Report, events: Iterable[Mapping[str, object]], samples: Samples) -> str:
    """The page's HTML: no script, no request, every name escaped."""
    template, style = _read("page.html.j2")
    history = curves(events)
    panels = (
        figures.latency_figure(samples),
        figures.stages_figure(report["metric_steps"], report["metric"]),
        *(figures.curve_figure(key, f"Each epoch, on the {images}", history[key]) for key, images in IMAGES.items()),
        figures.curve_figure("loss", "Training loss", history["loss"]),
        figures.curve_figure("stop_value", "What the stop rule compares", history["stop_value"]),
        (figures.step_points if falls_in_powers(history["lr"]) else figures.curve_figure)(
            "lr", "Learning rate", history["lr"]
        ),
    )
    return template.render(
        report=report,
        words=words,
        costs=words_costs,
        style=style,
        widths=figures.widths_figure(report["layers"]),
        times=layer_times_figure(report["layer_times"]),
        panels=[panel for panel in panels if panel is not None],
    )


def render_pareto(found: Pareto) -> str:
    """The page of several targets, figures and table, in the same way."""
    template, style = _read("pareto.html.j2")
    parts = {"headings": pareto_headings(found), "cells": pareto_cells(found), "notes": list(pareto_notes(found))}
    return template.render(found=found, style=style, figures=pareto_figure(found), **parts)


def _read(name: str) -> tuple[Template, Markup]:
    """A page's template, and the style sheet of all."""
    here = resources.files("compressor.report")
    # `finalize` sees every expression before it is escaped: no name can bring control or bidi characters along.
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else words.plain(value),
    )
    style = Markup((here / "page.css").read_text(encoding="utf-8"))
    return environment.from_string((here / name).read_text(encoding="utf-8")), style


def write_pareto(found: Pareto, path: Path) -> None:
    """Write what `render_pareto` makes."""
    write_text(path, render_pareto(found))


def write_page(report: Report, events: Iterable[Mapping[str, object]], samples: Samples, path: Path) -> None:
    """Write report.html from report.json's contents, run.jsonl's events and the latency samples."""
    write_text(path, render_page(report, events, samples))
