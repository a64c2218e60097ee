"""Results of long computations are read by a resumed run, if they are of the same network and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import nn

from compressor.core import PrunePlan
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.run_options import RunOptions
from compressor.steps import stored_results
from compressor.steps.stored_results import stored_result
from compressor.training.training_checkpoint import Checkpoints

MODEL = "cifar:resnet8@digits"
REPAIR = "images: 128, refine: {images: 512, work: 0.1}"
SHORT = ["bench.target=none", "data={source: digits}", "retrain.epochs=0"]
MINUTES = [f"reconstruct={{{REPAIR}}}", "prune.rounds=1"]
MASKS = [f"reconstruct={{{REPAIR}, mask_search: none}}", "prune.2of4.permute=false"]
EXPENSIVE = (
    "steps.rank_channels.rank_channels",
    "reconstruction.sequential.reconstruct",
    "reconstruction.refinement.refine",
)


@pytest.fixture
def every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_results, "LONG", 0.0)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "a run")


def seeded(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(2, 2)


def computed_again() -> NoReturn:
    raise AssertionError


@pytest.mark.usefixtures("every_result")
def test_a_result_is_computed_once(checkpoints: Checkpoints) -> None:
    plan = PrunePlan({"a": np.array([True, False])}, 8)
    value = {"plan": plan, "weights": {"w": torch.eye(2)}, "error": 0.5, "note": None}
    for compute in (lambda: value, computed_again):
        result = stored_result(checkpoints, "plan", seeded(), compute, (PrunePlan,))
        assert result["plan"].kept["a"].tolist() == [True, False]
        assert result["plan"].round_to == 8
        assert torch.equal(result["weights"]["w"], torch.eye(2))
        assert (result["error"], result["note"]) == (0.5, None)


@pytest.mark.usefixtures("every_result")
def test_another_run_network_or_setting_computes_anew(checkpoints: Checkpoints) -> None:
    assert stored_result(checkpoints, "ridge 1", seeded(), lambda: 1) == 1
    assert stored_result(checkpoints, "ridge 2", seeded(), lambda: 2) == 2
    assert stored_result(checkpoints, "ridge 1", seeded(1), lambda: 3) == 3
    other = Checkpoints(checkpoints.folder, "another run")
    assert stored_result(other, "ridge 1", seeded(), lambda: 4) == 4
    assert stored_result(checkpoints, "ridge 1", seeded(), computed_again) == 1


@dataclass
class Unknown:
    number: int


@pytest.mark.usefixtures("every_result")
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off"])
def test_a_file_that_cannot_be_read_is_replaced(checkpoints: Checkpoints, content: bytes | None) -> None:
    """Of a class that is not given, empty, or damaged."""
    assert stored_result(checkpoints, "x", seeded(), lambda: Unknown(1)) == Unknown(1)
    if content is not None:
        for file in (checkpoints.folder / stored_results.FOLDER).iterdir():
            file.write_bytes(content)
    assert stored_result(checkpoints, "x", seeded(), lambda: Unknown(2)) == Unknown(2)
    assert stored_result(checkpoints, "x", seeded(), computed_again, (Unknown,)) == Unknown(2)


def test_a_short_computation_leaves_no_file(checkpoints: Checkpoints) -> None:
    assert stored_result(checkpoints, "x", seeded(), lambda: 1) == 1
    assert not checkpoints.folder.exists()


@pytest.mark.usefixtures("every_result", "quick_export")
@pytest.mark.parametrize(("recipe", "own"), [("minutes", MINUTES), pytest.param("2of4", MASKS, marks=pytest.mark.long)])
def test_a_resumed_run_reads_what_the_interrupted_one_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, own: list[str]
) -> None:
    settings = read_recipe(recipe, [*SHORT, *own])

    def run(name: str, *, resume: bool = False) -> dict[str, Any]:
        return compress_model(MODEL, settings, tmp_path / name, RunOptions(None, resume))  # type: ignore[return-value]

    whole = run("whole")
    with monkeypatch.context() as interrupted:
        interrupted.setattr("compressor.pipeline.export_models", lambda *_: computed_again())
        with pytest.raises(AssertionError):
            run("resumed")
    with monkeypatch.context() as resumed:
        for place in EXPENSIVE:
            resumed.setattr(f"compressor.{place}", lambda *_args, **_kwargs: computed_again())
        report = run("resumed", resume=True)
    weights = [(tmp_path / name / "slim.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    for key in ("notes", "warnings", "agreement", "groups", "errors"):
        assert report.get(key) == whole.get(key), key
    layers = [[layer["error_after"] for layer in each["reconstruction"]["layers"]] for each in (whole, report)]
    assert layers[0] == layers[1]
