"""What each verb prints for people: compact tables that fit 80 columns and survive a pipe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from compressor.report import plot, words
from compressor.report.schema import Bench, Inspect, LatencyRecord, OnnxWeights, Plan, Rates, Report, Risk, Verify
from compressor.report.table_times import times
from compressor.report.tables import FAINT, STRONG, facts, frozen, mark, runs, span, table, title, warnings


def show_report(report: Report, console: Console, folder: Path | None = None) -> None:
    """The result of a run: dense against slim, what was proven, what was not measured, where files are."""
    dense, slim, gain = report["dense"], report["slim"], report["ratios"]
    title(console, report["model"], report["steps"], method=report["method"])
    numbers = table("", "dense", "slim", "dense / slim")
    numbers.add_row(
        "Parameters", words.count(dense["params"]), words.count(slim["params"]), words.ratio(gain["params"])
    )
    numbers.add_row("MACs", words.count(dense["macs"]), words.count(slim["macs"]), words.ratio(gain["macs"]))
    smaller = dense["onnx_bytes"] / slim["onnx_bytes"] if slim["onnx_bytes"] else None
    numbers.add_row("ONNX file", words.size(dense["onnx_bytes"]), words.size(slim["onnx_bytes"]), words.ratio(smaller))
    before, after, metric = dense["metric"], slim["metric"], report["metric"]
    numbers.add_row(
        Text(words.plain(words.name_of(metric))),
        Text(words.plain(words.quality(before, metric))),
        Text(words.plain(words.quality(after, metric))),
        words.change(before, after, metric),
    )
    faster = words.ratio(gain["latency"], gain["latency_ci95"])
    # Cells of numbers hold brackets, which are console markup unless said otherwise.
    numbers.add_row("Latency p50", _p50(dense["latency_ms"]), _p50(slim["latency_ms"]), Text(faster))
    console.print(numbers)
    console.print()
    facts(console, _proofs(report))
    warnings(console, report["warnings"])
    if folder is not None:
        console.print()
        facts(console, [("Files", f"{folder}: model.onnx is the slim model, report.html tells more")])


def _proofs(report: Report) -> Iterable[tuple[str, Text | str]]:
    bench, surgery, onnx, groups = report["bench"], report["certificate"], report["onnx"], report["groups"]
    yield "Latency", Text(words.plain(bench["verdict"]), STRONG)
    if bench["runtime"] is not None:
        yield "", words.conditions(bench)
    metric = report["metric"]
    reached = [
        f"{stage.removeprefix('after ')} {words.quality(value, metric).removesuffix(' ' + metric['unit'])}"
        for stage, value in report["metric_steps"].items()
        if value is not None
    ]
    if reached:
        yield words.plain(f"{words.name_of(metric)} {metric['unit']}"), words.plain(" -> ".join(reached))
    if report["isometry"]:
        yield "Isometry", words.isometry(report["isometry"])
    if report["trainability"] is not None:
        yield "Trainability", words.trainability(report["trainability"])
    yield (
        "Surgery",
        mark(surgery["ok"], "proven: ", "NOT PROVEN: ").append(
            f"{words.proof(surgery['kind'])}; largest error {words.error(surgery['max_abs_error'])}, "
            f"relative {words.error(surgery['max_rel_error'])}",
            "default",
        ),
    )
    yield (
        "ONNX",
        mark(onnx["ok"], "agrees", "DISAGREES").append(
            f"{words.compared(onnx)}; largest error {words.error(onnx['max_abs_error'])}; opset {onnx['opset']}",
            "default",
        ),
    )
    sparsity = report.get("sparsity")
    if sparsity is not None:
        yield "Sparsity", words.sparsity(sparsity)
        yield "", Text(words.plain(sparsity["predicted"]))
        if sparsity["measured"] is not None:
            yield "", Text(words.plain(f"measured: {sparsity['measured']}"))
    for sentence in report["left_to_win"]:
        yield "Left to win", sentence
    quantised = report.get("int8")
    if quantised is not None:
        yield "Int8", words.plain(words.int8(quantised, metric))
    for gate in report["gates"]:
        found = f"{gate['found']}, asked: {gate['asked']}"
        yield gate["name"], mark(gate["ok"], "met: ", "NOT MET: ").append(words.plain(found), "default")
    reach = report["coverage"]
    share = f"prunable groups hold {reach['prunable_macs_percent']:.1f} % of the MACs"
    yield "Groups", f"{groups['pruned']} of {groups['total']} cut, {len(groups['frozen'])} frozen; {share}"
    for kept in reach["frozen_macs"][:1]:
        yield "Frozen most", words.plain(f"{kept['macs_percent']:.1f} % of the MACs: {kept['reason']}")
    spent = report["seconds"]
    if spent:
        stages = ", ".join(f"{stage} {words.duration(value)}" for stage, value in spent.items())
        yield "Time", f"{words.duration(sum(spent.values()))} ({stages})"


def _p50(latency: LatencyRecord | None) -> str:
    return words.milliseconds(latency["p50"] if latency else None)


def show_inspect(info: Inspect, console: Console) -> None:
    """What a model is, what of it can be pruned, and why the rest can't."""
    title(console, info["model"])
    reach = info["coverage"]
    classes = "unknown" if info["num_classes"] is None else str(info["num_classes"])
    facts(
        console,
        [
            ("Architecture", info["architecture"]),
            ("Source", info["source"]),
            ("Input", words.shapes(info["input"])),
            ("Classes", classes),
            ("Parameters", words.count(info["params"])),
            ("MACs", words.count(info["macs"])),
            (
                "Prunable",
                f"{reach['prunable_layers']} of {reach['layers']} layers, "
                f"{reach['prunable_channels']:,} of {reach['channels']:,} channels, "
                f"{reach['prunable_macs_percent']:.1f} % of the MACs",
            ),
            *(("Note", note) for note in info["notes"]),
        ],
    )
    free = [group for group in info["groups"] if group["frozen"] is None]
    if free:
        console.print()
        groups = table("prunable groups", "groups", "channels", "layers in each")
        for first, last, same in runs(free, lambda group: (group["channels"], group["layers"])):
            name = span(first["name"], last["name"])
            groups.add_row(name, str(same), str(first["channels"]), str(first["layers"]))
        console.print(groups)
    frozen(
        console,
        [{"name": each["name"], "reason": each["frozen"]} for each in info["groups"] if each["frozen"]],
        reach["frozen_macs"],
    )


