"""The parts that output is made of. Findings yield them; the terminal and the page decide what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from compressor.report.svg import Figure


class Row(NamedTuple):
    """A row of the table that compares the dense with the slim model."""

    label: str
    dense: str
    slim: str
    change: str


class Status(NamedTuple):
    """Whether something holds, and the word for it, such as 'met' or 'not met'."""

    ok: bool
    word: str


class Fact(NamedTuple):
    """A labelled sentence; an empty label continues the fact above."""

    label: str
    text: str
    status: Status | None = None


class Card(NamedTuple):
    """One of the large numbers at the head of the page."""

    value: str
    label: str
    note: str


class Notice(NamedTuple):
    """A sentence to read before the model is used; a severe one says that it should not be used."""

    text: str
    severe: bool = False


class Table(NamedTuple):
    """Rows under column headings. On the page, a `summary` folds the table, and `facts` are aligned to the left."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    summary: str = ""
    facts: bool = False


class Section(NamedTuple):
    """A part of the page under a heading: paragraphs, figures, tables. A `half` needs half of the page's width."""

    title: str
    parts: Sequence[str | Table | Figure]
    half: bool = False


Block: TypeAlias = Row | Fact | Card | Notice | Table | Figure | Section
"""A figure outside a section is a panel beside the others."""
