"""The commands that answer a question without compressing anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compressor.cli.help import SETTINGS, CommandGroup, option
from compressor.cli.options import (
    OutputOptions,
    RunArguments,
    junit_option,
    output_options,
    print_result,
    progress_on_stderr,
    result_printed_on_failure,
    run_options,
    target_file_option,
    trust_option,
    writable_file,
)
from compressor.cli.recipes import recipes_group
from compressor.errors import MeasurementUnstable, RecipeError, VerificationFailed

if TYPE_CHECKING:
    from compressor.recipe import Recipe


@click.group("compress", cls=CommandGroup, no_args_is_help=False, context_settings=SETTINGS)
def command_line() -> None:
    """The commands; any other first word is a model to compress."""


@command_line.command("inspect")
@click.argument("model")
@trust_option
@output_options
def _inspect(model: str, trust_pickle: bool, output: OutputOptions) -> None:
    """Show what can be pruned; check an ONNX file for 2:4 sparsity."""
    if model.endswith(".onnx"):
        from compressor.commands import inspect_onnx

        with progress_on_stderr(output) as emit:
            onnx_result = inspect_onnx.inspect_onnx_model(Path(model), emit=emit)
        print_result(onnx_result, "show_onnx_inspect", output)
        return
    from compressor.commands import inspect

    with progress_on_stderr(output) as emit:
        result = inspect.inspect_model(model, trust_pickle=trust_pickle, emit=emit)
    print_result(result, "show_inspect", output)


@command_line.command("plan")
@run_options
@option(
    "Output",
    "--pareto",
    metavar="KEY=A,B,...",
    help="Plan for several targets instead: latency=70%,50%,35%.",
)
@option(
    "Output",
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable_file,
    metavar="FILE.html",
    help="With --pareto: draw the targets into this file.",
)
@output_options
def _plan(run: RunArguments, pareto: str | None, figure: Path | None, output: OutputOptions) -> None:
    """Predict sizes and latency of a run, without training."""
    if pareto is not None:
        recipes = {target: run.read_recipe([f"prune.target={{{target}}}"]) for target in pareto_targets(pareto)}
        print_pareto(run, recipes, figure, output)
        return
    if figure is not None:
        problem = f"{figure} is given without --pareto"
        raise RecipeError("usage/figure-without-pareto", "--figure", problem, "name the targets to draw with --pareto")
    print_plan(run, run.read_recipe(), output)


def pareto_targets(text: str) -> list[str]:
    """Split `latency=70%,50%` into `latency: 70%` and `latency: 50%`."""
    key, equals, values = (part.strip() for part in text.partition("="))
    shares = [value.strip() for value in values.split(",")]
    if not (key and equals and all(shares)):
        problem = f"{text!r} is not of the form KEY=A,B,..."
        raise RecipeError(
            "usage/malformed-pareto", "--pareto", problem, "write for example --pareto latency=70%,50%,35%"
        )
    return [f"{key}: {share}" for share in dict.fromkeys(shares)]


def print_pareto(run: RunArguments, recipes: Mapping[str, Recipe], figure: Path | None, output: OutputOptions) -> None:
    """Print a plan for each of several targets.

    Args:
        run: The options of the command line.
        recipes: The recipe for each target, by the target's text.
        figure: An HTML file to draw the plans into.
        output: How to print them.
    """
    from compressor.commands import plan

    with progress_on_stderr(output) as emit:
        result = plan.plan_several(
            run.model, recipes, data=run.data, trust_pickle=run.trust_pickle, targets=run.target_file, emit=emit
        )
    if figure is not None:
        from compressor.report.html import write_pareto

        write_pareto(result, figure)
    print_result(result, "show_pareto", output)


def print_plan(run: RunArguments, recipe: Recipe, output: OutputOptions) -> None:
    """Print what a run would do, for `compress plan` and `compress --dry-run`.

    Args:
        run: The options of the command line.
        recipe: The checked recipe.
        output: How to print it.
    """
    from compressor.commands import plan

    with result_printed_on_failure("show_plan", output), progress_on_stderr(output) as emit:
        result = plan.plan_run(
            run.model, recipe, data=run.data, trust_pickle=run.trust_pickle, targets=run.target_file, emit=emit
        )
    print_result(result, "show_plan", output)


_onnx_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@command_line.command("bench")
@click.argument("a", metavar="A.onnx", type=_onnx_file)
@click.argument("b", metavar="[B.onnx]", type=_onnx_file, required=False)
@option("Measurement", "--batch", type=click.IntRange(1), metavar="N", default=1, show_default=True, help="Batch size.")
@option(
    "Measurement",
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    metavar="S",
    default=6.0,
    show_default=True,
    help="Measuring time for each file.",
)
@option("Measurement", "--layers", is_flag=True, help="Also time each layer, in a pass of its own.")
@option(
    "Measurement",
    "--sustained",
    type=click.FloatRange(10, 86400),
    metavar="S",
    help="Then run for S seconds without a pause, to detect thermal throttling.",
)
@option("Device", "--target", metavar="NAME", default="local", show_default=True, help="Where to measure.")
@target_file_option
@option("Device", "--threads", type=click.IntRange(1, 1024), metavar="N", help="Default: as in targets.yaml, or 1.")
@output_options
def _bench(
    a: Path,
    b: Path | None,
    threads: int | None,
    batch: int,
    seconds: float,
    target: str,
    target_file: Path | None,
    layers: bool,
    sustained: float | None,
    output: OutputOptions,
) -> None:
    """Measure the latency of an ONNX file, or compare two."""
    from compressor.bench.open_device import open_device
    from compressor.commands import bench

    device = open_device(target, threads or "auto", file=target_file)
    if device is None:
        hint = "choose local, or a device of targets.yaml"
        raise RecipeError("target/not-measurable", "--target", f"{target} measures nothing", hint)
    with result_printed_on_failure("show_bench", output), progress_on_stderr(output) as emit:
        result = bench.bench_files(
            a, b, device=device, batch=batch, seconds=seconds, layers=layers, sustain=sustained, emit=emit
        )
        if not result["stable"]:
            hint = "stop other programs on the machine, or raise --seconds"
            error = MeasurementUnstable("measurement/unstable", str(a), str(result["verdict"]), hint)
            raise error.with_report(result)
    print_result(result, "show_bench", output)


@command_line.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@junit_option
@output_options
def _verify(folder: Path, junit: Path | None, output: OutputOptions) -> None:
    """Check an output folder: hashes, parity, certificate, gates."""
    from compressor.commands import verify
    from compressor.output.gates import first_failure

    with (
        result_printed_on_failure("show_verify", output, junit=junit),
        progress_on_stderr(output) as emit,
    ):
        result = verify.verify_folder(folder, emit=emit)
        if not result["proven"]:
            failed = ", ".join(check["name"] for check in result["checks"] if not check["ok"])
            problem, hint = f"these checks failed: {failed}", "compress the model again"
            raise VerificationFailed("verify/check-failed", str(folder), problem, hint).with_report(result)
        if error := first_failure(result["gates"]):
            raise error.with_report(result)
    print_result(result, "show_verify", output, junit=junit)


command_line.add_command(recipes_group)
