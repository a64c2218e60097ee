"""`--devices` and `--nodes`: how many processes train, and who starts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from compressor.errors import RecipeError

if TYPE_CHECKING:
    from compressor.training.loop import TrainResult

_TORCHRUN = "TORCHELASTIC_RUN_ID"  # set in every process that torchrun starts


def check_process_options(devices: int, nodes: int) -> None:
    """Check the numbers of devices and nodes.

    Args:
        devices: Value of `--devices`.
        nodes: Value of `--nodes`.

    Raises:
        RecipeError: A number is below 1, or `torchrun` has started another number of processes.
    """
    for option, count in (("--devices", devices), ("--nodes", nodes)):
        if count < 1:
            raise RecipeError("usage/not-positive", option, f"it is {count}", "give 1 or more")
    if _TORCHRUN not in os.environ:
        if nodes > 1:
            hint = f"run this on each node: torchrun --nnodes {nodes} --nproc-per-node {devices} ... -m compressor"
            raise RecipeError(
                "usage/not-under-torchrun", "--nodes", f"it is {nodes}, but torchrun did not start this process", hint
            )
        return
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    started_nodes = int(os.environ["WORLD_SIZE"]) // local
    for option, count, started in (("--devices", devices, local), ("--nodes", nodes, started_nodes)):
        if count not in (1, started):
            problem = f"it is {count}, but torchrun started {started}"
            raise RecipeError("usage/contradicts-torchrun", option, problem, "omit the option")


def is_helper() -> bool:
    """Return whether this process only helps another one to train."""
    return _TORCHRUN in os.environ and os.environ["RANK"] != "0"


def help_training() -> None:
    """Help another process to train until there is no more work."""
    from compressor.training.distributed.torchrun import follow_training

    with redirect_stdout(sys.stderr):  # the result is printed by the process that is helped
        follow_training()


@contextmanager
def multi_process_trainer(devices: int) -> Iterator[Callable[..., TrainResult] | None]:
    """Yield what trains: processes of this machine, or those that `torchrun` started; None means this one alone."""
    if _TORCHRUN in os.environ:
        from compressor.training.distributed.torchrun import lead_training

        with lead_training() as train_with_all:
            yield train_with_all
    elif devices > 1:
        from compressor.training.distributed.local import train_with_processes

        yield train_with_processes(devices)
    else:
        yield None
