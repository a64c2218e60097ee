"""Backward elimination of channels by group OBS: the error that remains after the best refit of all readers, for every
width, and a nested order of removal.

Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, NeurIPS 1992; for groups of
columns: Frantar, Singh and Alistarh, Optimal Brain Compression, arXiv:2208.11580, and Meng, Behdin, Wang and Mazumder,
OSSCAR, arXiv:2403.12983, whose swaps are tried after the elimination.

With x the input of a reader y = W x, H = Cov(x, x) + lambda I and g the columns of one channel,

    loss of g after the best refit of the other columns = tr(W_g (H^-1_gg)^-1 W_g^T)
    W    <- W - W_g (H^-1_gg)^-1 H^-1_g:        H^-1 <- H^-1 - H^-1_:g (H^-1_gg)^-1 H^-1_g:

Losses of several readers add up, each as a share of the variance of its output. Shapes: C channels, n columns of a
reader, t of them for one channel, o rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

REFRESH = 64
"""Removals after which the inverse is computed again: every down-date loses digits."""
EXACT = 256
"""Channels up to which one is removed at a time. Of more, up to one in so many is removed at once."""
SWAPS = 20
"""Most swaps that are tried; each halves the number of exchanged channels unless it pays."""


@dataclass(frozen=True, slots=True)
class QuadraticReader:
    """One reader as a quadratic form: changing its weight by D costs `share * tr(D H D^T)`."""

    matrix: Tensor  # H (n, n), float64, with the ridge
    weight: Tensor  # W (o, n), float64
    blocks: Tensor  # (C, t) columns of each channel
    share: float  # 1 / (variance of the output * number of readers)

    def error(self, kept: Tensor) -> float:
        """The loss after the best refit on the kept channels.

        Args:
            kept: (C,) bool.
        """
        removed, _ = self.columns(kept)
        if not len(removed):
            return 0.0
        inverse = _inverse(self.matrix)[removed[:, None], removed]
        lost = self.weight[:, removed]
        return self.share * float((lost * torch.linalg.solve(inverse, lost.T).T).sum())

    def refit(self, kept: Tensor) -> Tensor:
        """The best weight (o, n) that is zero for removed channels.

        Args:
            kept: (C,) bool.
        """
        removed, rest = self.columns(kept)
        weight = torch.zeros_like(self.weight)
        cross = self.matrix[rest[:, None], removed] @ self.weight[:, removed].T
        lower, _ = torch.linalg.cholesky_ex(self.matrix[rest[:, None], rest])
        weight[:, rest] = self.weight[:, rest] + torch.cholesky_solve(cross, lower).T
        return weight

    def columns(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Split the columns.

        Args:
            kept: (C,) bool.

        Returns:
            Indices of removed columns, and of the others, those of other groups among them.
        """
        gone = torch.zeros(len(self.matrix), dtype=torch.bool)
        gone[self.blocks[~kept].flatten()] = True
        return gone.nonzero().flatten(), (~gone).nonzero().flatten()


