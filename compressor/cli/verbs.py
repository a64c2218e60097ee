"""The verbs: questions that are answered without compressing anything, and the shipped recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.cli.options import (
    SETTINGS,
    Verbs,
    in_a_folder,
    junit_option,
    read,
    recipe_options,
    result_options,
    target_file_option,
    tell,
    told_even_if_failed,
    trust_option,
)
from compressor.cli.recipes import recipes
from compressor.errors import MeasurementUnstable, RecipeError, VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressor.recipe import Recipe


@click.group("compress", cls=Verbs, no_args_is_help=False, context_settings=SETTINGS)
def verbs() -> None:
    """The verbs; what is none of them is a model to compress."""


@verbs.command()
@click.argument("model")
@trust_option
@result_options
def inspect(model: str, trust_pickle: bool, as_json: bool, quiet: bool, debug: bool) -> None:
    """What MODEL is, what of it can be pruned, and what not and why; of an ONNX file, where it is 2:4 sparse."""
    from compressor.cli.terminal import narrator
    from compressor.verbs import inspecting

    if model.endswith(".onnx"):
        tell(inspecting.inspect_onnx(Path(model)), "show_onnx_weights", as_json=as_json)
        return

    with narrator(quiet=quiet) as emit:
        result = inspecting.inspect(model, trust_pickle=trust_pickle, emit=emit)
    tell(result, "show_inspect", as_json=as_json)


@verbs.command()
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
def plan(
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
            each: read(recipe, [*overrides, f"prune.target={{{each}}}"], target, seed, target_file)
            for each in several_targets(pareto)
        }
        tell_pareto(model, asked, figure, as_json=as_json, quiet=quiet, **how)
        return
    if figure is not None:
        raise RecipeError("usage", "--figure", str(figure), "say which targets to draw, with --pareto")
    tell_plan(model, read(recipe, overrides, target, seed, target_file), as_json=as_json, quiet=quiet, **how)


def several_targets(text: str) -> list[str]:
    """`latency=70%,50%` -> `latency: 70%` and `latency: 50%`."""
    key, equals, values = (each.strip() for each in text.partition("="))
    each = [value.strip() for value in values.split(",")]
    if not (key and equals and all(each)):
        raise RecipeError("usage", "--pareto", text, "write for example --pareto latency=70%,50%,35%")
    return [f"{key}: {value}" for value in dict.fromkeys(each)]


def tell_pareto(
    model: str, recipes: Mapping[str, Recipe], figure: Path | None, *, as_json: bool, quiet: bool, **how: Any
) -> None:
    """`compress plan --pareto`."""
    from compressor.cli.terminal import narrator
    from compressor.verbs import planning

    with narrator(quiet=quiet) as emit:
        result = planning.pareto(model, recipes, emit=emit, **how)
    if figure is not None:
        from compressor.report.page import write_pareto

        write_pareto(result, figure)
    tell(result, "show_pareto", as_json=as_json)


def tell_plan(model: str, recipe: Recipe, *, as_json: bool, quiet: bool, **how: Any) -> None:
    """`compress plan`, and `compress --dry-run`."""
    from compressor.cli.terminal import narrator
    from compressor.verbs import planning

    with told_even_if_failed("show_plan", as_json=as_json), narrator(quiet=quiet) as emit:
        result = planning.plan(model, recipe, emit=emit, **how)
    tell(result, "show_plan", as_json=as_json)


_onnx_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@verbs.command()
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
def bench(
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
    from compressor.cli.terminal import narrator
    from compressor.targets import open_target
    from compressor.verbs import benching

    device = open_target(target, threads or "auto", file=target_file)
    if device is None:
        raise RecipeError("target", "--target", target, "nothing is measured there, choose local or a device")
    with told_even_if_failed("show_bench", as_json=as_json), narrator(quiet=quiet) as emit:
        result = benching.bench(
            a, b, target=device, batch=batch, seconds=seconds, layers=layers, sustain=sustained, emit=emit
        )
    tell(result, "show_bench", as_json=as_json)
    if not result["stable"]:
        todo = "quieten the machine or give it more --seconds"
        raise MeasurementUnstable("measurement", str(a), str(result["verdict"]), todo)


@verbs.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@junit_option
@result_options
def verify(folder: Path, junit: Path | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Check an output folder again: hashes, parity, certificate, gates."""
    from compressor.cli.terminal import narrator
    from compressor.gates import failed
    from compressor.verbs import verifying

    with told_even_if_failed("show_verify", as_json=as_json), narrator(quiet=quiet) as emit:
        result = verifying.verify(folder, emit=emit)
    tell(result, "show_verify", as_json=as_json, junit=junit)
    if not result["proven"]:
        wrong = ", ".join(check["name"] for check in result["checks"] if not check["ok"])
        raise VerificationFailed("verify", str(folder), f"failed: {wrong}", "make the folder again")
    if error := failed(result["gates"]):
        raise error


verbs.add_command(recipes)
