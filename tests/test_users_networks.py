"""A user's own file from the command line to the reloaded module, whatever its network takes and answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import compressor
from compressor.cli import run
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.saved_model import load_folder
from compressor.tensors import tree_leaves

pytestmark = pytest.mark.usefixtures("quick_export")

NETWORKS = Path(__file__).with_name("networks_of_users.py")
FACTORIES = (
    "TwoInputs",
    "TwoHeads",
    "Tokens",
    *(pytest.param(name, marks=pytest.mark.long) for name in ("Signal", "Volume", "Series")),
)
NAMES = {  # of the ONNX file's inputs and outputs
    "TwoInputs": (["picture", "facts"], ["output"]),
    "TwoHeads": (["input"], ["found_boxes", "found_scores", "kind"]),
    "Tokens": (["ids", "mask"], ["output"]),
}


@pytest.mark.parametrize("factory", FACTORIES)
def test_it_is_cut_exported_reloaded_and_verified(factory: str, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(f"{NETWORKS.read_text()}\nexample_inputs = TAKES[{factory!r}]\n")
    out = tmp_path / "out"
    options = ["--set", "prune.target={ratio: 50%}", "--set", "prune.round_to=1", "--set", "bench.target=none"]
    assert run([f"{net}:{factory}", "-r", "l1", "-o", str(out), "-q", *options]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["certificate"]["ok"]
    assert report["onnx"]["ok"]
    assert report["slim"]["params"] < report["dense"]["params"]
    assert run(["verify", str(out), "-q"]) == 0
    assert run(["inspect", f"{net}:{factory}", "-q"]) == 0

    slim = load_folder(out)
    inputs = example_inputs(slim, 3)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    taken, given = ([each.name for each in side] for side in (session.get_inputs(), session.get_outputs()))
    assert (taken, given) == NAMES.get(factory, (["input"], ["output"]))
    found = session.run(None, {name: each.numpy() for name, each in zip(taken, inputs, strict=True)})
    with torch.inference_mode():
        expected = tree_leaves(compressor.load(out)(*inputs))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == 3, "any batch"
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_shapes_of_several_inputs_can_be_given_in_the_recipe(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(NETWORKS.read_text())
    shapes = "model.input=[[3, 12, 12], [5]]"
    options = ["--set", shapes, "--set", "bench.target=none", "--set", "prune.target={ratio: 50%}"]
    assert run([f"{net}:TwoInputs", "-r", "l1", "-o", str(tmp_path / "out"), "-q", *options]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["architecture"]["input"] == [[3, 12, 12], [5]]


def test_data_for_a_model_that_does_not_take_one_picture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.py"
    net.write_text(f"{NETWORKS.read_text()}\nexample_inputs = TAKES['TwoInputs']\n")
    options = ["--set", "data={source: digits}", "--set", "prune.target={ratio: 50%}"]
    assert run([f"{net}:TwoInputs", "-r", "l1", "-o", str(tmp_path / "out"), "--json", *options]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "data/no-picture-input"
    assert "3x8x8 and 5" in error["problem"]


@pytest.mark.long
@pytest.mark.parametrize("factory", ["TwoInputs", "Tokens"])
def test_several_inputs_are_measured(factory: str, tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(f"{NETWORKS.read_text()}\nexample_inputs = TAKES[{factory!r}]\n")
    options = ["--set", "prune.target={ratio: 50%}", "--set", "bench={target: local, seconds: 0.5, batch: [1, 4]}"]
    assert run([f"{net}:{factory}", "-r", "l1", "-o", str(tmp_path / "out"), "-q", *options]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["slim"]["latency_ms"]["p50"] > 0


@pytest.mark.parametrize(
    ("layers", "code", "words"),
    [
        ("nn.Linear(12, 4)", "nothing-to-prune/all-frozen", "output of the model"),
        (
            "nn.Linear(9, 8), nn.Linear(8, 4)",
            "model-does-not-run/forward-fails",
            r"\(1, 12\).*mat1 and mat2",
        ),
    ],
)
def test_a_network_that_cannot_be_cut_is_no_target_out_of_reach(
    layers: str, code: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.py"
    net.write_text(f"from torch import nn\n\ndef make():\n    return nn.Sequential({layers})\n")
    options = ["--set", "model.input=[12]", "--set", "bench.target=none", "-q"]
    assert run([f"{net}:make", "-r", "l1", "-o", str(tmp_path / "out"), "--json", *options]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == code
    assert re.search(words, error["problem"])
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".py" and each.name != "__pycache__"] == []
