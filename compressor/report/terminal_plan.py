"""What plan prints for people, for one target and for several."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from compressor.report import plot, words
from compressor.report.schema_verbs import Pareto, Plan, Rates, Risk, TimeBounds
from compressor.report.table_pareto import pareto_cells, pareto_headings, pareto_notes
from compressor.report.tables import FAINT, STRONG, facts_table, frozen, runs, span, table, title


def show_plan(plan: Plan, console: Console) -> None:
    """What a recipe would do, without doing it."""
    dense, slim, gain, latency = plan["dense"], plan["slim"], plan["ratios"], plan["latency"]
    title(console, plan["model"], plan["steps"], method=plan["method"])
    numbers = table("", "dense", "slim", "dense / slim")
    numbers.add_row(
        "Parameters",
        words.format_count(dense["params"]),
        words.format_count(slim["params"]),
        words.ratio(gain["params"]),
    )
    numbers.add_row(
        "MACs", words.format_count(dense["macs"]), words.format_count(slim["macs"]), words.ratio(gain["macs"])
    )
    if latency is not None:
        both = map(words.milliseconds, (latency["dense_ms"], latency["slim_ms"]))
        how = "measured" if latency["measured"] else "predicted"
        numbers.add_row(f"Latency, {how}", *both, Text(words.ratio(latency["ratio"], latency["ratio_interval"])))
    memory, least = plan["memory"], plan["least"]
    smaller = words.ratio(memory["dense"] / memory["slim"])
    numbers.add_row("Memory", words.format_bytes(memory["dense"]), words.format_bytes(memory["slim"]), smaller)
    console.print(numbers)
    console.print()
    cuts = table("groups to cut", "groups", "channels", "left", "share left")
    changed = (group for group in plan["groups"] if group["after"] != group["before"])
    for first, last, same in runs(changed, lambda group: (group["before"], group["after"])):
        before, after = first["before"], first["after"]
        share = f"{100 * after / before:.0f} %"
        cuts.add_row(span(first["name"], last["name"]), str(same), str(before), str(after), share)
    console.print(cuts)
    frozen(console, plan["frozen"], plan["coverage"]["frozen_macs"])
    for training in plan["schedules"]:
        _drawn(console, training)
    console.print()
    facts_table(
        console,
        [
            ("Target", plan["target"]),
            ("Widths", "free" if plan["round_to"] == 1 else f"multiples of {plan['round_to']}"),
            *(("Training", _rates(each)) for each in plan["schedules"]),
            *([] if plan["schedules"] else [("Training", "none")]),
            ("Kept", f"{plan['kept']:.1%} of a layer's L1 norm, on average; the rest is what retraining must mend"),
            *_risk(plan["risk"]),
            ("At the least", f"{least['params']:.1%} of the parameters and {least['macs']:.1%} of the MACs can't go"),
            *_limits(plan["bounds"]),
            ("Worth it", Text(words.plain(plan["worth_it"]), STRONG)),
            *(("Sparsity", Text(words.plain(said), STRONG)) for said in (plan.get("sparsity"),) if said),
        ],
    )


def show_pareto(found: Pareto, console: Console) -> None:
    """One row for each target, and why the others can't be met."""
    title(console, found["model"], method=found["method"])
    rows = table(*pareto_headings(found))
    for row in pareto_cells(found):
        rows.add_row(*(Text(words.plain(cell)) for cell in row))
    console.print(rows)
    console.print()
    facts_table(console, pareto_notes(found))


def _limits(bounds: TimeBounds | None) -> Iterable[tuple[str, str]]:
    if bounds is not None:
        parts = f"{bounds['between']:.0%} between layers, {bounds['fixed']:.0%} in layers that can't become narrower"
        yield "Limited by", f"{bounds['least']:.1%} of the time can't go; of what is predicted, {parts}"


def _risk(risk: Risk | None) -> Iterable[tuple[str, str]]:
    if risk is not None:
        change = f"{risk['metric']} {risk['dense']:.4g} -> {risk['slim']:.4g}"
        yield "Untrained", f"{change} on a few {risk['split']} images, statistics of norms estimated anew"


def _drawn(console: Console, training: Rates) -> None:
    """The schedule as a figure; its numbers are among the facts."""
    console.print()
    heading = Text("learning rate by epoch", STRONG).append(f", {words.plain(training['step'])}", FAINT)
    scale = "log scale" if plot.falls_in_powers(training["rates"]) else "linear scale"
    console.print(heading.append(f", {scale}", FAINT))
    for line in plot.draw_plot(training, console.width, ascii_only=console.options.ascii_only):
        console.print(Text(line), no_wrap=True)


def _rates(training: Rates) -> str:
    """'30 epochs, learning rate from epoch 0: 0.01, 20: 0.001'."""
    length = f"{training['epochs']} epoch{'s' if training['epochs'] != 1 else ''}"
    places = ", ".join(
        f"{done:.4g}: {rate if rate > 1e-15 else 0:.3g}" for done, rate in plot.turning_points(training["rates"])
    )
    return f"{length}, learning rate at epoch {places}"
