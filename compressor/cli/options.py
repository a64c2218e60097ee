"""What the verbs share: their options, reading the recipe, and telling the result."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compressor.errors import CompressorError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from compressor.recipe import Recipe

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_Command = TypeVar("_Command", bound=Callable[..., object])


class CommandGroup(click.Group):
    """A group whose unknown verbs are answered with the nearest known one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            hint = f"{did_you_mean(args[0], self.commands)}one of: {', '.join(self.commands)}"
            raise RecipeError("usage/unknown-command", ctx.command_path, f"there is no command {args[0]}", hint)
        return super().resolve_command(ctx, args)


def combine_options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options as one decorator; help lists them in this order."""

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


result_options = combine_options(
    click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
    click.option("-q", "--quiet", is_flag=True, help="No progress on stderr."),
    click.option("--debug", is_flag=True, help="Show the traceback of an error."),
)
trust_option = click.option(
    "--trust-pickle", is_flag=True, help="Load MODEL even if that runs code in it. Only for files you made yourself."
)
target_file_option = click.option(
    "--target-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Devices by name. Default: targets.yaml here, or in ~/.config/compress.",
)
recipe_options = combine_options(
    click.option("-r", "--recipe", required=True, metavar="RECIPE", help="A file, or a name of `compress recipes ls`."),
    click.option("--data", metavar="PATH", help="Labelled images to retrain and to measure accuracy on."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY.PATH=VALUE",
        help="Set one value of the recipe, or a whole block: 'prune.target={macs: 40%}'. VALUE is YAML. Setting "
        "prune.target.macs or .params drops a ratio the recipe has, and the other way round; setting the name of a "
        "schedule or an optimizer drops the settings the new one does not have; from ft, lrw, slr or clr, whose rate "
        "is the original training's, to another schedule or back, the learning rate goes too.",
    ),
    click.option("--target", metavar="NAME", help="Where to measure: sets bench.target (local, none or a device)."),
    target_file_option,
    click.option("--seed", type=int, metavar="N", help="Sets seed."),
)


def read_recipe_option(
    recipe: str, overrides: Sequence[str], target: str | None, seed: int | None, target_file: Path | None
) -> Recipe:
    """The checked recipe, whose target is known; `target` and `seed` are short for overrides."""
    short = {"bench.target": target, "seed": seed}
    more = [f"{key}={value}" for key, value in short.items() if value is not None]
    gc.disable()  # the schema is many objects that all stay; looking for garbage takes a tenth of the time to an error
    try:
        from compressor.recipe import read_recipe
        from compressor.recipe.device_config import find_target

        checked = read_recipe(recipe, [*overrides, *more])
        find_target(checked.bench.target, target_file)
        return checked
    finally:
        gc.enable()


def in_a_folder(context: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """For an option that names a file to write. Raises RecipeError where its folder is not there."""
    if file is not None and not file.absolute().parent.is_dir():
        raise RecipeError(
            "usage/no-such-folder", option.opts[0], f"the folder of {file} does not exist", "create it first"
        )
    return file


junit_option = click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=in_a_folder,
    metavar="FILE",
    help="Write gates and proofs there as JUnit XML, whether they hold or not.",
)


def print_result(result: Any, show: str, *, as_json: bool, junit: Path | None = None, **how: object) -> None:
    """The one thing that goes to stdout: `result` in JSON, or by the function `show` of compressor.report.terminal.

    `junit`: a file that gets the result's gates or checks as well.
    """
    if junit is not None:
        from compressor.atomic_write import write_text
        from compressor.report.junit import render

        write_text(junit, render(result))
    if as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from compressor.report import terminal

    class Out(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error rich has just caught; its own answer is to exit

    getattr(terminal, show)(result, Out(), **how)


@contextmanager
def print_result_on_gate_failure(show: str, *, as_json: bool, **how: Any) -> Iterator[None]:
    """A gate fails after everything is written: its error carries the result, which is told all the same."""
    try:
        yield
    except CompressorError as error:
        if error.report is not None:
            print_result(error.report, show, as_json=as_json, **how)
        raise
