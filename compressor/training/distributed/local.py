"""Training in several processes of this machine, which are started for one training and ended after it.

The process that starts them does all other steps. The first started process reports progress to it. The end of a pipe
reveals a process that died.
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

from compressor.core import Data, EventSink, ignore_event
from compressor.errors import RecipeError, Temporary
from compressor.training.distributed.runtime import distributed_runtime
from compressor.training.distributed.serialize import serialize, serialize_shared
from compressor.training.loop import TrainResult, train
from compressor.training.train_settings import TrainSettings
from compressor.training.training_checkpoint import TrainingCheckpoint

SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
GRACE = 10.0  # seconds in which the parent learns which process failed first


def train_with_processes(processes: int) -> Callable[..., TrainResult]:
    """Make a function like `loop.train` that trains in several processes, which share the memory of the images.

    Args:
        processes: Their number.

    Returns:
        The function. Besides the errors of `loop.train` it raises RecipeError if a batch cannot be shared evenly, and
        Temporary if a process dies.
    """

    def _train(
        module: nn.Module,
        data: Data,
        settings: TrainSettings,
        *,
        emit: EventSink,
        checkpoint: TrainingCheckpoint | None = None,
        **options: Any,
    ) -> TrainResult:
        check_batch_sharding(settings, data, processes)

        def _emit(event: str, fields: Mapping[str, object], weights: Mapping[str, torch.Tensor] | None) -> None:
            if weights is not None:  # listeners may read the module
                module.load_state_dict(weights)
            emit(event, fields)

        with _started(processes) as crew:
            for rank, connection in enumerate(crew):
                connection.send_bytes(serialize((module, settings, None if rank else checkpoint, options)))
                connection.send_bytes(serialize_shared(data))
            return _result(crew, _emit)

    return _train


Crew = dict[Connection, BaseProcess]


@contextmanager
def _started(processes: int) -> Iterator[Crew]:
    """Start processes that wait for work, with a pipe to each. All are ended with the block."""
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]  # public, but not by its types
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    context = get_context("spawn")
    threads = max(torch.get_num_threads() // processes, 1)
    with ExitStack() as stack:
        crew: Crew = {}
        for rank in range(processes):
            parent_end, child_end = context.Pipe()
            process = context.Process(
                target=_work, args=(child_end, _environment(rank, processes, store.port), threads)
            )
            process.start()
            stack.callback(_end, process)
            child_end.close()
            crew[parent_end] = process
        yield crew


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """The environment variables that torchrun would set."""
    variables = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the store that this process has opened
        "TORCHELASTIC_RESTART_COUNT": 0,
        **(
            {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        ),  # the host name may resolve to another interface
    }
    return {name: str(value) for name, value in variables.items()}


def _end(process: BaseProcess) -> None:
    process.kill()  # safe, because files are replaced atomically
    process.join()


def _result(crew: Crew, emit: Callable[..., None]) -> TrainResult:
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
                case "event":
                    emit(*content)
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
    """Run one process: receive a training, train, and send events and the result."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    warnings.simplefilter("ignore")
    os.environ.update(environment)
    torch.set_num_threads(threads)
    try:
        (module, settings, checkpoint, options), data = (pickle.loads(connection.recv_bytes()) for _ in range(2))

        def _emit(event: str, fields: Mapping[str, object]) -> None:
            weights = module.state_dict() if event == "epoch" else None
            connection.send_bytes(serialize(("event", (event, fields, weights))))

        is_leader = environment["RANK"] == "0"
        with distributed_runtime() as runtime:
            emit = _emit if is_leader else ignore_event  # only the leader reports
            result = train(module, data, settings, emit=emit, checkpoint=checkpoint, runtime=runtime, **options)
        connection.send_bytes(serialize(("done", result if is_leader else None)))
    except BaseException as error:
        if isinstance(error, Temporary):
            time.sleep(GRACE)
        error.add_note(traceback.format_exc())
        connection.send_bytes(serialize(("failed", error)))


def _end_with_parent() -> None:
    """Have the system end this process when its parent is killed; works on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def check_batch_sharding(settings: TrainSettings, data: Data, processes: int) -> None:
    """Check that every process gets the same number of images of a batch.

    Args:
        settings: The training.
        data: Its data.
        processes: The number of processes.

    Raises:
        RecipeError: The batch size is not a multiple of the number of processes.
    """
    batch = min(settings.batch_size, data.train_size)
    if batch % processes:
        problem = f"{processes} processes cannot share batches of {batch} images equally"
        nearest = max(batch - batch % processes, processes)
        hint = f"use a batch_size that is a multiple of {processes}, such as {nearest}"
        raise RecipeError("training/uneven-batches", settings.stage, problem, hint)
