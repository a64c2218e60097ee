"""Networks whose outputs are zero on every input at hand: layers before them are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from failures import raises_error
from torch import nn

import compressor
from compressor.core import PrunePlan
from compressor.errors import VerificationFailed
from compressor.graph.dependency_graph import DependencyGraph
from compressor.surgery.analysis import analyze
from compressor.surgery.certificate import certify_removal, verify_against_original
from compressor.surgery.removal import compose_kept, remove_channels


def behind_relu(*, inplace: bool) -> nn.Sequential:
    """Negative before the last ReLU, which may write into what it reads."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 1)
    with torch.no_grad():
        last.weight.copy_(-torch.rand(1, 16, 1, 1))
        last.bias.zero_()
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(inplace), last, nn.ReLU(inplace)).eval()


X = torch.randn(1, 1, 8, 8)


def halved(module: nn.Module) -> tuple[DependencyGraph, PrunePlan, nn.Module]:
    graph = analyze(module, X, name="it")
    plan = PrunePlan({group.name: np.arange(group.size) % 2 == 0 for group in graph.groups if group.frozen is None})
    return graph, plan, remove_channels(module, graph, plan)


@pytest.mark.parametrize("inplace", [False, True])
def test_layers_before_dead_outputs_prove_a_removal(inplace: bool) -> None:
    module = behind_relu(inplace=inplace)
    assert not module(X).any()
    graph, plan, slim = halved(module)
    proof = certify_removal(module, slim, graph, plan, X)
    assert proof.ok
    assert np.isfinite(proof.max_rel_error)
    kept = compose_kept({}, graph.groups, plan, slim)
    assert verify_against_original(slim, behind_relu(inplace=inplace), kept, X).ok


def test_a_wrong_removal_is_seen_before_dead_outputs() -> None:
    module = behind_relu(inplace=True)
    graph, plan, slim = halved(module)
    with torch.no_grad():
        slim.get_parameter("0.weight").mul_(1.01)
    proof = certify_removal(module, slim, graph, plan, X)
    assert not proof.ok
    assert proof.max_abs_error > 0


def test_nothing_is_proven_where_all_is_zero(tmp_path: Path) -> None:
    """Nothing is blamed either."""
    layers = nn.Threshold(1e6, 0.0), nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)
    silent = nn.Sequential(*layers).eval()
    overrides = {"bench.target": "none", "prune.round_to": 1}
    with raises_error(VerificationFailed, "certificate/nothing-to-compare"):
        compressor.compress(
            silent, "l1", example_inputs=torch.rand(2, 8), overrides=overrides, out=tmp_path / "out", progress=False
        )
