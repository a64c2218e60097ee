"""The few shapes that all terminal output is made of: a heading, tables, labelled facts, warnings.

Names come from files of strangers: they are printed as `Text`, through `printable`, never as console markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from compressor.listed import listed
from compressor.report.blocks import Block, Fact, Headline, Notice, Row, Status, Table
from compressor.report.format import printable

GOOD, BAD, WARN, FAINT, STRONG = "green", "bold red", "yellow", "bright_black", "bold"
LABEL_WIDTH = (11, 24)  # smallest and largest number of columns
REASONS = 6  # reasons listed before the rest is only counted

Item = TypeVar("Item")


def print_heading(console: Console, name: str, steps: Sequence[str] = (), *, method: str = "") -> None:
    """Print what the output is about.

    Args:
        console: Where to print.
        name: The model or folder.
        steps: The steps of the run, in order.
        method: The pruning method.
    """
    line = Text(printable(name), STRONG)
    console.print(line.append(f"  {printable(method)}", FAINT) if method else line)
    if steps:
        console.print(Text(printable(" -> ".join(steps)), FAINT))
    console.print()


def print_blocks(console: Console, blocks: Iterable[Block]) -> None:
    """Print blocks by kind: the headline, the table that compares dense and slim, other tables, facts, warnings.

    Args:
        console: Where to print.
        blocks: Those of one kind are printed in their order; sections and figures are for the page.
    """
    blocks = list(blocks)
    for headline in (block for block in blocks if isinstance(block, Headline)):
        print_headline(console, headline)
    if rows := [block for block in blocks if isinstance(block, Row)]:
        print_table(console, Table(("", "dense", "slim", "dense / slim"), rows))
    for table in (block for block in blocks if isinstance(block, Table)):
        print_table(console, table)
    print_facts(console, (block for block in blocks if isinstance(block, Fact)))
    print_warnings(console, [block.text for block in blocks if isinstance(block, Notice)])


def print_headline(console: Console, headline: Headline) -> None:
    """Print the result in one sentence, and what to do about it.

    Args:
        console: Where to print.
        headline: The sentence.
    """
    style = {True: "bold green", False: BAD, None: STRONG}[headline.ok]
    console.print(Text(printable(headline.text), style))
    if headline.hint:
        console.print(Text(printable(headline.hint), WARN))
    console.print()


def print_table(console: Console, table: Table) -> None:
    """Print a table, its first column set to the left and the others to the right; long cells are folded.

    Args:
        console: Where to print.
        table: Headings and cells.
    """
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style=STRONG)
    for index, column in enumerate(table.columns):
        grid.add_column(Text(printable(column)), justify="right" if index else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    console.print(grid)
    console.print()


def print_facts(console: Console, facts: Iterable[Fact]) -> None:
    """Print labels and sentences in two columns.

    Args:
        console: Where to print.
        facts: In order; an empty label continues the fact above.
    """
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style=FAINT, min_width=LABEL_WIDTH[0], max_width=LABEL_WIDTH[1], overflow="fold")
    grid.add_column(overflow="fold")
    for fact in facts:
        text = Text(printable(fact.text))
        grid.add_row(Text(printable(fact.label)), text if fact.status is None else _status(fact.status) + text)
    if grid.row_count:
        console.print(grid)


def _status(status: Status) -> Text:
    """The word first, and only then the colour, says whether something holds."""
    return Text(f"{status.word}: ", GOOD) if status.ok else Text(f"{status.word.upper()}: ", BAD)


def print_warnings(console: Console, sentences: Sequence[str]) -> None:
    """Print warnings after an empty line.

    Args:
        console: Where to print.
        sentences: One warning each; nothing is printed without any.
    """
    if sentences:
        console.print()
        grid = Grid.grid(padding=(0, 2, 0, 0))
        for sentence in sentences:
            grid.add_row(Text("warning", FAINT), Text(printable(sentence), WARN))
        console.print(grid)


def runs_of_equal(items: Iterable[Item], key: Callable[[Item], object]) -> Iterator[tuple[Item, Item, int]]:
    """Group neighbours with equal keys.

    Args:
        items: In order.
        key: What neighbours of one run have in common.

    Returns:
        The first and the last item of each run, and its length.
    """
    for _, run in groupby(items, key):
        block = list(run)
        yield block[0], block[-1], len(block)


def name_range(first: str, last: str) -> str:
    """Return the names of a run of groups.

    Args:
        first: Name of the first.
        last: Name of the last.

    Returns:
        'layer1.0.conv1 .. layer1.8.conv1', or the one name.
    """
    return first if first == last else f"{first} .. {last}"


def print_frozen(console: Console, groups: Sequence[Mapping[str, str]], shares: Mapping[str, float]) -> None:
    """Print why groups are frozen: each reason once, the one with the largest share of the MACs first.

    Args:
        console: Where to print.
        groups: `name` and `reason` of every frozen group.
        shares: Reason -> % of the MACs that depend on the channels of its groups.
    """
    if not groups:
        return
    by_reason: dict[str, list[str]] = {}
    for group in groups:
        by_reason.setdefault(group["reason"], []).append(group["name"])
    heading = f"Frozen groups ({len(groups)}), by the MACs that read or write them; these shares overlap"
    console.print(Text(heading, STRONG))
    ordered = sorted(by_reason.items(), key=lambda item: -shares.get(item[0], 0.0))
    for reason, names in ordered[:REASONS]:
        share = f", {shares[reason]:.1f} % of the MACs" if reason in shares else ""
        console.print(Text(printable(f"{listed(names, 1)}{share}")).append(f": {printable(reason)}", FAINT))
    if len(by_reason) > REASONS:
        console.print(Text(f"and {len(by_reason) - REASONS} more reasons; --json lists all", FAINT))
    console.print()
