"""`--devices` and `--nodes`: how many processes train, and who starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compressor.errors import RecipeError

if TYPE_CHECKING:
    from compressor.training.loop import TrainResult

_TORCHRUN = "TORCHELASTIC_RUN_ID"  # in the environment of what torchrun starts


def check_process_options(devices: int, nodes: int) -> None:
    """Raises RecipeError for what can't be had, or what `torchrun` was told otherwise."""
    for option, asked in (("--devices", devices), ("--nodes", nodes)):
        if asked < 1:
            raise RecipeError("usage/not-positive", option, f"it is {asked}", "give 1 or more")
    if _TORCHRUN not in os.environ:
        if nodes > 1:
            hint = f"run this on each node: torchrun --nnodes {nodes} --nproc-per-node {devices} ... -m compressor"
            raise RecipeError(
                "usage/not-under-torchrun", "--nodes", f"it is {nodes}, but torchrun did not start this process", hint
            )
        return
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    for option, asked, given in (
        ("--devices", devices, here),
        ("--nodes", nodes, int(os.environ["WORLD_SIZE"]) // here),
    ):
        if asked not in (1, given):
            raise RecipeError(
                "usage/contradicts-torchrun", option, f"it is {asked}, but torchrun started {given}", "omit the option"
            )


def is_helper() -> bool:
    """Whether this process only trains with the one that does the rest."""
    return _TORCHRUN in os.environ and os.environ["RANK"] != "0"


def help_training() -> None:
    """What such a process does, until there is no more work."""
    from compressor.training.distributed.torchrun import follow_training

    follow_training()


@contextmanager
def multi_process_trainer(devices: int) -> Iterator[Callable[..., TrainResult] | None]:
    """What trains: several processes of this machine, or all that `torchrun` has started; None = this one alone."""
    if _TORCHRUN in os.environ:
        from compressor.training.distributed.torchrun import lead_training

        with lead_training() as train_with_all:
            yield train_with_all
    elif devices > 1:
        from compressor.training.distributed.local import train_with_processes

        yield train_with_processes(devices)
    else:
        yield None