def show_onnx_weights(found: OnnxWeights, console: Console) -> None:
    """Which weights of an ONNX file keep an N:M rule."""
    title(console, found["file"])
    pattern = ":".join(map(str, found["pattern"]))
    rows = table("weight", "operator", "shape", "zeros", pattern)
    for first, last, same in runs(
        found["weights"], lambda each: (each["operator"], each["shape"], each["holds"], each["reason"])
    ):
        name = span(first["name"], last["name"])
        zeros = "" if same > 1 else f"{first['zeros_percent']:.1f} %"
        rows.add_row(
            name,
            f"{same} x {first['operator']}" if same > 1 else first["operator"],
            " x ".join(map(str, first["shape"])),
            zeros,
            first["reason"] or ("yes" if first["holds"] else "no"),
        )
    console.print(rows)
    console.print()
    held, eligible = found["hold"], found["eligible"]
    facts(console, [(f"{pattern} rule", f"kept by {held} of the {eligible} weights that {found['runtime']} could use")])


def show_plan(plan: Plan, console: Console) -> None:
    """What a recipe would do, without doing it."""
    dense, slim, gain, latency = plan["dense"], plan["slim"], plan["ratios"], plan["latency"]
    title(console, plan["model"], plan["steps"], method=plan["method"])
    numbers = table("", "dense", "slim", "dense / slim")
    numbers.add_row(
        "Parameters", words.count(dense["params"]), words.count(slim["params"]), words.ratio(gain["params"])
    )
    numbers.add_row("MACs", words.count(dense["macs"]), words.count(slim["macs"]), words.ratio(gain["macs"]))
    if latency is not None:
        both = map(words.milliseconds, (latency["dense_ms"], latency["slim_ms"]))
        how = "measured" if latency["measured"] else "predicted"
        numbers.add_row(f"Latency, {how}", *both, Text(words.ratio(latency["ratio"], latency["ratio_interval"])))
    memory, least = plan["memory"], plan["least"]
    smaller = words.ratio(memory["dense"] / memory["slim"])
    numbers.add_row("Memory", words.size(memory["dense"]), words.size(memory["slim"]), smaller)
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
    facts(
        console,
        [
            ("Target", plan["target"]),
            ("Widths", "free" if plan["round_to"] == 1 else f"multiples of {plan['round_to']}"),
            *(("Training", _rates(each)) for each in plan["schedules"]),
            *([] if plan["schedules"] else [("Training", "none")]),
            ("Kept", f"{plan['kept']:.1%} of a layer's L1 norm, on average; the rest is what retraining must mend"),
            *_risk(plan["risk"]),
            ("At the least", f"{least['params']:.1%} of the parameters and {least['macs']:.1%} of the MACs can't go"),
            ("Worth it", Text(words.plain(plan["worth_it"]), STRONG)),
            *(("Sparsity", Text(words.plain(said), STRONG)) for said in (plan.get("sparsity"),) if said),
        ],
    )


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
    for line in plot.draw(training, console.width, ascii_only=console.options.ascii_only):
        console.print(Text(line), no_wrap=True)


