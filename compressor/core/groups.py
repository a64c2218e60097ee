"""Groups of channels that are removed together, the tensor dimensions that hold them, and plans of what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:  # numpy is not loaded at run time
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]
    FloatArray = NDArray[np.float64]


Role = Literal["writer", "reader", "per_channel"]


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One dimension of one tensor of the state dict that holds a group's channels.

    A writer produces the channels (output filters of a convolution), a reader consumes them (its input channels), and a
    per-channel tensor scales or shifts them (parameters and statistics of normalizations, biases). A tied weight, such
    as an embedding that is the output layer as well, has a slot as writer and one as reader.
    """

    tensor: str
    dim: int
    positions: IntArray  # (C, r): the r entries of that dimension that belong to each channel
    role: Role


@dataclass(frozen=True, slots=True)
class Freeze:
    """Why no channel of a group can be removed."""

    by: Literal["model", "recipe", "criterion"]  # what decides it: the code, a setting, or scores that are missing
    reason: str  # for people; operator, module and source line where the model decides


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """C channels. Each can be removed without the others; it is removed from all slots at once."""

    name: str  # the first module that writes the channels
    size: int  # C
    slots: tuple[TensorSlot, ...]
    frozen: Freeze | None = None  # None = its channels can be removed

    def writers(self) -> tuple[TensorSlot, ...]:
        """Return the slots that produce the channels."""
        return tuple(slot for slot in self.slots if slot.role == "writer")


@dataclass(frozen=True, slots=True)
class PrunedEntries:
    """The entries of one tensor dimension whose channels a plan removes."""

    tensor: str
    dim: int
    role: Role
    entries: BoolArray  # (size of the dimension,) True = removed


@dataclass(frozen=True, slots=True)
class PrunableShare:
    """The share of a model's multiply-adds that depends on the channels of some groups."""

    frozen: Freeze | None  # why these groups are frozen; None = they are not
    groups: int
    channels: int
    macs: float  # 0 to 1


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Which channels are kept: group name -> bool (C,). Groups that keep all channels are absent."""

    kept: Mapping[str, BoolArray]
    round_to: int = 1  # the widths are multiples of it


class NMPattern(NamedTuple):
    """N:M sparsity: at most N of every M consecutive weights along the reduction dimension are not zero."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


MaskSearch = Literal["sparsegpt", "obc"]
"""A search for a mask that leaves less to repair than one of magnitudes."""
