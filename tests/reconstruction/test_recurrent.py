"""Recurrent layers that lost hidden units, on networks whose lost units the kept ones tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.core import KeptIndices
from compressor.reconstruction.sequential import reconstruct
from compressor.reconstruction.solver_options import ReconstructionSettings

UNITS, KEPT = 8, 5  # the last three units double the first three
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], units: int, *, bidirectional: bool, batch_first: bool) -> None:
        super().__init__()
        self.rnn = kind(4, units, 2, batch_first=batch_first, bidirectional=bidirectional)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.rnn(x if self.batch_first else x.transpose(0, 1))[0]
        return states if self.batch_first else states.transpose(0, 1)


def _rows(gates: int, units: int) -> list[int]:
    return [gate * UNITS + unit for gate in range(gates) for unit in range(units)]


def _doubled(kind: type[nn.RNNBase], *, bidirectional: bool, batch_first: bool) -> Tagger:
    """Units 5 to 7 compute what units 0 to 2 do; the columns that read them differ."""
    torch.manual_seed(0)
    dense = Tagger(kind, UNITS, bidirectional=bidirectional, batch_first=batch_first).eval()
    with torch.no_grad():
        for parameter in dense.parameters():
            for gate in range(GATES[kind]):
                start = gate * UNITS
                parameter[start + KEPT : start + UNITS] = parameter[start : start + UNITS - KEPT]
    return dense


def _sliced(dense: Tagger, kind: type[nn.RNNBase], **options: bool) -> tuple[Tagger, KeptIndices]:
    slim, kept = Tagger(kind, KEPT, **options).eval(), dict[str, dict[int, tuple[int, ...]]]()
    rows, directions = _rows(GATES[kind], KEPT), 2 if options["bidirectional"] else 1
    below = [direction * UNITS + unit for direction in range(directions) for unit in range(KEPT)]
    for name, parameter in dense.named_parameters():
        kept[name] = {0: tuple(rows)}
        if "weight_hh" in name:
            kept[name][1] = tuple(range(KEPT))
        elif "weight_ih_l1" in name:
            kept[name][1] = tuple(below)
        tensor = parameter.data
        for dim, indices in kept[name].items():
            tensor = tensor.index_select(dim, torch.tensor(indices))
        slim.get_parameter(name).data.copy_(tensor)
    return slim, kept


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_that_others_tell_are_made_up_for(kind: type[nn.RNNBase], bidirectional: bool, batch_first: bool) -> None:
    options = {"bidirectional": bidirectional, "batch_first": batch_first}
    dense = _doubled(kind, **options)
    slim, kept = _sliced(dense, kind, **options)
    x = torch.randn(200, 12, 4)
    result = reconstruct(dense, slim, kept, [(x[:160],)], ReconstructionSettings(seed=0))
    (layer,) = result.layers
    assert layer.accepted
    assert layer.error_after < 1e-3 * layer.error_before
    units = [*range(KEPT), *(UNITS + unit for unit in range(KEPT))] if bidirectional else [*range(KEPT)]
    with torch.no_grad():
        expected = dense(x[160:])[..., units]
        before, after = ((module(x[160:]) - expected).square().mean() for module in (slim, result.module))
    assert after < 1e-3 * before


def test_states_that_nothing_tells_are_left_as_they_are() -> None:
    """Independent units of a network without biases: held-out samples refuse a fit that is no better."""
    torch.manual_seed(0)
    options = {"bidirectional": False, "batch_first": True}
    dense = Tagger(nn.RNN, UNITS, **options).eval()
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            if "weight_hh" in name:
                parameter.zero_()
            elif "weight_ih_l1" in name:
                parameter[:, KEPT:] = 0.0
    slim, kept = _sliced(dense, nn.RNN, **options)
    result = reconstruct(dense, slim, kept, [(torch.randn(100, 6, 4),)], ReconstructionSettings(seed=0))
    (layer,) = result.layers
    assert not layer.accepted
    assert all(torch.equal(result.module.get_parameter(name), value) for name, value in slim.named_parameters())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_states_are_not_solved() -> None:
    torch.manual_seed(0)
    dense, slim = (
        nn.Sequential(nn.Linear(4, width), nn.LSTM(width, 8, proj_size=3, batch_first=True)).eval() for width in (6, 5)
    )
    kept: KeptIndices = {name: {0: tuple(range(5))} for name in ("0.weight", "0.bias")}
    kept = {**kept, "1.weight_ih_l0": {1: tuple(range(5))}}
    result = reconstruct(dense, slim, kept, [(torch.randn(60, 5, 4),)], ReconstructionSettings(seed=0))
    assert "1" not in [layer.name for layer in result.layers]
    assert all(torch.equal(result.module[1].get_parameter(name), value) for name, value in slim[1].named_parameters())