def _rates(training: Rates) -> str:
    """'30 epochs, learning rate from epoch 0: 0.01, 20: 0.001'."""
    length = f"{training['epochs']} epoch{'s' if training['epochs'] != 1 else ''}"
    places = ", ".join(
        f"{done:.4g}: {rate if rate > 1e-15 else 0:.3g}" for done, rate in plot.turning_points(training["rates"])
    )
    return f"{length}, learning rate at epoch {places}"


def show_bench(bench: Bench, console: Console) -> None:
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
        ("Measured", words.conditions(bench)),
    ]
    if bench["control"] is not None:
        same = words.ratio(bench["control"], bench["control_ci95"])
        lines.append(("Control", f"{same}, the first file against a copy of itself"))
    if all(each.get("peak_bytes") for each in both):
        lines.append(("Memory", f"{' and '.join(words.size(each['peak_bytes'] or 0) for each in both)} at the peak"))
    if all(each.get("energy_j") for each in both):
        lines.append(("Energy", f"{' and '.join(words.energy(each['energy_j']) for each in both)} of each run"))
    if (heat := bench["sustained"]) is not None:
        ends = f"{words.milliseconds(heat['first_ms'])} at first, {words.milliseconds(heat['last_ms'])} at last"
        lines.append(("Sustained", f"{ends} of {heat['seconds']:.0f} s, {heat['percent_per_minute']:+.2f} % a minute"))
    lines += [(name, value) for name, value in bench["environment"].items()]
    facts(console, lines)
    times(console, bench)
    if not bench["stable"]:
        warnings(console, ["the measurement was not stable enough to state a ratio"])


def show_verify(result: Verify, console: Console) -> None:
    """Each check of an output folder, and whether all hold."""
    title(console, result["folder"])
    facts(
        console,
        (
            (
                each["name"],
                mark(each["ok"], "ok  ", "FAILED  ").append(words.plain(each["detail"]), "default"),
            )
            for each in result["checks"]
        ),
    )
    bad = sum(not each["ok"] for each in result["checks"])
    total = len(result["checks"])
    console.print()
    console.print(
        mark(
            result["ok"],
            f"verified: all {total} checks hold",
            f"not verified: {bad} of {total} checks failed",
        )
    )
