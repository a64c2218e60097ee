"""The verbs: questions that are answered without compressing anything, and the shipped recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.options import (
    SETTINGS,
    CommandGroup,
    in_a_folder,
    junit_option,
    print_result,
    print_result_on_gate_failure,
    read_recipe_option,
    recipe_options,
    result_options,
    target_file_option,
    trust_option,
)
from compressor.cli.recipes import recipes_group
from compressor.errors import MeasurementUnstable, RecipeError, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressor.recipe import Recipe


@click.group("compress", cls=CommandGroup, no_args_is_help=False, context_settings=SETTINGS)
def command_line() -> None:
    """The verbs; what is none of them is a model to compress."""


@command_line.command("inspect")
@click.argument("model")
@trust_option
@result_options
def inspect_command(model: str, trust_pickle: bool, as_json: bool, quiet: bool, debug: bool) -> None:
    """What MODEL is, what of it can be pruned, and what not and why; of an ONNX file, where it is 2:4 sparse."""
    from compressor.cli.progress import progress_reporter
    from compressor.commands import inspect as inspecting

    if model.endswith(".onnx"):
        print_result(inspecting.inspect_onnx(Path(model)), "show_onnx_weights", as_json=as_json)
        return

    with progress_reporter(quiet=quiet) as emit:
        result = inspecting.inspect_model(model, trust_pickle=trust_pickle, emit=emit)
    print_result(result, "show_inspect", as_json=as_json)


@command_line.command("plan")
@click.argument("model")
@recipe_options
@click.option(
    "--pareto",
    metavar="KEY=A,B,...",
    help="A plan for each of several targets, such as latency=70%,50%,35%, instead of the recipe's own.",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=in_a_folder,
    metavar="FILE.html",
    help="With --pareto: draw them there.",
)
@trust_option
@result_options
def plan_command(
    model: str,
    recipe: str,
    data: str | None,
    overrides: tuple[str, ...],
    target: str | None,
    target_file: Path | None,
    seed: int | None,
    pareto: str | None,
    figure: Path | None,
    trust_pickle: bool,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """What RECIPE would do to MODEL, and is it worth it; trains nothing."""
    how = {"data": data, "trust_pickle": trust_pickle, "targets": target_file}
    if pareto is not None:
        asked = {
            each: read_recipe_option(recipe, [*overrides, f"prune.target={{{each}}}"], target, seed, target_file)
            for each in plan_pareto(pareto)
        }
        print_pareto(model, asked, figure, as_json=as_json, quiet=quiet, **how)
        return
    if figure is not None:
        raise RecipeError(
            "usage/figure-without-pareto",
            "--figure",
            f"{figure} is given without --pareto",
            "name the targets to draw with --pareto",
        )
    print_plan(
        model, read_recipe_option(recipe, overrides, target, seed, target_file), as_json=as_json, quiet=quiet, **how
    )


def plan_pareto(text: str) -> list[str]:
    """`latency=70%,50%` -> `latency: 70%` and `latency: 50%`."""
    key, equals, values = (each.strip() for each in text.partition("="))
    each = [value.strip() for value in values.split(",")]
    if not (key and equals and all(each)):
        raise RecipeError(
            "usage/malformed-pareto",
            "--pareto",
            f"{text!r} is not of the form KEY=A,B,...",
            "write for example --pareto latency=70%,50%,35%",
        )
    return [f"{key}: {value}" for value in dict.fromkeys(each)]


def print_pareto(
    model: str, recipes_group: Mapping[str, Recipe], figure: Path | None, *, as_json: bool, quiet: bool, **how: Any
) -> None:
    """`compress plan --pareto`."""
    from compressor.cli.progress import progress_reporter
    from compressor.commands import plan as planning

    with progress_reporter(quiet=quiet) as emit:
        result = planning.plan_several(model, recipes_group, emit=emit, **how)
    if figure is not None:
        from compressor.report.html import write_pareto

        write_pareto(result, figure)
    print_result(result, "show_pareto", as_json=as_json)


def print_plan(model: str, recipe: Recipe, *, as_json: bool, quiet: bool, **how: Any) -> None:
    """`compress plan`, and `compress --dry-run`."""
    from compressor.cli.progress import progress_reporter
    from compressor.commands import plan as planning

    with print_result_on_gate_failure("show_plan", as_json=as_json), progress_reporter(quiet=quiet) as emit:
        result = planning.plan_run(model, recipe, emit=emit, **how)
    print_result(result, "show_plan", as_json=as_json)


_onnx_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@command_line.command("bench")
@click.argument("a", metavar="A.onnx", type=_onnx_file)
@click.argument("b", metavar="[B.onnx]", type=_onnx_file, required=False)
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: what targets.yaml says, or 1.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=6.0,
    show_default=True,
    help="Measuring time of each file.",
)
@click.option("--target", metavar="NAME", default="local", show_default=True, help="Where to measure.")
@target_file_option
@click.option("--layers", is_flag=True, help="Also time each layer of both files, in a pass of its own.")
@click.option(
    "--sustained",
    type=click.FloatRange(10, 86400),
    metavar="SECONDS",
    help="Then run the last file that long without a pause, to see what heat leaves of its speed.",
)
@result_options
def bench_command(
    a: Path,
    b: Path | None,
    threads: int | None,
    batch: int,
    seconds: float,
    target: str,
    target_file: Path | None,
    layers: bool,
    sustained: float | None,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Measured latency of A.onnx; with B.onnx, of both in turn, compared."""
    from compressor.bench.open_device import open_device
    from compressor.cli.progress import progress_reporter
    from compressor.commands import bench as benching

    device = open_device(target, threads or "auto", file=target_file)
    if device is None:
        raise RecipeError(
            "target/not-measurable",
            "--target",
            f"{target} measures nothing",
            "choose local, or a device of targets.yaml",
        )
    with print_result_on_gate_failure("show_bench", as_json=as_json), progress_reporter(quiet=quiet) as emit:
        result = benching.bench_files(
            a, b, target=device, batch=batch, seconds=seconds, layers=layers, sustain=sustained, emit=emit
        )
        if not result["stable"]:
            hint = "stop other programs on the machine, or raise --seconds"
            error = MeasurementUnstable("measurement/unstable", str(a), str(result["verdict"]), hint)
            raise error.with_report(result)
    print_result(result, "show_bench", as_json=as_json)


@command_line.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@junit_option
@result_options
def verify_command(folder: Path, junit: Path | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Check an output folder again: hashes, parity, certificate, gates."""
    from compressor.cli.progress import progress_reporter
    from compressor.commands import verify as verifying
    from compressor.output.gates import first_failure

    with (
        print_result_on_gate_failure("show_verify", as_json=as_json, junit=junit),
        progress_reporter(quiet=quiet) as emit,
    ):
        result = verifying.verify_folder(folder, emit=emit)
        if not result["proven"]:
            failed = ", ".join(check["name"] for check in result["checks"] if not check["ok"])
            problem, hint = f"these checks failed: {failed}", "compress the model again"
            raise VerificationFailed("verify/check-failed", str(folder), problem, hint).with_report(result)
        if error := first_failure(result["gates"]):
            raise error.with_report(result)
    print_result(result, "show_verify", as_json=as_json, junit=junit)


command_line.add_command(recipes_group)
