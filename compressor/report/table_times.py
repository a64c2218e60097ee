"""Where the time goes, on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from compressor.report import words
from compressor.report.schema_latency import BenchResult
from compressor.report.tables import FAINT, facts_table, span, table

MOST = 12  # rows


def layer_times_table(console: Console, bench: BenchResult) -> None:
    """The layers that take longest, and what is left to win."""
    if not bench["layer_times"]:
        return
    longest = sorted(bench["layer_times"], key=lambda each: -max(each["before_us"] or 0, each["after_us"] or 0))
    rows = table("where the time goes", *bench["files"], "ratio")
    for each in longest[:MOST]:
        before, after = each["before_us"], each["after_us"]
        ratio = words.ratio(before / after if before and after else None)
        rows.add_row(span(each["name"], each["name"]), words.microseconds(before), words.microseconds(after), ratio)
    console.print()
    console.print(rows)
    if len(longest) > MOST:
        console.print(Text(f"and {len(longest) - MOST} more rows; --json lists all", FAINT))
    facts_table(console, (("Left to win", sentence) for sentence in bench["left_to_win"]))
