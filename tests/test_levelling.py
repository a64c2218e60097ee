"""All that can go goes together before any layer is cut below a quarter, and a warning names what is cut below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.budget.greedy import Budget, greedy_allocate
from compressor.budget.layer_rules import LayerRule
from compressor.budget.target import PruningTarget
from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.criteria.magnitude import l1
from compressor.run_log import RunLog
from compressor.steps.context import Context
from compressor.steps.narrow_layers import warn_of_narrow_layers
from compressor.steps.remove_channels import RemoveChannels
from compressor.steps.run import initial_state, run_step
from compressor.steps.select_channels import SelectChannels
from compressor.steps.state import PruningState
from compressor.training.training_checkpoint import Checkpoints


class Block(nn.Module):
    """A feed-forward block on a residual stream, whose norms mix the stream's channels."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Plain(nn.Module):
    """Nothing but the hidden layer can go: the input and the answer have their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def model(module: nn.Module) -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(module.eval(), ModelSpec("net", (ModelInput((16,)),)), "net")


def stream() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), Block(32, 64), Block(32, 64), nn.Linear(32, 4))


def select(module: nn.Module, target: PruningTarget, folder: Path) -> tuple[PruningState, list[str]]:
    context = Context(None, 0, RunLog(), Checkpoints(folder, ""))
    state = run_step(SelectChannels(l1, target), initial_state(model(module), context), context)
    warn_of_narrow_layers(run_step(RemoveChannels(), state, context), target, context.log)
    return state, context.log.warnings


def shares(state: PruningState) -> dict[str, float]:
    return {name: float(kept.mean()) for name, kept in state.selected.kept.items()}


def test_the_residual_stream_goes_before_a_layer_falls_below_a_quarter(tmp_path: Path) -> None:
    state, warnings = select(stream(), PruningTarget(macs=0.25), tmp_path)
    kept = shares(state)
    assert set(kept) == {"0", "1.up", "2.up"}
    assert min(kept.values()) > 0.25
    assert max(kept.values()) - min(kept.values()) < 0.1
    assert warnings == []


def test_layers_alone_go_as_long_as_they_keep_a_quarter(tmp_path: Path) -> None:
    state, warnings = select(stream(), PruningTarget(macs=0.5), tmp_path)
    assert set(shares(state)) == {"1.up", "2.up"}
    assert warnings == []


def test_what_must_fall_below_a_quarter_is_named(tmp_path: Path) -> None:
    state, warnings = select(Plain(), PruningTarget(macs=0.1), tmp_path)
    assert shares(state)["up"] < 0.25
    assert len(warnings) == 1
    assert "up (" in warnings[0]


@pytest.mark.parametrize(
    "target", [PruningTarget(ratio=0.9), PruningTarget(macs=0.5, rules=(LayerRule("up", ratio=0.9),))]
)
def test_what_is_asked_for_by_a_ratio_is_no_surprise(tmp_path: Path, target: PruningTarget) -> None:
    state, warnings = select(Plain(), target, tmp_path)
    assert shares(state)["up"] < 0.25
    assert warnings == []


def test_greedy_allocation_keeps_what_it_is_told_to() -> None:
    groups = initial_state(model(stream()), Context(None, 0, RunLog(), Checkpoints(None, ""))).groups
    free = np.array([group.frozen is None for group in groups])
    scores = {group.name: np.arange(1.0, group.size + 1) for group in groups}
    sizes = np.array([group.size for group in groups])
    first = int(np.flatnonzero(free)[0])

    def cost(removed_MG: np.ndarray) -> np.ndarray:
        weight_G = np.where(np.arange(len(groups)) == first, 10.0, 1.0)  # one group brings most of the gain
        return ((sizes - removed_MG) * weight_G).sum(axis=1)

    dense = float(cost(np.zeros((1, len(groups)), dtype=np.int64))[0])
    limit = Budget("cost", cost, 0.4 * dense, dense)
    start, unit = np.zeros_like(sizes), np.ones_like(sizes)
    least = -(-sizes // 4)
    levelled = greedy_allocate(groups, scores, start, free, unit, [limit], least)
    assert (sizes - levelled >= least).all()
    assert levelled[first] > 0
