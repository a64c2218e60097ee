"""`compress MODEL --recipe RECIPE`: the main form, without a verb."""

from __future__ import annotations

import re
from pathlib import Path

import click

from compressor import __version__
from compressor.cli import distributed as processes
from compressor.cli.commands import command_line, print_plan
from compressor.cli.options import (
    SETTINGS,
    junit_option,
    print_result,
    print_result_on_gate_failure,
    read_recipe_option,
    recipe_options,
    result_options,
    trust_option,
)


class CompressCommand(click.Command):
    """The command without a verb; its help also lists the verbs."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Verbs"):
            formatter.write_dl(
                [(name, each.get_short_help_str(limit=80)) for name, each in command_line.commands.items()]
            )


@click.command("compress", cls=CompressCommand, context_settings=SETTINGS)
@click.argument("model")
@recipe_options
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: MODEL-RECIPE, here.")
@click.option("--devices", type=int, default=1, metavar="N", help="Devices of this machine to train on.")
@click.option("--nodes", type=int, default=1, metavar="N", help="Machines to train on; started by torchrun.")
@click.option("--tensorboard", type=click.Path(path_type=Path), metavar="DIR", help="Epochs for TensorBoard.")
@click.option("--resume", is_flag=True, help="Finish a run that was interrupted.")
@click.option("--force", is_flag=True, help="Replace DIR if it exists.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, as `compress plan` does.")
@trust_option
@junit_option
@result_options
@click.version_option(__version__, prog_name="compress")
@click.pass_context
def compress_command(
    context: click.Context,
    model: str,
    recipe: str,
    data: str | None,
    overrides: tuple[str, ...],
    target: str | None,
    target_file: Path | None,
    seed: int | None,
    out: Path | None,
    devices: int,
    nodes: int,
    tensorboard: Path | None,
    resume: bool,
    force: bool,
    dry_run: bool,
    trust_pickle: bool,
    junit: Path | None,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Compress MODEL as RECIPE says: a slim ONNX model, proven and measured, and a report in DIR.

    MODEL is a checkpoint (.pt .pth .th .ckpt .safetensors .pt2), a folder made by an earlier run,
    torchvision:NAME[@WEIGHTS], timm:NAME[@pretrained], cifar:NAME, or path/to/file.py:factory[@checkpoint]. A verb
    wins over a file of that name: ./plan is the file.
    """
    processes.check_process_options(devices, nodes)
    if processes.is_helper():
        processes.help_training()
        return
    checked = read_recipe_option(recipe, overrides, target, seed, target_file)
    if dry_run:
        asked = {"data": data, "trust_pickle": trust_pickle, "targets": target_file}
        print_plan(model, checked, as_json=as_json, quiet=quiet, **asked)
        return
    folder = out or default_folder(model, recipe)
    from compressor.output.folder import check_output_free

    check_output_free(folder, force=force, inputs=(model, *([data] if data else [])))
    context.obj = folder
    from compressor import pipeline
    from compressor.cli.progress import progress_reporter
    from compressor.cli.tensorboard import tensorboard_sink

    with (
        print_result_on_gate_failure("show_report", as_json=as_json, junit=junit, folder=folder),
        progress_reporter(quiet=quiet) as narrate,
        tensorboard_sink(narrate, tensorboard) as emit,
        processes.multi_process_trainer(devices) as trainer,
    ):
        report = pipeline.compress(
            model,
            checked,
            folder,
            data=data,
            resume=resume,
            force=force,
            trust_pickle=trust_pickle,
            emit=emit,
            trainer=trainer,
            targets=target_file,
        )
    print_result(report, "show_report", as_json=as_json, junit=junit, folder=folder)


def default_folder(model: str, recipe: str) -> Path:
    """`resnet56-l1` for `some/where/resnet56.pt` and `l1.yaml`."""
    name = re.sub(r"\.(pt|pth|th|ckpt|safetensors|pt2)$", "", model.rstrip("/").rpartition("/")[2])
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-{Path(recipe).stem}")
    return Path(safe.lstrip("-."))
