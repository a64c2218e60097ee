"""The calls of LSTM, GRU and RNN networks in a recorded program, and their layers run one at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.reconstruction.program import Program

KINDS = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")


@dataclass(frozen=True, slots=True)
class RecurrentCall:
    """One call of a recurrent network."""

    operation: int
    func: Any  # the operator overload
    names: tuple[tuple[str, ...], ...]  # (w_ih, w_hh, b_ih, b_hh) of every layer and direction
    directions: int
    time_dim: int

    @property
    def has_biases(self) -> bool:
        return len(self.names[0]) > 2

    @property
    def module(self) -> str:
        return self.names[0][0].rpartition(".")[0] or self.names[0][0]


def find_recurrent_calls(program: Program) -> Iterator[RecurrentCall]:
    """Find the calls whose weights are the model's and are used once. States must not be projected.

    Args:
        program: The recorded program.

    Yields:
        The calls.
    """
    by_weights: dict[tuple[tuple[str, ...], ...], list[RecurrentCall]] = defaultdict(list)
    for index, operation in enumerate(program.operations):
        if operation.op not in KINDS or operation.func._overloadname != "input":
            continue
        arguments = operation.named()
        names = [program.names[ref.uid] for ref in arguments["params"] if ref.uid in program.names]
        directions = 1 + bool(arguments["bidirectional"])
        layers = arguments["num_layers"] * directions
        count, rest = divmod(len(names), layers)  # weights of a layer: two maps, and perhaps two biases
        is_batched = len(program.shapes[arguments["input"].uid]) == 3
        if is_batched and count in (2, 4) and not rest and len(names) == len(arguments["params"]):
            split = tuple(tuple(names[at : at + count]) for at in range(0, len(names), count))
            time_dim = 1 if arguments["batch_first"] else 0
            by_weights[split].append(RecurrentCall(index, operation.func, split, directions, time_dim))
    yield from (calls[0] for calls in by_weights.values() if len(calls) == 1)


def run_layer(call: RecurrentCall, x: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Run one layer in one direction.

    Args:
        call: A call of the network.
        x: The layer's input (B, T, I), or (T, B, I) where time comes first.
        start: The first state h (1, B, H), and for an LSTM c.
        weights: The layer's weights, like `names`.

    Returns:
        Its states after every step, (B, T, H) or (T, B, H).
    """
    states: Any = list(start) if len(start) > 1 else start[0]
    single = (call.has_biases, 1, 0.0, False, False, call.time_dim == 1)
    with torch.inference_mode():
        outputs: Tensor = call.func(x, states, list(weights), *single)[0]
    return outputs


def states_before(after: Tensor, start: Tensor, time_dim: int) -> Tensor:
    """Shift the states by one step.

    Args:
        after: The states after every step.
        start: The first state, (1, B, H).
        time_dim: The dimension of time in `after`.

    Returns:
        The states before every step, like `after`.
    """
    return torch.cat([start.movedim(0, time_dim), after.narrow(time_dim, 0, after.shape[time_dim] - 1)], time_dim)
