"""Training with processes that `torchrun` has started, on one machine or several.

Each of them runs the same command. The first one does all there is to do and, whenever it trains, has the others
train with it; these wait for work.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from compressor.core import Data, EventSink
from compressor.errors import CompressorError, Temporary, VerificationFailed
from compressor.training.checkpoint import TrainingCheckpoint
from compressor.training.distributed.local import check_batch_sharding, is_quiet
from compressor.training.distributed.runtime import distributed_runtime
from compressor.training.distributed.serialize import serialize
from compressor.training.loop import TrainResult, train
from compressor.training.settings import TrainSettings


@contextmanager
def lead_training() -> Iterator[Callable[..., TrainResult]]:
    """What `loop.train` does, done by all processes; when the block ends they are dismissed.

    Where it is cut short, by a signal or a fault, they may be in the middle of a training: `torchrun` ends them.
    """
    with distributed_runtime() as runtime:
        sent: Data | None = None

        def train_with_all(
            module: nn.Module,
            data: Data,
            step: TrainSettings,
            *,
            emit: EventSink,
            checkpoint: TrainingCheckpoint | None = None,
            **how: Any,
        ) -> TrainResult:
            nonlocal sent
            check_batch_sharding(step, data, runtime.part[1])
            runtime.from_leader(serialize((module, None if data is sent else data, step, how)))
            sent = data
            return train(module, data, step, emit=emit, checkpoint=checkpoint, runtime=runtime, **how)

        try:
            yield train_with_all
        except Temporary:  # the others are lost, or busy
            raise
        except CompressorError:
            runtime.from_leader(b"")
            raise
        runtime.from_leader(b"")


def follow_training() -> None:
    """Train with the leading process as often as it trains, until it has no more work."""
    with distributed_runtime() as runtime:
        data: Any = None
        while work := runtime.from_leader(b""):
            module, new, step, how = pickle.loads(work)
            data = data if new is None else new
            with suppress(VerificationFailed):  # the leading process meets it as well, and tells
                train(module, data, step, emit=is_quiet, runtime=runtime, **how)
