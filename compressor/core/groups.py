"""What belongs together: channels, the places they live in, and which of them stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from compressor.core.arrays import BoolArray, IntArray


Role = Literal["writer", "reader", "affine"]


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One dimension of one tensor of the state dict that a group's channels live in.

    A writer produces the channels (rows of a convolution), a reader consumes them (its columns), an affine only
    scales or shifts them (normalisation, biases, per-channel buffers).
    """

    tensor: str
    dim: int
    positions: IntArray  # (C, r): the entries of that dimension that belong to each channel
    role: Role


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """C channels that are removed one by one, each from all its slots at once."""

    name: str  # the module that writes them first
    size: int  # C
    slots: tuple[TensorSlot, ...]
    frozen: str | None = None  # why it can't be cut: operator, module and source line

    def writers(self) -> tuple[TensorSlot, ...]:
        return tuple(slot for slot in self.slots if slot.role == "writer")


@dataclass(frozen=True, slots=True)
class PrunedEntries:
    """The entries of one tensor dimension whose channels a plan drops."""

    tensor: str
    dim: int
    role: Role
    entries: BoolArray  # (size of the dimension,) True = leaves


@dataclass(frozen=True, slots=True)
class PrunableShare:
    """The share of a model's multiply-adds that go with the channels of some groups."""

    frozen: str | None  # why these groups can't be cut; None: those that can
    groups: int
    channels: int
    macs: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Which channels stay: group name -> bool[C]. Groups that stay whole are absent."""

    kept: Mapping[str, BoolArray]
    round_to: int = 1  # what the widths are multiples of


class NMPattern(NamedTuple):
    """N:M: of every M consecutive weights along the reduction dimension at most N are not zero."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"
