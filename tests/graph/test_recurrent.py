"""Hidden units of LSTM, GRU and RNN are cut out of every gate, layer and direction, and their work is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exports import export_onnx
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from compressor.graph.cost import count_cost

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
Cut = Callable[..., tuple[dict[str, int], nn.Module]]  # see conftest.py


class Tagger(nn.Module):
    """Words in, a tag for each out; what goes on is the sequence of the last layer."""

    def __init__(self, rnn: nn.Module, width: int) -> None:
        super().__init__()
        self.before, self.rnn, self.out = nn.Linear(5, 6), rnn, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(torch.relu(self.before(x)))[0])


def test_multiply_adds_by_hand() -> None:
    """Four gates of 9 units read 6 inputs and 9 units, at each of 7 steps."""
    module = Tagger(nn.LSTM(6, 9, batch_first=True), 9)
    assert count_cost(module, torch.randn(1, 7, 5)).macs == 7 * (5 * 6 + 4 * 9 * (6 + 9) + 9 * 3)


RECURRENT: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "lstm": (lambda: nn.LSTM(6, 9, batch_first=True), 9),
    "gru": (lambda: nn.GRU(6, 9, batch_first=True), 9),
    "rnn": (lambda: nn.RNN(6, 9, batch_first=True), 9),
    "relu": (lambda: nn.RNN(6, 9, batch_first=True, nonlinearity="relu", bias=False), 9),
    "both directions": (lambda: nn.LSTM(6, 9, bidirectional=True), 18),
    "three layers": (lambda: nn.GRU(6, 9, num_layers=3, dropout=0.5, bidirectional=True, batch_first=True), 18),
    "as wide as its input": (lambda: nn.LSTM(6, 6, num_layers=2, batch_first=True), 6),
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_units_go_from_every_gate_layer_and_direction(kind: str, cut: Cut) -> None:
    make, width = RECURRENT[kind]
    torch.manual_seed(0)
    module = Tagger(make(), width)
    free, slim = cut(module, torch.randn(1, 7, 5))
    assert {"before", "rnn"} <= free.keys()
    assert free["rnn"] == module.rnn.hidden_size
    assert slim.rnn.input_size == slim.before.out_features == 3
    assert slim.rnn.hidden_size == {9: 5, 6: 3}[module.rnn.hidden_size]
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[type(slim.rnn).__name__]
    assert slim.rnn.weight_ih_l0.shape == (gates * slim.rnn.hidden_size, 3)


def test_of_projected_units_the_projections_are_cut(cut: Cut) -> None:
    """PyTorch tells a projection by its being narrower than the units, so that those stay."""
    torch.manual_seed(0)
    lstm = nn.LSTM(6, 9, num_layers=2, bidirectional=True, proj_size=4, batch_first=True)
    free, slim = cut(Tagger(lstm, 8), torch.randn(1, 7, 5))
    assert free == {"before": 6, "rnn#2": 4}
    assert (slim.rnn.hidden_size, slim.rnn.proj_size, slim.out.in_features) == (9, 2, 4)


class StatesOfItsOwn(nn.Module):
    """As tutorials write it: the states it starts from are made by hand, with a size of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_layers, self.width = 2, 9
        self.lstm, self.head = nn.LSTM(6, 9, num_layers=2, batch_first=True), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(self.num_layers, x.size(0), self.width).to(x.device)
        c0 = torch.zeros(self.num_layers, x.size(0), self.width).to(x.device)
        out, _ = self.lstm(x, (h0, c0))
        return self.head(out[:, -1, :])


class LastStates(nn.Module):
    """The last states of both directions, of sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.lstm, self.head = nn.LSTM(6, 9, bidirectional=True, batch_first=True), nn.Linear(18 + 18, 3)

    def forward(self, ids: Tensor) -> Tensor:
        lengths = torch.full((len(ids),), ids.shape[1] - 1)
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        out, (h, _) = self.lstm(packed)
        padded, _ = pad_packed_sequence(out, batch_first=True)
        return self.head(torch.cat([h[-2], h[-1], padded.mean(1)], 1))


class Handed(nn.Module):
    """A decoder of cells starts from the state of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = nn.GRU(5, 9, batch_first=True), nn.GRUCell(3, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.encoder(x)[1][0]
        y = x.new_zeros(len(x), 3)
        for _ in range(3):
            state = self.decoder(y, state)
            y = self.head(state)
        return y


class LearntStart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.c = nn.Parameter(torch.randn(1, 1, 9)), nn.Parameter(torch.randn(1, 1, 9))
        self.lstm, self.head = nn.LSTM(5, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[1]
        start = self.h.expand(-1, batch, -1).contiguous(), self.c.expand(-1, batch, -1).contiguous()
        return self.head(self.lstm(x, start)[0])


@pytest.mark.parametrize(
    ("make", "inputs", "widths"),
    [
        (StatesOfItsOwn, torch.randn(1, 7, 6), {"lstm": 9}),
        (LastStates, torch.arange(8)[None], {"words": 6, "lstm": 9}),
        (Handed, torch.randn(1, 7, 5), {"encoder": 9}),
        (LearntStart, torch.randn(7, 1, 5), {"lstm": 9}),
    ],
)
def test_states_follow_the_units(make: type[nn.Module], inputs: Tensor, widths: dict[str, int], cut: Cut) -> None:
    torch.manual_seed(0)
    free, slim = cut(make(), inputs)
    assert free == widths
    recurrent = next(module for module in slim.modules() if isinstance(module, nn.RNNBase))
    assert recurrent.hidden_size == 5


def test_the_size_of_a_state_made_by_hand_is_rewritten(cut: Cut) -> None:
    _, slim = cut(StatesOfItsOwn(), torch.randn(1, 7, 6))
    assert (slim.num_layers, slim.width, slim.lstm.hidden_size) == (2, 5, 5)


@pytest.mark.long
def test_what_is_cut_is_exported(cut: Cut, tmp_path: Path) -> None:
    make, width = RECURRENT["three layers"]
    _, slim = cut(Tagger(make(), width), torch.randn(1, 7, 5))
    exported = export_onnx(
        slim, (torch.randn(2, 7, 5),), tmp_path / "slim.onnx", opset=None, dynamic_batch=True, metadata={}
    )
    assert exported.ok