def eliminate(readers: Sequence[QuadraticReader], size: int, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Remove the channel whose loss is smallest, again and again, until one is left.

    Args:
        readers: All readers of a group.
        size: Channels C of the group.
        given: (C,) another order of removal, whose errors are computed; None = the best found.

    Returns:
        Order: (C - 1,) the channels in the order of their removal.
        errors: (C,) the error after so many removals; the first is 0.
    """
    states = [_Elimination(reader) for reader in readers]
    order: list[int] = []
    errors = [0.0]
    alive = torch.ones(size, dtype=torch.bool)
    since = 0
    while len(order) < size - 1:
        if since >= REFRESH:
            for state in states:
                state.refresh(alive)
            since = 0
        losses = torch.stack([state.losses(alive) for state in states]).sum(0)
        losses = torch.where(alive, losses, torch.inf)
        count = min(max(1, int(alive.sum()) // EXACT), size - 1 - len(order))
        chosen = losses.topk(count, largest=False).indices if given is None else given[len(order) : len(order) + count]
        total = sum(state.remove(chosen) for state in states)
        shares = losses[chosen].clamp_min(0).cumsum(0)
        steps = shares / shares[-1] if shares[-1] > 0 else torch.linspace(1 / count, 1, count)
        errors += [errors[-1] + max(total, 0.0) * float(step) for step in steps]
        order += chosen.tolist()
        alive[chosen] = False
        since += count
    return torch.tensor(order, dtype=torch.int64), torch.tensor(errors, dtype=torch.float64)


def improve(readers: Sequence[QuadraticReader], kept: Tensor) -> Tensor:
    """Exchange kept for removed channels as long as the error falls.

    Each try adds back the removed channels that gain most and removes as many of those that lose least then.

    Args:
        readers: All readers of a group.
        kept: (C,) bool, the channels to start from.

    Returns:
        (C,) bool with as many channels, whose error is not larger.
    """
    best = kept
    error = sum(reader.error(kept) for reader in readers)
    count = max(1, min(int(kept.sum()), int((~kept).sum())) // 4)
    for _ in range(SWAPS):
        if not count or not bool((~best).any()):
            break
        tried = _exchange(readers, best, count)
        after = sum(reader.error(tried) for reader in readers)
        if after < error * (1 - 1e-6):
            best, error = tried, after
        else:
            count //= 2
    return best


def _exchange(readers: Sequence[QuadraticReader], kept: Tensor, count: int) -> Tensor:
    """Add back `count` removed channels, the most useful ones, then remove those that cost least."""
    gains = torch.stack([_gains(reader, kept) for reader in readers]).sum(0)
    wider = kept.clone()
    wider[torch.where(kept, -torch.inf, gains).topk(count).indices] = True
    states = [_Elimination(reader) for reader in readers]
    for state in states:
        state.refresh(wider)
    for _ in range(count):
        losses = torch.stack([state.losses(wider) for state in states]).sum(0)
        chosen = torch.where(wider, losses, torch.inf).argmin().reshape(1)
        for state in states:
            state.remove(chosen)
        wider[chosen] = False
    return wider


def _gains(reader: QuadraticReader, kept: Tensor) -> Tensor:
    """What adding each channel back would gain: tr(r_g S_g^-1 r_g^T) with S_g the Schur complement of its columns and
    r_g the correlation of the residual with them."""
    _, rest = reader.columns(kept)
    matrix = reader.matrix
    lower, _ = torch.linalg.cholesky_ex(matrix[rest[:, None], rest])
    columns = reader.blocks  # (C, t)
    cross = torch.cholesky_solve(matrix[rest][:, columns.flatten()], lower)  # (rest, C t)
    residual = (reader.weight - reader.refit(kept)) @ matrix[:, columns.flatten()]  # (o, C t)
    rows = matrix[rest][:, columns.flatten()].T.reshape(*columns.shape, -1)
    schur = matrix[columns[:, :, None], columns[:, None, :]] - rows @ cross.T.reshape(*columns.shape, -1).mT
    schur = torch.where(kept[:, None, None], torch.eye(columns.shape[1], dtype=matrix.dtype), schur)
    parts = residual.T.reshape(*columns.shape, -1)  # (C, t, o)
    gains: Tensor = reader.share * (parts * torch.linalg.solve(schur, parts)).sum((1, 2))
    return gains


class _Elimination:
    """The inverse and the refitted weight of one reader while channels are removed."""

    def __init__(self, reader: QuadraticReader) -> None:
        self._reader = reader
        weight = reader.weight
        if len(weight) > weight.shape[1]:  # losses depend on W^T W alone
            weight = torch.linalg.qr(weight, mode="r").R
        self._first = weight
        self._weight, self._inverse = weight.clone(), _inverse(reader.matrix)
        self._blocks = reader.blocks

    def refresh(self, alive: Tensor) -> None:
        """Compute inverse and weight anew for the channels that are left, and forget the columns of the others.

        Args:
            alive: (C,) bool.
        """
        _, rest = self._reader.columns(alive)
        matrix = self._reader.matrix
        self._inverse = _inverse(matrix[rest[:, None], rest])
        self._weight = (self._first @ matrix[:, rest]) @ self._inverse
        place = torch.zeros(len(matrix), dtype=torch.int64)
        place[rest] = torch.arange(len(rest))
        self._blocks = place[self._reader.blocks]  # those of removed channels are not read any more

    def losses(self, alive: Tensor) -> Tensor:
        """The loss of removing each channel next, (C,).

        Args:
            alive: (C,) bool; the others get zero.
        """
        index = alive.nonzero().flatten()
        columns = self._blocks[index]
        parts = self._weight[:, columns].permute(1, 2, 0)  # (C, t, o)
        inner = self._inverse[columns[:, :, None], columns[:, None, :]]
        if columns.shape[1] == 1:
            values = parts[:, 0].square().sum(1) / inner[:, 0, 0].clamp_min(1e-300)
        else:
            values = (parts * torch.linalg.solve(inner, parts)).sum((1, 2))
        return torch.zeros(len(alive), dtype=torch.float64).index_copy_(0, index, self._reader.share * values)

    def remove(self, channels: Tensor) -> float:
        """Remove channels and refit the others; returns the loss.

        Args:
            channels: Indices of channels that are still there.
        """
        columns = self._blocks[channels].flatten()
        inner = self._inverse[columns[:, None], columns]
        rows = self._inverse[columns]
        lost = self._weight[:, columns]
        solved = torch.linalg.solve(inner, torch.cat([rows, lost.T], dim=1))
        update, loss = solved[:, : rows.shape[1]], solved[:, rows.shape[1] :]
        self._weight.addmm_(lost, update, alpha=-1)
        self._inverse.addmm_(rows.T, update, alpha=-1)
        return self._reader.share * float((lost.T * loss).sum())


def _inverse(matrix: Tensor) -> Tensor:
    """The inverse of a positive definite matrix."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    inverse: Tensor
    if bool(failed):
        values, vectors = torch.linalg.eigh(matrix)
        inverse = (vectors / values.clamp_min(1e-10 * float(values[-1]))) @ vectors.T
    else:
        inverse = torch.cholesky_inverse(lower)
    return inverse
