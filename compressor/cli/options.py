"""What the commands share: their options in groups, reading the recipe, and printing the result."""

from __future__ import annotations

import functools
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressor.errors import CompressorError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from compressor.recipe import Recipe

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
GROUPS = ("Input", "Output", "Device", "Training", "Measurement", "Other")
"""Headings of the help, in their order."""

Function = Callable[..., object]


class GroupedOption(click.Option):
    """An option that help lists under a heading."""

    def __init__(self, *declarations: Any, group: str, **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.group = group


class GroupedHelp(click.Command):
    """A command whose help lists the options by group, one line each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group of options.

        Args:
            ctx: The context of the command.
            formatter: What the help text is written to.
        """
        for group in GROUPS:
            options = [
                parameter
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option) and getattr(parameter, "group", "Other") == group
            ]
            rows = [row for row in (option.get_help_record(ctx) for option in options) if row is not None]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


class CommandGroup(click.Group):
    """A group of commands that answers an unknown name with the nearest known one, and lists each in a full line."""

    command_class = GroupedHelp

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names.

        Args:
            ctx: The context of the group.
            args: The words of the command line after the group's name.

        Returns:
            The name, the command, and the words that remain.

        Raises:
            RecipeError: There is no such command.
        """
        if args[0] not in self.commands:
            hint = f"{did_you_mean(args[0], self.commands)}one of: {', '.join(self.commands)}"
            raise RecipeError("usage/unknown-command", ctx.command_path, f"there is no command {args[0]}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line for each command.

        Args:
            ctx: The context of the group.
            formatter: What the help text is written to.
        """
        write_commands(self, formatter)


def write_commands(group: click.Group, formatter: click.HelpFormatter) -> None:
    """Write a section with one line for each command of a group.

    Args:
        group: The group of commands.
        formatter: What the help text is written to.
    """
    with formatter.section("Commands"):
        formatter.write_dl([(name, command.get_short_help_str(limit=100)) for name, command in group.commands.items()])


def option(group: str, *declarations: str, **attributes: Any) -> Callable[[Function], Function]:
    """Declare an option of a command.

    Args:
        group: The heading of GROUPS that help lists it under.
        declarations: The option's names.
        attributes: What click.option takes.

    Returns:
        A decorator.
    """
    return click.option(*declarations, cls=GroupedOption, group=group, **attributes)


def writable_file(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Check the folder of a file that an option asks to write.

    Args:
        context: The context of the command.
        parameter: The option.
        file: Its value.

    Returns:
        `file` itself.

    Raises:
        RecipeError: The folder does not exist.
    """
    if file is not None and not file.absolute().parent.is_dir():
        problem = f"the folder of {file} does not exist"
        raise RecipeError("usage/no-such-folder", parameter.opts[0], problem, "create it first")
    return file


target_file_option = option(
    "Device",
    "--target-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: targets.yaml, here or in ~/.config/compress.",
)
trust_option = option(
    "Input", "--trust-pickle", is_flag=True, help="Run the code in a pickled MODEL. Only for your own."
)
junit_option = option(
    "Output",
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=writable_file,
    metavar="FILE",
    help="Also write gates and proofs as JUnit XML.",
)

# ---------------------------------------------------------------- what to compress, and how


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `compress` and `compress plan` have in common."""

    model: str
    recipe: str
    data: str | None
    overrides: tuple[str, ...]
    target: str | None
    target_file: Path | None
    seed: int | None
    trust_pickle: bool

    def read_recipe(self, more: Sequence[str] = ()) -> Recipe:
        """Read and check the recipe, and check that its target is known.

        Args:
            more: Overrides `key.path=value` beyond those of the command line.

        Returns:
            The recipe with all overrides in their places.

        Raises:
            RecipeError: The recipe, an override or the target is invalid; it carries every fault.
        """
        short = {"bench.target": self.target, "seed": self.seed}
        overrides = [*self.overrides, *more, *(f"{key}={value}" for key, value in short.items() if value is not None)]
        gc.disable()  # the schema is many objects that all remain; collecting takes a tenth of the time to an error
        try:
            from compressor.recipe import read_recipe
            from compressor.recipe.device_config import find_target

            recipe = read_recipe(self.recipe, overrides)
            find_target(recipe.bench.target, self.target_file)
            return recipe
        finally:
            gc.enable()


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a command reports."""

    as_json: bool
    quiet: bool
    debug: bool


def run_options(function: Function) -> Function:
    """Add the options of RunOptions; the command gets them as the argument `run`."""
    declared = (
        click.argument("model"),
        option("Input", "-r", "--recipe", required=True, metavar="RECIPE", help="A file, or a name of `recipes ls`."),
        option("Input", "--data", metavar="PATH", help="Labelled images for retraining and accuracy."),
        option(
            "Input",
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY.PATH=VALUE",
            help="Override the recipe, such as prune.target.macs=40%.",
        ),
        option("Input", "--seed", type=int, metavar="N", help="Set the seed of the recipe."),
        trust_option,
        option("Device", "--target", metavar="NAME", help="Measure on local, none, or a name in targets.yaml."),
        target_file_option,
    )
    return _packed(function, "run", RunOptions, declared)


def output_options(function: Function) -> Function:
    """Add the options of OutputOptions; the command gets them as the argument `output`."""
    declared = (
        option("Output", "--json", "as_json", is_flag=True, help="Print the result or the error as one JSON object."),
        option("Output", "-q", "--quiet", is_flag=True, help="Print no progress."),
        option("Output", "--debug", is_flag=True, help="Print the traceback of an error."),
    )
    return _packed(function, "output", OutputOptions, declared)


def _packed(
    function: Function, name: str, record: type[Any], declared: Sequence[Callable[[Function], Function]]
) -> Function:
    """Declare options, and pass them to `function` as one `record` called `name`."""

    @functools.wraps(function)
    def command(*args: object, **options: Any) -> object:
        values = {field.name: options.pop(field.name) for field in fields(record)}
        return function(*args, **options, **{name: record(**values)})

    decorated: Function = command
    for add in reversed(declared):
        decorated = add(decorated)
    return decorated


# ---------------------------------------------------------------- the result


def print_result(result: Any, show: str, output: OutputOptions, *, junit: Path | None = None, **extra: object) -> None:
    """Print the result to stdout, as JSON or as a table.

    Args:
        result: What the command found out; plain data.
        show: Name of the function of compressor.report.terminal that prints it as a table.
        output: How to print it.
        junit: A file that gets the gates or checks of the result as well.
        extra: Further arguments of the function `show`.
    """
    if junit is not None:
        from compressor.atomic_write import write_text
        from compressor.report.junit import render

        write_text(junit, render(result))
    if output.as_json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from compressor.report import terminal

    class Out(Console):
        def on_broken_pipe(self) -> None:
            raise  # the error rich has just caught; its own answer is to exit

    getattr(terminal, show)(result, Out(), **extra)


@contextmanager
def result_printed_on_failure(show: str, output: OutputOptions, **extra: Any) -> Iterator[None]:
    """Print the result that an error carries: a gate fails after everything is written.

    Args:
        show: As `print_result` takes it.
        output: As `print_result` takes it.
        extra: As `print_result` takes it.

    Raises:
        CompressorError: Whatever the block raises.
    """
    try:
        yield
    except CompressorError as error:
        if error.report is not None:
            print_result(error.report, show, output, **extra)
        raise
