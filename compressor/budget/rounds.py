"""Targets of several rounds that approach a final one, and how many rounds a selection with repair tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from compressor.budget.target import PruningTarget

AUTO_ROUNDS_BELOW = 0.5
"""Share that remains below which two rounds are tried."""


def exponential_remaining(share: float, rounds: int) -> tuple[float, ...]:
    """Compute the shares that remain if each round keeps the same share of what is left: `share^(t/T)`.

    Args:
        share: The share that remains in the end.
        rounds: The number of rounds T.

    Returns:
        One share for each round t = 1 to T.
    """
    return tuple(share ** (number / rounds) for number in range(1, rounds + 1))


def linear_remaining(share: float, rounds: int) -> tuple[float, ...]:
    """Compute the shares that remain if each round removes as much as the others: `1 - (1 - share) t/T`.

    Args:
        share: The share that remains in the end.
        rounds: The number of rounds T.

    Returns:
        One share for each round t = 1 to T; the last is exactly `share`.
    """
    return (*(1 - (1 - share) * number / rounds for number in range(1, rounds)), share)


def halving_removed(limit: float, rounds: int = 7) -> tuple[float, ...]:
    """Compute the shares removed if each round removes half of what is still to be removed.

        limit - (limit - start) / 2^i  for i = 0 to rounds - 2, then limit

    with start = 1/2 for limits above 1/2, and limit / 2 for the others. This is the schedule of SNAP-it and CroPit:
    Verdenius, Stol and Forré, arXiv:2006.00896; Rachwan et al., arXiv:2206.10451, both with 7 rounds.

    Args:
        limit: The share that is removed in the end.
        rounds: The number of rounds.

    Returns:
        The share of the original that has been removed after each round.
    """
    start = 0.5 if limit > 0.5 else limit / 2
    return (*(limit - (limit - start) * 0.5**number for number in range(rounds - 1)), limit)


def halving_remaining(share: float, rounds: int = 7) -> tuple[float, ...]:
    """Compute the shares that remain if each round removes half of what is still to be removed.

    Args:
        share: The share that remains in the end.
        rounds: The number of rounds.

    Returns:
        One share for each round; the last is exactly `share`.
    """
    return (*(1 - removed for removed in halving_removed(1 - share, rounds)[:-1]), share)


def halving_targets(final: PruningTarget, rounds: int = 7) -> tuple[PruningTarget, ...]:
    """Return the target of each round if each removes half of what is still to be removed.

    Args:
        final: The target of the last round. Its milliseconds count in that round only.
        rounds: The number of rounds.

    Returns:
        One target for each round, or `final` alone if it names no share.
    """
    shares = {name: halving_remaining(share, rounds) for name, share in final.shares.items()}
    if final.ratio is not None:
        shares["ratio"] = halving_removed(final.ratio, rounds)
    return _targets(shares, final)


def exponential_targets(final: PruningTarget, rounds: int) -> tuple[PruningTarget, ...]:
    """Return the target of each round if each removes the same share of what is left.

    Args:
        final: The target of the last round. Its milliseconds count in that round only.
        rounds: The number of rounds.

    Returns:
        One target for each round, or `final` alone if it names no share.
    """
    shares = {name: exponential_remaining(share, rounds) for name, share in final.shares.items()}
    if final.ratio is not None:
        shares["ratio"] = tuple(1 - share for share in exponential_remaining(1 - final.ratio, rounds))
    return _targets(shares, final)


def repair_schedules(final: PruningTarget, rounds: int | Literal["auto"]) -> tuple[tuple[PruningTarget, ...], ...]:
    """List the schedules that a selection with repair tries.

    Args:
        final: The target of the last round.
        rounds: The number of rounds; auto = one, and also two where less than half remains.

    Returns:
        The targets of each schedule. A latency is reached in one round, because each round measures the device.
    """
    shares = [*final.shares.values(), *([] if final.ratio is None else [1 - final.ratio])]
    if final.has_latency_target or not shares:
        return ((final,),)
    if rounds == "auto":
        return ((final,), exponential_targets(final, 2)) if min(shares) < AUTO_ROUNDS_BELOW else ((final,),)
    return (exponential_targets(final, rounds),)


def _targets(shares: Mapping[str, tuple[float, ...]], final: PruningTarget) -> tuple[PruningTarget, ...]:
    rounds = [dict(zip(shares, values, strict=True)) for values in zip(*shares.values(), strict=True)]
    return (*(replace(final, latency_ms=None, **values) for values in rounds[:-1]), final)
