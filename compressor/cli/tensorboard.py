"""`--tensorboard`: every number of an epoch, as TensorBoard reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from compressor.core import EventSink
from compressor.errors import RecipeError


@contextmanager
def tensorboard_sink(emit: EventSink, folder: Path | None) -> Iterator[EventSink]:
    """Yield an event sink that also writes every number of an epoch as `<stage>/<name>`.

    Args:
        emit: The sink that gets every event.
        folder: Where to write; None means that `emit` itself is yielded.

    Raises:
        RecipeError: TensorBoard is not installed.
    """
    if folder is None:
        yield emit
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = "run pip install tensorboard, or omit the option"
        raise RecipeError(
            "usage/tensorboard-not-installed", "--tensorboard", "TensorBoard is not installed", hint
        ) from error
    with SummaryWriter(str(folder)) as writer:

        def _emit_and_write(event: str, fields: Mapping[str, object]) -> None:
            emit(event, fields)
            if event == "epoch":
                epoch = fields["epoch"]
                for name, value in fields.items():
                    if isinstance(value, int | float) and not name.startswith("epoch"):
                        writer.add_scalar(f"{fields['stage']}/{name}", value, epoch)
                writer.flush()

        yield _emit_and_write
