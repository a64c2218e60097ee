"""The parts that output is made of. Findings yield them; the terminal and the page decide what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from compressor.report.svg import Figure


class Headline(NamedTuple):
    """The result in one sentence. `ok`: whether it is what a user hopes for; None = neither. `hint`: what to do."""

    text: str
    ok: bool | None = None
    hint: str = ""


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


Question: TypeAlias = Literal["Is it faster?", "What did I lose?", "Is it smaller?", "Can I trust it?"]
"""What the first screen of the page answers."""


class Card(NamedTuple):
    """One of the large numbers at the head of the page, below the question that it answers."""

    question: Question
    value: str
    label: str
    note: str
    ok: bool | None = None  # whether it is what a user hopes for; None = neither


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


Block: TypeAlias = Headline | Row | Fact | Card | Notice | Table | Figure | Section
"""A figure outside a section is a panel beside the others."""
