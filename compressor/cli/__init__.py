"""The command line. Nothing heavy is imported before the words and the recipe are known to be right.

stdout carries the result and nothing else; whatever goes wrong becomes a line on stderr and an exit code.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

import click

from compressor.cli.commands import command_line
from compressor.cli.compress import compress_command
from compressor.cli.exit_report import Terminated, exit_report, one_line
from compressor.errors import did_you_mean

__all__ = ["main", "run"]


def main() -> None:
    """What the installed `compress_command` runs."""
    signal.signal(signal.SIGTERM, _terminate)
    _open_standard_streams()
    # Pydantic would read the metadata of every installed package in search of plugins: time, and others' code.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if "--debug" not in sys.argv and not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries; ours are events
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Do what `args` say and give the exit code. The first word decides: a verb, or else a model to compress."""
    command = command_line if args and args[0] in command_line.commands else compress_command
    context: click.Context | None = None
    try:
        context = command.make_context("compress", list(args))
        with context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    except BaseException as error:
        if "--debug" in args:
            traceback.print_exception(error)
        end = exit_report(error, context.obj if context else None)
        if isinstance(error, BrokenPipeError):
            # Python flushes stdout once more on its way out, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        hint = _verb_meant(args) if command is compress_command and isinstance(error, click.UsageError) else ""
        for line in end.lines:
            rest, _, todo = line.rpartition("; ")
            print(f"compress: {one_line(f'{rest}; {hint}{todo}')}", file=sys.stderr)
        return end.exit_code


def _verb_meant(args: Sequence[str]) -> str:
    """For `compress inspcet model.pt` and `compress -q plan model.pt`, whose first word is no verb."""
    late = next((word for word in args if word in command_line.commands), None)
    return (
        f"the verb comes first, compress {late}; "
        if late
        else did_you_mean(args[0] if args else "", command_line.commands)
    )


def _open_standard_streams() -> None:
    """Where the caller closed one, the next file opened would take its number, and get what libraries print."""
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(1, "w"))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(2, "w"))


def _terminate(signum: int, frame: object) -> None:
    raise Terminated
