"""Outputs that are left out and inputs that are passed by name, without a change of the module's tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.cli import run
from compressor.errors import ModelError
from compressor.execution.copies import copy_module
from compressor.models.preparation.signature import (
    name_inputs,
    output_indices,
    select_outputs,
    without_selection,
    without_signature,
)


class Net(nn.Module):
    """Answers with a nested tuple; its mask is the third parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, cache: None = None, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        hidden = torch.relu(self.a(x if mask is None else x * mask))
        return self.b(hidden), [hidden, hidden.sum(1)]


def test_outputs_are_selected_and_restored_in_copies() -> None:
    x = torch.randn(2, 4)
    net = Net().eval()
    whole = net(x)
    assert torch.equal(select_outputs(net, (0,))(x), whole[0])
    assert torch.equal(copy_module(net)(x), whole[0])
    assert len(without_selection(net)(x)) == 2
    assert list(net.state_dict()) == list(Net().state_dict())


def test_tensors_are_passed_by_name() -> None:
    x, mask = torch.randn(2, 4), torch.zeros(2, 4)
    net = name_inputs(Net().eval(), ["x", "mask"])
    assert torch.equal(net(x, mask)[0], Net.forward(net, x, mask=mask)[0])
    with pytest.raises(TypeError):
        without_signature(net)(x, mask, None, None)


def test_an_output_that_does_not_exist_is_refused() -> None:
    net, x = Net().eval(), torch.randn(2, 4)
    assert output_indices(net, [x], ["output_0", 2], "net") == (0, 2)
    with pytest.raises(ModelError) as caught:
        output_indices(net, [x], [3], "net")
    assert caught.value.code == "model/no-such-output"


@pytest.mark.usefixtures("quick_export")
def test_what_only_other_outputs_need_no_longer_freezes(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 3)\n"
        "    def forward(self, x):\n        h = torch.relu(self.a(x))\n        return self.b(h), h\n"
    )
    options = ["-r", "l1", "--target", "none", "-q", "--set", "model.input=[4]", "--set", "prune.target={macs: 50%}"]
    assert run([f"{net}:Net", *options, "-o", str(tmp_path / "whole")]) == 3
    assert run([f"{net}:Net", *options, "--set", "model.outputs=[0]", "-o", str(tmp_path / "out")]) == 0
    slim = compressor.load(tmp_path / "out")
    assert slim(torch.randn(5, 4)).shape == (5, 3)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["model"]["outputs"] == [0]
