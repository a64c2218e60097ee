"""Several processes of this machine train together: started for one training, and gone when it is done.

The process that starts them prunes, measures and writes as ever; the first of those it starts tells it how far they
are. Which one dies, and how, is seen at the end of its pipe.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import torch
from torch import nn

from compressor.core import Data, EventSink
from compressor.errors import RecipeError, Temporary
from compressor.training.checkpoint import TrainingCheckpoint
from compressor.training.distributed.runtime import distributed_runtime
from compressor.training.distributed.serialize import serialize, serialize_shared
from compressor.training.loop import TrainResult, train
from compressor.training.settings import TrainSettings

SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
GRACE = 10.0  # seconds in which the process that started the others hears which one was first to fail


def train_with_processes(processes: int) -> Callable[..., TrainResult]:
    """What `loop.train` does, done by so many processes. The images are the same memory in all of them.

    It raises what `loop.train` raises; RecipeError where a batch can't be shared evenly; Temporary where one of the
    processes dies.
    """

    def train_together(
        module: nn.Module,
        data: Data,
        step: TrainSettings,
        *,
        emit: EventSink,
        checkpoint: TrainingCheckpoint | None = None,
        **how: Any,
    ) -> TrainResult:
        check_batch_sharding(step, data, processes)

        def tell(event: str, fields: Mapping[str, object], weights: Mapping[str, torch.Tensor] | None) -> None:
            if weights is not None:  # whoever listens may look at the module
                module.load_state_dict(weights)
            emit(event, fields)

        with _started(processes) as crew:
            for rank, connection in enumerate(crew):
                connection.send_bytes(serialize((module, step, None if rank else checkpoint, how)))
                connection.send_bytes(serialize_shared(data))
            return _result(crew, tell)

    return train_together


Crew = dict[Connection, BaseProcess]


@contextmanager
def _started(processes: int) -> Iterator[Crew]:
    """Processes that wait for work, with a pipe to each; however the block ends, none is left."""
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]  # public, but not by its types
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    context = get_context("spawn")
    threads = max(torch.get_num_threads() // processes, 1)
    with ExitStack() as stack:
        crew: Crew = {}
        for rank in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, _environment(rank, processes, store.port), threads))
            process.start()
            stack.callback(_ended, process)
            theirs.close()
            crew[ours] = process
        yield crew


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun would say to the process."""
    said = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the one that has just been opened
        "TORCHELASTIC_RESTART_COUNT": 0,
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),  # whatever the host's name resolves to
    }
    return {name: str(value) for name, value in said.items()}


def _ended(process: BaseProcess) -> None:
    process.kill()  # nothing it holds needs care: files are replaced as a whole
    process.join()


def _result(crew: Crew, tell: Callable[..., None]) -> TrainResult:
    waiting = dict(crew)
    result: TrainResult | None = None
    while waiting:
        for connection in wait(list(waiting)):
            assert isinstance(connection, Connection)
            try:
                kind, content = pickle.loads(connection.recv_bytes())
            except (EOFError, ConnectionResetError):
                _raise_died(list(crew).index(connection), crew[connection], len(crew))
            match kind:
                case "told":
                    tell(*content)
                case "failed":
                    raise content
                case "done":
                    del waiting[connection]
                    result = content or result
    assert result is not None, "the first process has the result"
    return result


def _raise_died(rank: int, process: BaseProcess, processes: int) -> NoReturn:
    process.join(GRACE)
    code = process.exitcode or 0
    problem = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"
    cause = "check that there is enough memory; " if code == -signal.SIGKILL else ""
    hint = f"{cause}the same command with --resume continues from the last checkpoint"
    raise Temporary("training/process-died", f"process {rank + 1} of {processes}", problem, hint)


def _work(connection: Connection, environment: Mapping[str, str], threads: int) -> None:
    """What each of the processes does."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    warnings.simplefilter("ignore")
    os.environ.update(environment)
    torch.set_num_threads(threads)
    try:
        (module, step, checkpoint, how), data = (pickle.loads(connection.recv_bytes()) for _ in range(2))

        def emit(event: str, fields: Mapping[str, object]) -> None:
            weights = module.state_dict() if event == "epoch" else None
            connection.send_bytes(serialize(("told", (event, fields, weights))))

        leads = environment["RANK"] == "0"
        with distributed_runtime() as runtime:
            trained = train(
                module, data, step, emit=emit if leads else is_quiet, checkpoint=checkpoint, runtime=runtime, **how
            )
        connection.send_bytes(serialize(("done", trained if leads else None)))
    except BaseException as error:
        if isinstance(error, Temporary):
            time.sleep(GRACE)
        error.add_note(traceback.format_exc())
        connection.send_bytes(serialize(("failed", error)))


def is_quiet(event: str, fields: Mapping[str, object]) -> None:
    """Only the leading process tells."""


def _end_with_parent() -> None:
    """One that is killed can't end its children: let the system do so, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def check_batch_sharding(step: TrainSettings, data: Data, processes: int) -> None:
    """Raises RecipeError unless every process gets as many images of a batch as any other."""
    batch = min(step.batch_size, data.train_size)
    if batch % processes:
        problem = f"{processes} processes cannot share batches of {batch} images equally"
        nearest = max(batch - batch % processes, processes)
        raise RecipeError(
            "training/uneven-batches",
            step.stage,
            problem,
            f"use a batch_size that is a multiple of {processes}, such as {nearest}",
        )
