"""Checkpoints of ultralytics: read without running the pickle, pruned, and loaded by YOLO again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import raises_error

import compressor
from compressor.cli import run
from compressor.errors import ModelError, UntrustedFile
from compressor.models.yolo_checkpoint import check_yaml, is_yolo

YAML: Mapping[str, Any] = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "C2f", [32, True]]],
    "head": [[-1, 1, "Conv", [32, 3, 2]], [[2, 3], 1, "Detect", ["nc"]]],
}


@pytest.mark.parametrize(
    ("changes", "code", "kind"),
    [
        ({"activation": "__import__('os').system('true')"}, "untrusted-file/yaml-with-code", UntrustedFile),
        ({"head": [[-1, 1, "Conv.__init__", []]]}, "untrusted-file/yaml-with-code", UntrustedFile),
        ({"backbone": [], "head": []}, "model-file/malformed-yaml", ModelError),
        ({"head": [[-1, 1, "Conv"]]}, "model-file/malformed-yaml", ModelError),
    ],
)
def test_a_yaml_that_would_run_code_is_refused(changes: dict[str, Any], code: str, kind: type[ModelError]) -> None:
    check_yaml({**YAML, "activation": "torch.nn.LeakyReLU(0.1)"}, "yolo.pt")
    with raises_error(kind, code):
        check_yaml({**YAML, **changes}, "yolo.pt")


def test_other_files_are_none_of_ultralytics(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "net.pt")
    assert not is_yolo(tmp_path / "net.pt")
    assert not is_yolo(tmp_path / "missing.pt")


@pytest.mark.long
def test_a_detector_is_pruned_and_loaded_by_its_library(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(dict(YAML), verbose=False)
    torch.save(
        {"model": model.half(), "ema": None, "train_args": {"imgsz": 64, "task": "detect"}}, tmp_path / "yolo.pt"
    )
    out = tmp_path / "out"
    options = ["-r", "l1", "--target", "none", "-q", "--set", "prune.target={macs: 50%}"]
    assert run([f"ultralytics:{tmp_path / 'yolo.pt'}", *options, "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["architecture"]["input"] == [3, 64, 64]
    assert report["library"]["path"] == "slim.pt"
    slim = YOLO(out / "slim.pt")
    assert sum(one.numel() for one in slim.model.parameters()) == report["slim"]["params"]
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(slim.model.eval()(x)[0], compressor.load(out)(x), atol=1e-4)
    assert len(slim.predict(x, verbose=False)) == 1
    with pytest.raises(KeyError):  # a trainer that rebuilt it from the dense yaml would train another model
        DetectionModel(slim.model.yaml, verbose=False)
