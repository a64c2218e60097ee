"""Calibration batches at the same call of the dense and the slim model, which advance together.

Every image runs once through every call of both models, whatever the depth: after a layer is solved its batches
continue from their present call. Where not all batches fit into memory, fewer of them run through the early calls,
which have few unknowns, and the others join as soon as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compressor.reconstruction.pair import ModelPair
from compressor.reconstruction.program import Values, replaying


@dataclass(slots=True)
class Batch:
    """One batch of images, and the live tensors of both models."""

    number: int
    images: int
    holdout: bool
    dense: Values
    slim: Values


class Lockstep:
    """Both models on all batches, stopped at the same call."""

    def __init__(self, pair: ModelPair, holdout: Sequence[bool], memory: int) -> None:
        """Start before the first call.

        Args:
            pair: Both models and the calibration batches.
            holdout: Which batches only judge.
            memory: Bytes that activations may take.
        """
        self._pair, self._holdout, self._memory = pair, holdout, memory
        self._active: list[Batch] = []
        self._at = (0, 0)

    def restart(self) -> None:
        """Begin again, with the weights that are solved by now."""
        self._active, self._at = [], (0, 0)

    def advance(self, dense_stop: int, slim_stop: int) -> Iterator[Batch]:
        """Run every batch that fits up to these calls, one after the other.

        Args:
            dense_stop: The call of the dense model to stop before.
            slim_stop: The call of the slim model to stop before.

        Yields:
            Each batch.
        """
        begin, self._at = self._at, (dense_stop, slim_stop)
        room = self._room()
        for batch in self._active:
            self._run(batch, begin)
            yield batch
        while len(self._active) < min(room, len(self._pair.inputs)):
            batch = self._start(len(self._active))
            self._active.append(batch)
            self._run(batch, (0, 0))
            yield batch

    def _start(self, number: int) -> Batch:
        inputs = self._pair.inputs[number]
        images = self._pair.images_of(inputs)
        dense = dict(zip(self._pair.dense_program(images).inputs, inputs, strict=True))
        slim = dict(zip(self._pair.slim_program(images).inputs, inputs, strict=True))
        return Batch(number, images, self._holdout[number], dense, slim)

    def _run(self, batch: Batch, begin: tuple[int, int]) -> None:
        with replaying():
            self._pair.dense_program(batch.images).run(batch.dense, begin[0], self._at[0])
            self._pair.slim_program(batch.images).run(batch.slim, begin[1], self._at[1])

    def _room(self) -> int:
        """The number of batches that fit from here to the end; at least two, so that one may be held out."""
        programs = (self._pair.dense_program(self._pair.images), self._pair.slim_program(self._pair.images))
        peak = sum(max(program.memory[at:]) for program, at in zip(programs, self._at, strict=True))
        return max(2, int(self._memory // max(peak, 1)))
