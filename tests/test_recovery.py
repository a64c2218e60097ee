"""Recovery without labels, end to end: reconstruction, distillation from the dense answers, agreement, gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import compressor
from compressor.commands.verify import verify_folder
from compressor.data.digits import digits_split
from compressor.errors import AccuracyGateFailed
from compressor.models.source import load_model
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.run_options import RunOptions
from tests.training.toys import quiet

pytestmark = pytest.mark.usefixtures("quick_export")

MODEL = "cifar:resnet8@digits"
SHORT = ("bench.target=none", "prune.target={macs: 50%}", "prune.round_to=1", "reconstruct.images=128")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training digits as uint8 pixels, without their labels."""
    folder = tmp_path_factory.mktemp("samples")
    image = load_model(MODEL).spec.image
    assert image is not None
    split = digits_split("train", image)
    np.save(folder / "digits.npy", split.images[:400].numpy())
    return folder / "digits.npy"


def run(recipe: str, samples: Path, out: Path, *overrides: str) -> dict[str, Any]:
    return compress_model(MODEL, read_recipe(recipe, [*SHORT, *overrides]), out, RunOptions(data=str(samples)))


@pytest.fixture(scope="module")
def minutes(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("minutes") / "out"
    return run("minutes", samples, out), out


def test_reconstruction_brings_the_answers_back(minutes: tuple[dict[str, Any], Path]) -> None:
    report, _ = minutes
    steps = report["agreement"]["steps"]
    assert list(steps) == ["after surgery", "after reconstruction", "after refinement"]
    assert steps["after reconstruction"]["kl"] < steps["after surgery"]["kl"] / 2
    assert steps["after refinement"]["kl"] < steps["after surgery"]["kl"] / 2
    assert steps["after reconstruction"]["top1"] > steps["after surgery"]["top1"]
    assert report["agreement"]["samples"] == 80
    assert report["slim"]["accuracy"] is None
    assert not report["retrained"]


def test_the_report_has_the_evidence_of_every_layer(minutes: tuple[dict[str, Any], Path]) -> None:
    report, _ = minutes
    record = report["reconstruction"]
    accepted = [layer for layer in record["layers"] if layer["accepted"]]
    assert record["images"] == 128
    assert len(accepted) >= 5
    assert all(layer["error_after"] < layer["error_before"] for layer in accepted)
    assert report["certificate"]["ok"], "the certificate is about surgery alone"


def test_a_reconstructed_folder_verifies_and_reloads(minutes: tuple[dict[str, Any], Path]) -> None:
    _, out = minutes
    assert verify_folder(out, emit=quiet)["ok"]
    assert torch.isfinite(compressor.load(out)(torch.zeros(1, *load_model(MODEL).spec.input))).all()


@pytest.mark.parametrize(("affordable", "passes"), [(2.5, 2), (9.0, 4), (0.1, 0)])
def test_the_work_of_a_refinement_is_bounded(
    minutes: tuple[dict[str, Any], Path], samples: Path, tmp_path: Path, affordable: float, passes: int
) -> None:
    events: list[tuple[str, Mapping[str, object]]] = []
    macs_of_an_image = 3 * minutes[0]["slim"]["macs"] + minutes[0]["dense"]["macs"]
    work = affordable * 340 * macs_of_an_image / 1e12  # 60 of the 400 samples are held out, and judge
    recipe = read_recipe("minutes", [*SHORT, "prune.rounds=1", f"reconstruct.refine={{images: 400, work: {work:.9f}}}"])
    options = RunOptions(data=str(samples), emit=lambda event, fields: events.append((event, fields)))
    compress_model(MODEL, recipe, tmp_path / "out", options)
    batches = [fields["total"] for event, fields in events if event == "progress" and fields["what"] == "batches"]
    assert set(batches) == ({11 * passes} if passes else set()), "of 32 samples"


def test_a_run_interrupted_in_the_middle_of_reconstruction_resumes_to_the_same_bits(
    minutes: tuple[dict[str, Any], Path], samples: Path, tmp_path: Path
) -> None:
    def interrupt(event: str, fields: Mapping[str, object]) -> None:
        if event == "progress" and (fields["what"], fields["done"]) == ("layers", 4):
            raise KeyboardInterrupt

    recipe, out = read_recipe("minutes", SHORT), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compress_model(MODEL, recipe, out, RunOptions(data=str(samples), emit=interrupt))
    assert not out.exists()
    compress_model(MODEL, recipe, out, RunOptions(data=str(samples), resume=True))
    assert (out / "slim.safetensors").read_bytes() == (minutes[1] / "slim.safetensors").read_bytes()


def test_training_follows_reconstruction(minutes: tuple[dict[str, Any], Path], samples: Path, tmp_path: Path) -> None:
    gentle = ("retrain.epochs=1", "retrain.optimizer.lr=0.001")
    report = run("auto", samples, tmp_path / "out", *gentle)
    steps = report["agreement"]["steps"]
    assert list(steps) == ["after surgery", "after reconstruction", "after refinement", "after retraining"]
    assert steps["after reconstruction"] == minutes[0]["agreement"]["steps"]["after reconstruction"]
    assert report["retrained"]


def test_training_on_the_dense_models_answers_needs_no_labels(samples: Path, tmp_path: Path) -> None:
    fast = ("retrain.epochs=4", "retrain.batch_size=32", "retrain.optimizer.lr=0.01")
    steps = run("auto", samples, tmp_path / "out", "reconstruct=off", *fast)["agreement"]["steps"]
    assert list(steps) == ["after surgery", "after retraining"]
    assert steps["after retraining"]["kl"] < steps["after surgery"]["kl"] / 2


def test_the_training_before_the_removal_needs_no_labels_and_is_kept(samples: Path, tmp_path: Path) -> None:
    """It drives the selected filters to zero, and so away from the dense model's answers."""
    short = ["prune.tpp.epochs=2", "retrain.epochs=1", "retrain.optimizer.lr=0.001", "bench.target=none"]
    report = compress_model(MODEL, read_recipe("tpp", short), tmp_path / "out", RunOptions(data=str(samples)))
    assert report["certificate"]["ok"]
    assert report["retrained"]


def test_training_that_moves_away_from_the_answers_is_undone(
    minutes: tuple[dict[str, Any], Path], samples: Path, tmp_path: Path
) -> None:
    report = run("auto", samples, tmp_path / "out", "retrain.epochs=1", "retrain.optimizer.lr=0.3")
    steps = report["agreement"]["steps"]
    assert steps["after retraining"] == steps["after refinement"]
    assert any("retrain.optimizer.lr=0.3" in warning for warning in report["warnings"])


def test_outputs_of_regression_agree_by_their_values(samples: Path, tmp_path: Path) -> None:
    fast = ("data.task=regression", "reconstruct=off", "retrain.epochs=1")
    steps = run("auto", samples, tmp_path / "out", *fast)["agreement"]["steps"]
    assert all(step["top1"] is None and step["kl"] is None and step["output_error"] > 0 for step in steps.values())


def test_gates_on_the_agreement(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(AccuracyGateFailed) as caught:
        run("minutes", samples, tmp_path / "out", "gates={output_error: 0.01%}", "reconstruct=off")
    assert caught.value.code == "agreement-gate-failed/answers-differ"
    assert caught.value.place == "output_error"
    assert (tmp_path / "out" / "model.onnx").is_file(), "the artefacts are kept"
