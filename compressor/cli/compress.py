"""`compress MODEL --recipe RECIPE`: the main form, without a command name."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compressor import __version__
from compressor.cli import distributed
from compressor.cli.commands import command_line, print_plan
from compressor.cli.help import SETTINGS, GroupedHelp, option, write_commands
from compressor.cli.options import (
    OutputOptions,
    RunArguments,
    junit_option,
    output_options,
    print_result,
    progress_on_stderr,
    result_printed_on_failure,
    run_options,
)
from compressor.output.folder import PAGE
from compressor.preflight import check_before_loading, default_folder

if TYPE_CHECKING:
    from compressor.recipe import Recipe
    from compressor.report.findings import Report


class CompressCommand(GroupedHelp):
    """The command without a name of its own; its help also lists the others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group, then the other commands.

        Args:
            ctx: The context of the command.
            formatter: What the help text is written to.
        """
        super().format_options(ctx, formatter)
        write_commands(command_line, formatter)


@click.command("compress", cls=CompressCommand, context_settings=SETTINGS)
@run_options
@option(
    "Output",
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Output folder. Default: ./MODEL-RECIPE.",
)
@option("Output", "--resume", is_flag=True, help="Finish an interrupted run; print a finished one.")
@option("Output", "--force", is_flag=True, help="Replace DIR if an earlier run wrote it.")
@option("Output", "--dry-run", is_flag=True, help="Print what would be done, as `compress plan` does.")
@option("Output", "--open", "opens", is_flag=True, help="Show the report in the browser at the end.")
@junit_option
@output_options
@option("Training", "--devices", type=int, default=1, metavar="N", help="Number of devices of this machine.")
@option("Training", "--nodes", type=int, default=1, metavar="N", help="Number of machines, each started by torchrun.")
@option("Training", "--tensorboard", type=click.Path(path_type=Path), metavar="DIR", help="Write every epoch there.")
@click.version_option(__version__, prog_name="compress")
@click.pass_context
def _compress(
    context: click.Context,
    run: RunArguments,
    output: OutputOptions,
    out: Path | None,
    resume: bool,
    force: bool,
    dry_run: bool,
    opens: bool,
    junit: Path | None,
    devices: int,
    nodes: int,
    tensorboard: Path | None,
) -> None:
    """Compress MODEL as RECIPE says: a slim ONNX model, proven and measured, and a report in DIR.

    \b
    compress cifar:resnet8x2@digits -r quickstart -o out   a first run
    compress model.pt -r auto --data samples/ -o out       a model of yours

    MODEL is a checkpoint (.pt .pth .th .ckpt .safetensors .pt2), an ONNX file, the folder of an earlier run,
    torchvision:NAME[@WEIGHTS], timm:NAME[@pretrained], cifar:NAME, hf:FOLDER, ultralytics:FILE.pt, or
    path/to/file.py:factory[@checkpoint]. A file that has the name of a command needs a path, as in ./plan.
    """
    distributed.check_process_options(devices, nodes)
    if distributed.is_helper():
        distributed.help_training()
        return
    recipe = run.read_recipe()
    if dry_run:
        print_plan(run, recipe, output)
        return
    from compressor.output.finished import finished_report

    folder = out or default_folder(run.model, run.recipe)
    with result_printed_on_failure("show_report", output, junit=junit, folder=folder):
        report = finished_report(folder, run.model, recipe) if resume else None
        if report is None:
            check_before_loading(run.model, recipe, run.data, folder, force=force)
            context.obj = folder
            report = _run(run, recipe, folder, output, tensorboard, devices, resume=resume, force=force)
    print_result(report, "show_report", output, junit=junit, folder=folder)
    if opens:
        webbrowser.open((folder / PAGE).resolve().as_uri())


compress_command: click.Command = _compress


def _run(
    run: RunArguments,
    recipe: Recipe,
    folder: Path,
    output: OutputOptions,
    tensorboard: Path | None,
    devices: int,
    *,
    resume: bool,
    force: bool,
) -> Report:
    from compressor import pipeline
    from compressor.cli.tensorboard import tensorboard_sink
    from compressor.run_options import RunOptions

    with (
        progress_on_stderr(output) as report_progress,
        tensorboard_sink(report_progress, tensorboard) as emit,
        distributed.multi_process_trainer(devices) as trainer,
    ):
        return pipeline.compress_model(
            run.model,
            recipe,
            folder,
            RunOptions(run.data, resume, force, run.trust_pickle, emit, trainer, run.target_file),
        )
