"""The few shapes all terminal output is made of: a title, a table of numbers, labelled facts, folded lists.

Names come from files of strangers: they go in as Text or through `words.plain`, never as console markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compressor.report import words
from compressor.report.schema import Frozen, FrozenMacs

GOOD, BAD, WARN, FAINT, STRONG = "green", "bold red", "yellow", "bright_black", "bold"
LABEL = (11, 18)  # fewest and most columns of a fact's label
REASONS = 6  # reasons listed before the rest is only counted

Row = TypeVar("Row")


def title(console: Console, name: str, steps: Sequence[str] = (), *, method: str = "") -> None:
    """The model's name, and under it the steps in order."""
    line = Text(words.plain(name), STRONG)
    console.print(line.append(f"  {words.plain(method)}", FAINT) if method else line)
    if steps:
        console.print(Text(words.plain(" -> ".join(steps)), FAINT))
    console.print()


def table(*columns: str) -> Table:
    """First column to the left, the others to the right; long cells fold rather than vanish."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style=STRONG)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", overflow="fold")
    return made


def facts_table(console: Console, rows: Iterable[tuple[str, Text | str]]) -> None:
    """Labels and what they say, in two columns."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style=FAINT, min_width=LABEL[0], max_width=LABEL[1], overflow="fold")
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(words.plain(label)), value if isinstance(value, Text) else Text(words.plain(value)))
    console.print(grid)


def mark_cell(ok: bool, yes: str, no: str) -> Text:
    """Says in words, and only then in colour, whether something holds."""
    return Text(yes, GOOD) if ok else Text(no, BAD)


def warnings(console: Console, sentences: Sequence[str]) -> None:
    if sentences:
        console.print()
        facts_table(console, (("warning", Text(words.plain(sentence), WARN)) for sentence in sentences))


def runs(rows: Iterable[Row], alike: Callable[[Row], object]) -> Iterator[tuple[Row, Row, int]]:
    """Neighbours that are alike, as (first, last, how many)."""
    for _, same in groupby(rows, alike):
        block = list(same)
        yield block[0], block[-1], len(block)


def span(first: str, last: str) -> Text:
    """'layer1.0.conv1 .. layer1.8.conv1', or one name."""
    return Text(words.plain(first if first == last else f"{first} .. {last}"))


def frozen(console: Console, groups: Sequence[Frozen], held: Sequence[FrozenMacs]) -> None:
    """Why groups stay whole: each reason once, with what it holds; the first would unlock most."""
    if not groups:
        return
    by_reason: dict[str, list[str]] = {}
    for group in groups:
        by_reason.setdefault(group["reason"], []).append(group["name"])
    console.print()
    console.print(Text(f"Frozen ({len(groups)} of the groups), what would unlock most first", STRONG))
    shares = {each["reason"]: each["macs_percent"] for each in held}
    ordered = sorted(by_reason.items(), key=lambda item: -shares.get(item[0], 0.0))
    for reason, names in ordered[:REASONS]:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        more += f", {shares[reason]:.1f} % of the MACs" if reason in shares else ""
        console.print(Text(words.plain(f"{names[0]}{more}")).append(f": {words.plain(reason)}", FAINT))
    if len(by_reason) > REASONS:
        console.print(Text(f"and {len(by_reason) - REASONS} more reasons; --json lists all", FAINT))
