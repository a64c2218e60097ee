"""The command line. Nothing heavy is imported before the arguments and the recipe are checked.

stdout carries the result and nothing else. A failure is a line on stderr and an exit code, with `--json` also an object
`{"error": ...}` on stdout if there is no result.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

import click

from compressor.cli import completion
from compressor.cli.commands import command_line
from compressor.cli.compress import compress_command
from compressor.cli.distributed import is_helper
from compressor.cli.exit_report import Terminated, as_compressor_error, as_json, one_line
from compressor.cli.openmp import set_openmp_defaults
from compressor.cli.standard_streams import open_standard_streams, stdout_reserved
from compressor.errors import did_you_mean

__all__ = ["main", "run"]

GC_THRESHOLD = 10_000  # objects; at Python's 700 the import of torch spends 0.4 s of CPU in collections


def main() -> None:
    """Run the installed program `compress`."""
    gc.set_threshold(GC_THRESHOLD)
    signal.signal(signal.SIGTERM, _terminate)
    open_standard_streams()
    set_openmp_defaults()
    # Pydantic would read the metadata of every installed package in search of plugins: time, and others' code.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if "--debug" not in sys.argv and not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries; ours are events
    with stdout_reserved():
        code = completion.complete(command_line, compress_command) if completion.VARIABLE in os.environ else None
        if code is None:
            code = run(sys.argv[1:])
    gc.freeze()  # else Python's last collections visit every object of the libraries: 1.5 s of CPU after a run
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run a command line and return the exit code. The first word decides: a command, or else a model to compress."""
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
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell reports for a program whose reader has left
    except BaseException as error:
        if "--debug" in args:
            traceback.print_exception(error)
        usage_hint = _command_meant(args) if command is compress_command else ""
        failure = as_compressor_error(error, context.obj if context else None, usage_hint)
        for fault in failure.errors:
            print(f"compress: {one_line(str(fault))}", file=sys.stderr)
        if "--json" in args and failure.report is None and not is_helper():
            print(json.dumps(as_json(failure), indent=2))
        return failure.exit_code


def _command_meant(args: Sequence[str]) -> str:
    """Return a hint for `compress inspcet model.pt`, `compress list` and `compress -q plan model.pt`."""
    late = next((word for word in args if word in command_line.commands), None)
    if late:
        return f"the command comes first, compress {late}; "
    if near := did_you_mean(args[0] if args else "", command_line.commands):
        return near
    is_word = bool(args) and args[0].isalpha() and not os.path.exists(args[0])
    return f"there is no command {args[0]} among {', '.join(command_line.commands)}; " if is_word else ""


def _terminate(signum: int, frame: object) -> None:
    raise Terminated
