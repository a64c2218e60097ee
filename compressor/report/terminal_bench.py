"""What bench prints for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from compressor.report import words
from compressor.report.schema_latency import BenchResult
from compressor.report.table_times import layer_times_table
from compressor.report.tables import STRONG, facts_table, span, table, warnings


def show_bench(bench: BenchResult, console: Console) -> None:
    """Latency of one file, or of two measured in turn. A ratio never goes without its interval."""
    both = [each for each in (bench["a"], bench["b"]) if each is not None]
    rows = table("", "p50", "95 % interval", "p90", "p99", "runs", "cold start")
    for name, each in zip(bench["files"], both, strict=True):
        around = each["ci95"]
        rows.add_row(
            span(name, name),
            words.milliseconds(each["p50"]),
            " to ".join(map(words.significant, around)) if around else words.NOTHING,
            words.milliseconds(each["p90"]),
            words.milliseconds(each["p99"]),
            f"{each['n']:,}",
            words.milliseconds(each["cold_start_ms"]),
        )
    console.print(rows)
    console.print()
    lines: list[tuple[str, Text | str]] = [
        ("Verdict", Text(words.plain(bench["verdict"]), STRONG)),
        ("Measured", words.describe_measurement(bench)),
    ]
    if bench["control"] is not None:
        same = words.ratio(bench["control"], bench["control_ci95"])
        lines.append(("Control", f"{same}, the first file against a copy of itself"))
    if all(each.get("peak_bytes") for each in both):
        lines.append(
            ("Memory", f"{' and '.join(words.format_bytes(each['peak_bytes'] or 0) for each in both)} at the peak")
        )
    if all(each.get("energy_j") for each in both):
        lines.append(("Energy", f"{' and '.join(words.energy(each['energy_j']) for each in both)} of each run"))
    if (heat := bench["sustained"]) is not None:
        ends = f"{words.milliseconds(heat['first_ms'])} at first, {words.milliseconds(heat['last_ms'])} at last"
        lines.append(("Sustained", f"{ends} of {heat['seconds']:.0f} s, {heat['percent_per_minute']:+.2f} % a minute"))
    lines += [(name, value) for name, value in bench["environment"].items()]
    facts_table(console, lines)
    layer_times_table(console, bench)
    if not bench["stable"]:
        warnings(console, ["the measurement was not stable enough to state a ratio"])
