"""Training in processes that `torchrun` has started, on one machine or several.

All of them run the same command. The leading process does all steps. The others wait until it trains, and join it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from compressor.core import Data, EventSink, ignore_event
from compressor.errors import CompressorError, Temporary, VerificationFailed
from compressor.training.distributed.local import check_batch_sharding
from compressor.training.distributed.runtime import distributed_runtime
from compressor.training.distributed.serialize import serialize
from compressor.training.loop import TrainResult, train
from compressor.training.train_settings import TrainSettings
from compressor.training.training_checkpoint import TrainingCheckpoint


@contextmanager
def lead_training() -> Iterator[Callable[..., TrainResult]]:
    """Train with all processes while the block runs; dismiss them at its end.

    If the block ends by a signal or an unexpected error, they may be in the middle of a training, and `torchrun` ends
    them.

    Yields:
        A function like `loop.train`.
    """
    with distributed_runtime() as runtime:
        sent: Data | None = None

        def _train(
            module: nn.Module,
            data: Data,
            settings: TrainSettings,
            *,
            emit: EventSink,
            checkpoint: TrainingCheckpoint | None = None,
            **options: Any,
        ) -> TrainResult:
            nonlocal sent
            check_batch_sharding(settings, data, runtime.world_size)
            runtime.broadcast(serialize((module, None if data is sent else data, settings, options)))
            sent = data
            return train(module, data, settings, emit=emit, checkpoint=checkpoint, runtime=runtime, **options)

        try:
            yield _train
        except Temporary:  # the others are lost or busy
            raise
        except CompressorError:
            runtime.broadcast(b"")
            raise
        runtime.broadcast(b"")


def follow_training() -> None:
    """Train with the leading process whenever it trains, until it dismisses this process."""
    with distributed_runtime() as runtime:
        data: Any = None
        while work := runtime.broadcast(b""):
            module, new_data, settings, options = pickle.loads(work)
            data = data if new_data is None else new_data
            with suppress(VerificationFailed):  # the leading process has the same error, and reports it
                train(module, data, settings, emit=ignore_event, runtime=runtime, **options)
