"""An einsum taken apart: which index each dimension of its operands and of its result has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compressor.graph.trace import Call, Ref


@dataclass(frozen=True, slots=True)
class Einsum:
    operands: tuple[Ref, ...]
    inputs: tuple[tuple[str, ...], ...]  # of each operand, the index of each dimension
    output: tuple[str, ...]

    @classmethod
    def of(cls, call: Call) -> Einsum:
        """Read an einsum's equation. Dimensions under an ellipsis are indices "...1", "...2", counted from the right.

        Raises:
            ValueError: An operand has one index twice, a diagonal.
        """
        refs: tuple[Ref, ...] = tuple(call.args["tensors"])
        left, arrow, right = call.args["equation"].replace(" ", "").partition("->")
        inputs = tuple(_indices(term, len(ref.shape)) for term, ref in zip(left.split(","), refs, strict=True))
        if any(len(set(indices)) < len(indices) for indices in inputs):
            raise ValueError("a diagonal")
        if arrow:
            return cls(refs, inputs, _indices(right, len(call.outs[0].shape)))
        letters = [index for indices in inputs for index in indices]
        spread = sorted({index for index in letters if index.startswith("...")}, reverse=True)
        once = sorted(index for index in set(letters) if letters.count(index) == 1 and not index.startswith("..."))
        return cls(refs, inputs, (*spread, *once))

    def sizes(self) -> dict[str, int]:
        """The size of each index; operands of size one are spread over it."""
        sizes: dict[str, int] = {}
        for ref, indices in zip(self.operands, self.inputs, strict=True):
            for index, size in zip(indices, ref.shape, strict=True):
                sizes[index] = max(size, sizes.get(index, 1))
        return sizes

    def meeting(self) -> Iterator[tuple[str, ...]]:
        """The indices of each product of two operands, from the left; those that nothing reads any more are summed."""
        so_far = self.inputs[0]
        for number, indices in enumerate(self.inputs[1:], start=1):
            both = tuple(dict.fromkeys((*so_far, *indices)))
            yield both
            later = {index for rest in (*self.inputs[number + 1 :], self.output) for index in rest}
            so_far = tuple(index for index in both if index in later)

    def steps(self) -> Iterator[tuple[int, ...]]:
        """The sizes of `meeting`: their product is the number of multiply-adds."""
        sizes = self.sizes()
        for indices in self.meeting():
            yield tuple(sizes[index] for index in indices)


def _indices(term: str, rank: int) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    spread = rank - len(before) - len(after) if dots else 0
    return (*before, *(f"...{place}" for place in range(spread, 0, -1)), *after)
