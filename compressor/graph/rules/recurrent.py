"""Rules of LSTM, GRU and RNN, layers and cells: a hidden unit is removed from all gates, layers and directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils._pytree import tree_leaves

from compressor.graph.arithmetic import recurrent_input
from compressor.graph.rules.base import OperatorRule
from compressor.graph.trace import Call, Ref
from compressor.graph.tracked import Dim, Product
from compressor.graph.tracker import ChannelTracker


@dataclass(frozen=True, slots=True)
class _Cell:
    """The tensors of one layer in one direction. Rows of gates x units, gate by gate, but for the projection's."""

    from_input: Ref  # (G x H, I)
    from_hidden: Ref  # (G x H, P)
    biases: tuple[Ref, ...]  # (G x H,)
    projection: Ref | None  # (P, H), of an LSTM that hands on P projections of its H units


def _recurrent_layer(tracker: ChannelTracker, call: Call) -> None:
    """(..., I) -> (..., D x P) in D directions, and the last states (layers x D, B, P); P = H without a projection.

    A module has one hidden size for all layers and directions, so that unit i is removed from all of them at once.
    """
    directions = 2 if call.args["bidirectional"] else 1
    cells = list(_cells(call))
    x, (out, *states) = recurrent_input(call), call.outs
    (hidden, written), x_dims = _sizes(tracker, cells[0], call), tracker.dims(x)
    for dim in x_dims[:-1]:
        tracker.freeze(dim, call, "channels used as positions of a sequence")
    inputs = x_dims[-1]
    for first in range(0, len(cells), directions):
        for cell in cells[first : first + directions]:
            _couple(tracker, call, cell, inputs, hidden, written, rows=x.shape[:-1])
        inputs = Dim(np.concatenate([written.ids] * directions))
    _starts(tracker, call, hidden, written)
    tracker.bind_attribute(call, "input_size", x_dims[-1])
    tracker.set_dims(out, (*(None,) * (len(out.shape) - 1), inputs))
    for state, dim in zip(states, (written, hidden), strict=False):
        tracker.set_dims(state, (*(None,) * (len(state.shape) - 1), dim))


def _recurrent_cell(tracker: ChannelTracker, call: Call) -> None:
    """One cell, one step: (B, I) -> (B, H), and for an LSTM its state (B, H)."""
    x = call.args["input"]
    biases = tuple(ref for name in ("b_ih", "b_hh") if isinstance(ref := call.args.get(name), Ref))
    cell = _Cell(call.args["w_ih"], call.args["w_hh"], biases, None)
    hidden, written = _sizes(tracker, cell, call)
    for dim in tracker.dims(x)[:-1]:
        tracker.freeze(dim, call, "channels used as positions of a sequence")
    _couple(tracker, call, cell, tracker.dims(x)[-1], hidden, written, rows=x.shape[:-1])
    _starts(tracker, call, hidden, written)
    tracker.bind_attribute(call, "input_size", tracker.dims(x)[-1])
    for out in call.outs:
        tracker.set_dims(out, (*(None,) * (len(out.shape) - 1), hidden))


def _cells(call: Call) -> Iterator[_Cell]:
    """Layer by layer, in each forwards before backwards."""
    params: Sequence[Ref] = call.args["params"]
    count = call.args["num_layers"] * (2 if call.args["bidirectional"] else 1)
    of_one = len(params) // count
    biases = 2 if call.args["has_biases"] else 0
    for first in range(0, len(params), of_one):
        from_input, from_hidden, *rest = params[first : first + of_one]
        projection = rest[biases] if len(rest) > biases else None
        yield _Cell(from_input, from_hidden, tuple(rest[:biases]), projection)


def _sizes(tracker: ChannelTracker, cell: _Cell, call: Call) -> tuple[Dim, Dim]:
    """The hidden units, and the part of them that is passed on."""
    hidden = tracker.fresh(cell.from_hidden.shape[0] // _gates(call))
    tracker.bind_attribute(call, "hidden_size", hidden)
    if cell.projection is None:
        return hidden, hidden
    written = tracker.fresh(cell.projection.shape[0])
    tracker.bind_attribute(call, "proj_size", written)
    tracker.freeze(hidden, call, "PyTorch needs more hidden units than projections of them")
    return hidden, written


def _gates(call: Call) -> int:
    return {"lstm": 4, "gru": 3}.get(call.op.removeprefix("aten.").removesuffix("_cell"), 1)


def _couple(
    tracker: ChannelTracker,
    call: Call,
    cell: _Cell,
    inputs: Dim | None,
    hidden: Dim,
    written: Dim,
    *,
    rows: Sequence[int],
) -> None:
    """Tie the rows of every gate to the units, and the columns to what is read."""
    gates = Dim(np.tile(hidden.ids, _gates(call)))
    matrices = [(cell.from_input, gates, inputs), (cell.from_hidden, gates, written)]
    if cell.projection is not None:
        matrices.append((cell.projection, written, hidden))
    for matrix, out_dim, in_dim in matrices:
        writes, reads = tracker.dims(matrix)
        tracker.tie_or_freeze(writes, out_dim, call, "one hidden unit")
        tracker.tie_or_freeze(reads, in_dim, call, "reads fixed channels")
        tracker.set_role(writes, "writer")
        tracker.set_role(reads, "reader")
        tracker.products.append(Product((writes, reads, *(None,) * len(rows)), (*matrix.shape, *rows)))
    for bias in cell.biases:
        tracker.tie_or_freeze(tracker.dims(bias)[0], gates, call, "one hidden unit")


def _starts(tracker: ChannelTracker, call: Call, hidden: Dim, written: Dim) -> None:
    """The initial states: h, and for an LSTM c. Blank ones are as wide as the hidden units."""
    for state, dim in zip(tree_leaves(call.args["hx"]), (written, hidden), strict=False):
        *lead, width = tracker.dims(state)
        for other in lead:
            tracker.freeze(other, call, "channels used as layers or positions")
        if not tracker.fill_blank(state, -1, dim):
            tracker.tie_or_freeze(width, dim, call, "starts from a state of fixed size")


_KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")

RULES: dict[str, OperatorRule] = {
    **{f"aten.{kind}": _recurrent_layer for kind in _KINDS},
    **{f"aten.{kind}_cell": _recurrent_cell for kind in _KINDS},
}
