"""Places of an ONNX file that stand for one line of code are interpreted together."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_models import export
from torch import nn
from torchvision.models import SwinTransformer

from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.onnx_import import read_graph
from compressor.models.onnx_import.alike_places import alike_places
from compressor.models.onnx_import.imported_module import NodeCall
from compressor.models.source import load_model
from compressor.surgery import analysis


def _swin(blocks: int) -> nn.Module:
    """One stage, whose windows the exporter writes with fixed sizes."""
    return SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[blocks], num_heads=[3], window_size=[4, 4], num_classes=4
    )


def _trials(blocks: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[int]]:
    """Trial removals of the analysis, and the sizes of the groups that can be pruned."""
    path = export(_swin(blocks), (3, 32, 32), folder / f"{blocks}.onnx")
    model, trials, remove = load_model(str(path)), [], analysis.remove_channels
    monkeypatch.setattr(analysis, "remove_channels", lambda *given: trials.append(1) or remove(*given))
    graph = analysis.analyze(model.module, *example_inputs(model, 1), name=model.name)
    return len(trials), [group.size for group in graph.groups if group.frozen is None]


def test_blocks_that_repeat_need_no_further_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_graph, "constant_sizes", lambda _: {})  # with them no trial fails here
    few, many = (_trials(blocks, tmp_path, monkeypatch) for blocks in (2, 6))
    assert few[0] > 1
    assert many[0] == few[0]
    assert (few[1], many[1]) == ([96] * 2, [96] * 6)


def _chain(*operators: str) -> tuple[list[NodeCall], dict[str, str]]:
    steps = [NodeCall(f"m{at}", (f"v{at}",), (f"v{at + 1}",), f"p{at}") for at in range(len(operators))]
    return steps, {f"m{at}": operator for at, operator in enumerate(operators)}


def test_places_with_equal_surroundings_are_alike() -> None:
    steps, operators = _chain(*["Conv", "Relu", "Reshape"] * 5)
    alike = alike_places(steps, operators)
    assert alike["p4"] == {"p4", "p7", "p10"}  # not p1 and p13, which are within three nodes of an end
    assert alike["p0"] == {"p0"}


def test_another_operator_nearby_tells_places_apart() -> None:
    operators = ["Conv", "Relu", "Reshape"] * 6
    operators[9] = "Gemm"
    alike = alike_places(*_chain(*operators))
    assert alike["p5"] == {"p5", "p14"}
    assert alike["p8"] == {"p8"}  # it and p11 are within three nodes of the Gemm
    assert alike["p11"] == {"p11"}
