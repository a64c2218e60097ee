"""Sparse, quantized, nested and opaque buffers: they stay as they are, and no file of weights can hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from failures import raises_error
from pruned_models import pruned
from torch import Tensor, nn

import compressor
from compressor.criteria.synaptic_flow import synaptic_flow
from compressor.errors import ModelError
from compressor.execution.copies import copy_module, copy_without_values
from compressor.execution.differences import is_close
from compressor.reconstruction.program import record
from compressor.tensors import named_tensors

pytestmark = [pytest.mark.usefixtures("quick_export"), pytest.mark.filterwarnings("ignore::UserWarning")]

BUFFERS: dict[str, Callable[[], Tensor]] = {
    "coo": lambda: torch.eye(4).to_sparse(),
    "bool_coo": lambda: torch.eye(4).bool().to_sparse(),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)], layout=torch.jagged),
    "mkldnn": lambda: torch.eye(4).to_mkldnn(),
}


class Net(nn.Module):
    """Three linear layers beside a buffer; with `mixes`, the buffer multiplies the first one's output."""

    def __init__(self, odd: Tensor, persistent: bool = False, mixes: bool = False) -> None:
        super().__init__()
        self.mixes = mixes
        self.first, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 32), nn.Linear(32, 4)
        self.register_buffer("odd", odd, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.mixes:
            x = torch.sparse.mm(self.get_buffer("odd"), x.T).T
        return self.b(torch.relu(self.a(x)))


def samples(count: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


def compressed(net: Net, out: Path) -> nn.Module:
    """Half of the channels, reconstructed and retrained on the dense network's answers."""
    torch.manual_seed(0)
    overrides = {"bench.target": "none", "prune.round_to": 1, "prune.target": {"ratio": "50%"}}
    slim, report = compressor.compress(
        net, "minutes", data=samples(64), example_inputs=samples(2), overrides=overrides, out=out, progress=False
    )
    assert report["certificate"]["ok"]
    return slim


@pytest.mark.parametrize("kind", BUFFERS)
def test_networks_with_unusual_buffers_are_pruned_trained_and_loaded(kind: str, tmp_path: Path) -> None:
    net = Net(BUFFERS[kind]())
    slim = compressed(net, tmp_path)
    loaded = compressor.load(tmp_path, net)
    assert len(slim.get_parameter("a.weight")) == len(loaded.get_parameter("a.weight")) < 32
    assert is_close(loaded.get_buffer("odd"), net.get_buffer("odd"), 0.0)
    assert "odd" not in named_tensors(slim)


@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_channels_behind_a_sparse_product_are_removed_and_it_is_recorded(kind: str) -> None:
    net = Net(BUFFERS[kind](), mixes=True)
    slim, _ = pruned(net, samples(2), {"a": range(1, 32, 2)})
    assert slim.get_parameter("a.weight").equal(net.get_parameter("a.weight")[::2])
    assert record(slim, samples(3)).complete


@pytest.mark.parametrize("kind", BUFFERS)
def test_saved_buffers_that_no_file_of_weights_holds_are_refused(kind: str, tmp_path: Path) -> None:
    with raises_error(ModelError, "model/unsupported-tensor", "odd"):
        compressed(Net(BUFFERS[kind](), persistent=True), tmp_path)


@pytest.mark.parametrize("kind", BUFFERS)
def test_copies_hold_equal_buffers_of_their_own(kind: str) -> None:
    net = Net(BUFFERS[kind]())
    for copied in (copy_module(net), copy_without_values(net)):
        assert copied.get_buffer("odd") is not net.get_buffer("odd")
        assert is_close(copied.get_buffer("odd"), net.get_buffer("odd"), 0.0)
    assert copy_without_values(net).get_parameter("a.weight").is_meta


@pytest.mark.parametrize("kind", sorted(BUFFERS.keys() - {"mkldnn"}))  # PyTorch cannot turn that one to float64
def test_synaptic_flow_passes_by_unusual_buffers(kind: str) -> None:
    assert synaptic_flow(Net(BUFFERS[kind]()), [samples(2)])["a.weight"].min() > 0
