"""Checkpoints of ultralytics: read without running the pickle, pruned, and loaded by YOLO again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import raises_error
from libraries import library
from PIL import Image

import compressor
from compressor.cli import run
from compressor.errors import ModelError, UntrustedFile
from compressor.models.yolo.yolo_checkpoint import check_yaml, is_yolo, read_yolo

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
@pytest.mark.filterwarnings("default")  # of a trainer that is not ours
def test_a_detector_is_pruned_and_loaded_by_its_library(tmp_path: Path) -> None:
    library("ultralytics")
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
    with raises_error(ModelError, "model-file/pruned-yolo"):
        read_yolo(out / "slim.pt")
    widths = [tuple(one.shape) for one in slim.model.parameters()]
    settings: dict[str, Any] = {"epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "device": "cpu", "amp": False}
    trainer = compressor.yolo_trainer(slim)
    slim.train(trainer=trainer, data=str(_dataset(tmp_path)), plots=False, project=str(tmp_path / "runs"), **settings)
    best = YOLO(next(tmp_path.rglob("best.pt")))
    assert [tuple(one.shape) for one in best.model.parameters()] == widths
    assert len(best.predict(x, verbose=False)) == 1


def _dataset(folder: Path) -> Path:
    """Two images with one box each, as train and val, in the layout of coco8."""
    for index in range(2):
        image, label = folder / f"images/{index}.jpg", folder / f"labels/{index}.txt"
        for path in (image, label):
            path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (90 * index, 60, 30)).save(image)
        label.write_text(f"{index} 0.5 0.5 0.4 0.4\n")
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: a, 1: b}}\n")
    return folder / "data.yaml"
