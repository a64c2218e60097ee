"""The amounts of a Pad: all begins and then all ends in ONNX, pairs from the last dimension on in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.models.onnx_import.values import Value, ints

PADS_ARE_INPUTS = 11  # the opset since which they are no attribute


def pad_axes(rank: int, axes: Value = None) -> list[int]:
    """List the dimensions that a Pad has amounts for.

    Args:
        rank: Number of dimensions of what is padded.
        axes: The input of this name; None where there is none.

    Returns:
        The dimensions from 0, in the order of the amounts.
    """
    return list(range(rank)) if axes is None else [axis % rank for axis in ints(axes)]


def as_padding(pads: Sequence[int], axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Convert the amounts of a Pad to the order of `torch.nn.functional.pad`.

    Args:
        pads: Entries at the begin of each axis, then entries at the end of each.
        axes: The axes, from 0.
        rank: Number of dimensions of what is padded.

    Returns:
        (begin, end) of the last dimension, then of the one before, as far as something is padded.
    """
    before, after = (dict(zip(axes, half, strict=True)) for half in (pads[: len(axes)], pads[len(axes) :]))
    padded = [axis for axis in axes if before[axis] or after[axis]]
    dims = range(rank - 1, min(padded, default=rank) - 1, -1)
    return tuple(amount for axis in dims for amount in (before.get(axis, 0), after.get(axis, 0)))


def as_pads(padding: Sequence[int], axes: Sequence[int], rank: int) -> list[int]:
    """Convert amounts in the order of `torch.nn.functional.pad` to those of a Pad.

    Args:
        padding: (begin, end) of the last dimension, then of the one before, and so on.
        axes: The axes that the Pad has, from 0.
        rank: Number of dimensions of what is padded.

    Returns:
        Entries at the begin of each axis, then entries at the end of each.
    """
    pairs = {rank - 1 - at: (padding[2 * at], padding[2 * at + 1]) for at in range(len(padding) // 2)}
    return [pairs.get(axis, (0, 0))[side] for side in (0, 1) for axis in axes]
