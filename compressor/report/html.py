"""report.html and the page of several targets: one file each, readable offline, in light, dark and on paper."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import TypeVar, get_args

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from compressor.atomic_write import write_text
from compressor.report.blocks import Card, Fact, Headline, Notice, Question, Row, Section, Table
from compressor.report.findings import Report, findings
from compressor.report.format import NOTHING, format_shape, printable
from compressor.report.pareto_result import Pareto, pareto_facts, pareto_figures, pareto_table
from compressor.report.run_result import RunResult
from compressor.report.svg import Figure

Kind = TypeVar("Kind", bound=Headline | Row | Fact | Card | Notice | Table | Figure | Section)


def render_page(report: Report, run: RunResult) -> str:
    """Return report.html: every finding, without a script or a request, every name escaped.

    Args:
        report: Report.json.
        run: The run it reports.
    """
    blocks = [block for finding in findings() for block in (*finding.page(report), *finding.figures(run))]

    def of(kind: type[Kind]) -> list[Kind]:
        return [block for block in blocks if isinstance(block, kind)]

    notices, sections, cards = of(Notice), of(Section), of(Card)
    panels = of(Figure)
    answers = {question: [card for card in cards if card.question == question] for question in get_args(Question)}
    return _render(
        "page.html.j2",
        report=report,
        shape=format_shape(report["architecture"]["input"]),
        failures=[notice.text for notice in notices if notice.severe],
        warnings=[notice.text for notice in notices if not notice.severe],
        headlines=of(Headline),
        answers={question: group for question, group in answers.items() if group},
        rows=of(Row),
        facts=of(Fact),
        sections=[section for section in sections if not section.half],
        halves=[section for section in sections if section.half],
        pictures=[panel for panel in panels if panel.first],
        panels=[panel for panel in panels if not panel.first],
    )


def render_pareto(pareto: Pareto) -> str:
    """Return the page of several targets: figures and a table."""
    return _render(
        "pareto.html.j2",
        pareto=pareto,
        figures=pareto_figures(pareto),
        table=pareto_table(pareto),
        facts=list(pareto_facts(pareto)),
    )


def _render(name: str, **values: object) -> str:
    """A template of this package, filled in; all share one style sheet."""
    folder = resources.files("compressor.report")
    templates = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name.endswith(".j2")}
    # `finalize` sees every expression before it is escaped: no name can bring control or bidi characters along.
    environment = Environment(
        autoescape=True,
        loader=DictLoader(templates),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    environment.filters["typeset"] = typeset
    style = Markup((folder / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(name).render(style=style, **values)


def typeset(text: str) -> str:
    """Replace the ASCII signs of the terminal by typographic ones: 1.60x -> 1.60×, -0.5 -> −0.5, -> by an arrow."""
    text = re.sub(r"(?<=\d)x\b", "×", text.replace("->", "→"))
    return re.sub(r"(?<![\w.])-(?=\d)", "−", "–" if text == NOTHING else text)


def write_page(report: Report, run: RunResult, path: Path) -> None:
    """Write report.html.

    Args:
        report: Report.json.
        run: The run it reports.
        path: The file.
    """
    write_text(path, render_page(report, run))


def write_pareto(pareto: Pareto, path: Path) -> None:
    """Write the page of several targets.

    Args:
        pareto: The result of `compress plan --pareto`.
        path: The file.
    """
    write_text(path, render_pareto(pareto))
