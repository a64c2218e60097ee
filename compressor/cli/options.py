"""What the commands share: their options in groups, reading the recipe, and printing the result."""

from __future__ import annotations

import functools
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compressor.cli.completion import complete_file, complete_recipe
from compressor.cli.help import Function, option
from compressor.errors import CompressorError, RecipeError

T = TypeVar("T")

if TYPE_CHECKING:
    from compressor.core import EventSink
    from compressor.recipe import Recipe


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
class RunArguments:
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
            RecipeError: The recipe, an override or an option is invalid; it carries every fault.
            DataError: The data of an option do not exist, and all else is valid.
        """
        short = {"bench.target": self.target, "seed": self.seed}
        overrides = [*self.overrides, *more, *(f"{key}={value}" for key, value in short.items() if value is not None)]
        gc.disable()  # the schema is many objects that all remain; collecting takes a tenth of the time to an error
        try:
            from compressor.recipe import read_recipe
            from compressor.recipe.data_location import check_data_option
            from compressor.recipe.device_config import find_target

            faults: list[CompressorError] = []
            recipe = _checked(faults, read_recipe, self.recipe, overrides)
            target = self.target if recipe is None else recipe.bench.target
            if target is not None:
                _checked(faults, find_target, target, self.target_file)
            if self.data is not None:
                _checked(faults, check_data_option, self.data)
            if faults:
                raise _with_others(*faults)
            assert recipe is not None, "it has no fault"
            return recipe
        finally:
            gc.enable()


def _checked(faults: list[CompressorError], check: Callable[..., T], *arguments: object) -> T | None:
    """What `check` returns; or None, with its faults added to `faults`."""
    try:
        return check(*arguments)
    except CompressorError as error:
        faults.append(error)
        return None


def _with_others(first: CompressorError, *others: CompressorError) -> CompressorError:
    """The first fault, which carries the others as well. Only faults of data, which come last, can carry none."""
    if not isinstance(first, RecipeError):
        return first
    return RecipeError(first.code, first.place, first.problem, first.hint, (*first.more, *others))


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a command reports."""

    as_json: bool
    quiet: bool


def run_options(function: Function) -> Function:
    """Add the options of RunArguments; the command gets them as the argument `run`."""
    declared = (
        click.argument("model", shell_complete=complete_file),
        option(
            "Input",
            "-r",
            "--recipe",
            required=True,
            metavar="RECIPE",
            shell_complete=complete_recipe,
            help="A file, or a name of `recipes ls`.",
        ),
        option(
            "Input",
            "--data",
            metavar="PATH",
            shell_complete=complete_file,
            help="Samples to recover and measure with; labels optional.",
        ),
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
    return _packed(function, "run", RunArguments, declared)


def output_options(function: Function) -> Function:
    """Add the options of OutputOptions; the command gets them as the argument `output`."""
    declared = (
        option("Output", "--json", "as_json", is_flag=True, help="Print the result or the error as one JSON object."),
        option("Output", "-q", "--quiet", is_flag=True, help="Print no progress."),
        # The handler of errors reads it from the command line itself, which the error may be about.
        option("Output", "--debug", is_flag=True, expose_value=False, help="Print the traceback of an error."),
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


# ---------------------------------------------------------------- progress and the result


@contextmanager
def progress_on_stderr(output: OutputOptions) -> Iterator[EventSink]:
    """Yield an event sink that prints progress; what users' code and libraries print meanwhile goes to stderr as well.

    Args:
        output: Whether to print progress.
    """
    from compressor.progress import progress_reporter

    with redirect_stdout(sys.stderr), progress_reporter(quiet=output.quiet) as emit:
        yield emit


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
