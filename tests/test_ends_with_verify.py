"""A run ends with what `verify` would say of its folder, and the folder holds the model that was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from failures import raises_error

import compressor
from compressor.commands import verify as verifying
from compressor.core import ModelSpec, ignore_event, one_image
from compressor.errors import VerificationFailed
from compressor.export.parity import Parity
from compressor.models.source import load_model
from compressor.pipeline import compress_model
from compressor.recipe import read_recipe
from compressor.run_options import RunOptions

CODE = """
import torch
from torch import fx, nn

class ByMode(fx.GraphModule):
    def __init__(self, root, train_graph, eval_graph):
        super().__init__(root, train_graph)
        self.train_graph, self.eval_graph = train_graph, eval_graph
    def train(self, mode=True):
        self.graph = self.train_graph if mode else self.eval_graph
        return super().train(mode)

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten())
    net[1].running_mean.normal_()
    return ByMode(net, fx.Tracer().trace(net), fx.Tracer().trace(net))

def example_inputs():
    return torch.randn(1, 3, 8, 8)
"""


def run(folder: Path, out: Path) -> None:
    (folder / "net.py").write_text(CODE)
    recipe = read_recipe("l1", ["prune.target={ratio: 50%}", "prune.round_to=1", "bench.target=none"])
    compress_model(f"{folder / 'net.py'}:make", recipe, out, RunOptions())


@pytest.mark.parametrize("number", ["1", "1.0", "0"])
def test_a_number_of_the_report_that_was_changed_is_noticed(number: str, tmp_path: Path) -> None:
    run(tmp_path, tmp_path / "out")
    path = tmp_path / "out" / "report.json"
    written = path.read_text()
    report = json.loads(written)
    path.write_text(json.dumps(dict(reversed(report.items()))))  # the same content in another layout
    assert verifying.verify_folder(tmp_path / "out", emit=ignore_event)["proven"]
    report["ratios"]["macs"] = json.loads(number)
    path.write_text(json.dumps(report))
    verdict = verifying.verify_folder(tmp_path / "out", emit=ignore_event)
    assert [check["name"] for check in verdict["checks"] if not check["ok"]] == ["hash of report.json"]


@pytest.mark.long
def test_statistics_are_those_of_the_dense_model_and_the_folder_verifies(tmp_path: Path) -> None:
    run(tmp_path, tmp_path / "out")
    dense = load_model(f"{tmp_path / 'net.py'}:make").module
    slim = compressor.load(tmp_path / "out")
    kept = [
        int((dense.get_submodule("1").running_mean == value).nonzero())
        for value in slim.get_submodule("1").running_mean
    ]
    assert len(kept) == 8
    state = dense.state_dict()
    for name, value in slim.state_dict().items():
        if name.startswith("1.") and value.ndim:
            assert torch.equal(value, state[name][kept])
    assert int(slim.get_submodule("1").num_batches_tracked) == 0
    assert verifying.verify_folder(tmp_path / "out", emit=lambda event, fields: None)["ok"]


@pytest.mark.long
def test_a_folder_that_would_not_verify_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "check_parity", lambda *arguments: Parity(1.0, ok=False))
    with raises_error(VerificationFailed, "verify/not-proven", "parity"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("proven", "fails"), [(True, False), (False, True)])
def test_what_is_not_proven_is_an_error(proven: bool, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [{"name": "parity", "ok": proven, "detail": ""}, {"name": "accuracy_drop", "ok": False, "detail": ""}]
    monkeypatch.setattr(
        verifying, "verify_folder", lambda folder, emit: {"checks": checks, "proven": proven, "ok": False}
    )
    spec = ModelSpec("cifar:resnet8", one_image((3, 32, 32)))
    if fails:
        with raises_error(VerificationFailed, "verify/not-proven", "parity"):
            verifying.require_proven(Path("out"), spec, ignore_event)
    else:
        verifying.require_proven(Path("out"), spec, ignore_event)  # gates end a run with codes of their own


def test_what_only_a_pickle_can_rebuild_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "verify_folder", lambda folder, emit: pytest.fail("it was checked"))
    verifying.require_proven(Path("out"), ModelSpec("pickle:net.pt", one_image((3, 32, 32))), ignore_event)
