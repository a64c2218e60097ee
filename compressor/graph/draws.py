"""Which calls draw random numbers. How many they draw, and so which, depends on the channels that are there."""

from __future__ import annotations

from compressor.graph.trace import Call


def draws_numbers(call: Call) -> bool:
    """Whether a call draws; dropout draws in training mode alone, or where code says so."""
    if not call.seeded:
        return False
    chances = (call.args.get(name) for name in ("p", "dropout", "dropout_p"))
    is_off = any(chance == 0 for chance in chances) or False in (call.args.get("train"), call.args.get("training"))
    return not is_off
