"""What report.json says of the price: of trainings, of what is left, of files."""

from __future__ import annotations

from typing import TypedDict


class TrainingRecord(TypedDict):
    """One training, without the evaluations in between. `params`: of the model it trained; `batch_ms`: the median time
    from one batch to the next; `peak_bytes`: of the GPU, or what the process grew by."""

    stage: str
    device: str
    params: int
    batch_size: int
    epochs: int
    seconds: float
    batch_ms: float | None
    peak_bytes: int | None
    energy_j: float | None


class TrainingReport(TypedDict):
    """All trainings, in order, and their sums. `meters`: what `energy_j` was read from. `unmeasured`: quantity -> why
    it is None."""

    trainings: list[TrainingRecord]
    seconds: float
    energy_j: float | None
    meters: list[str]
    unmeasured: dict[str, str]


class Share(TypedDict):
    """Of so many in the dense model, `left` are in the slim one; `sparsity` is the % that went."""

    dense: int
    left: int
    sparsity: float


class RemovedRecord(TypedDict):
    """Weight sparsity and node sparsity, and what is counted."""

    weights: Share
    nodes: Share
    convention: str


class DiskRecord(TypedDict):
    """Bytes of the weights: all of the dense model's, the file slim.safetensors, and an estimate of the file with its
    zeros left out, None where that would be no smaller."""

    dense: int
    slim: int
    sparse: int | None
    convention: str
