"""A file is complete or absent, whatever interrupts its writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.atomic_write import atomic_path, move_into_place, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_bytes_and_text_replace_the_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", memoryview(b"\x00\xff"))
    assert (tmp_path / "file").read_bytes() == b"\x00\xff"
    write_text(tmp_path / "file", "é")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9"


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    for value, error in ((float("nan"), ValueError), (object(), TypeError)):
        with pytest.raises(error):
            write_json(path, {"a": value})
    assert json.loads(path.read_text()) == {"a": 1}
    assert names(tmp_path) == ["report.json"]


def test_json_survives_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"model": "\udce9.pt"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"model": "\udce9.pt"}


def test_companions_move_before_the_file_that_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "draft"
    folder.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).write_text(name)
    move_into_place(folder / "model.onnx", tmp_path / "out.onnx", folder / "model.onnx.data")
    assert names(tmp_path) == ["draft", "model.onnx.data", "out.onnx"]
    assert names(folder) == []
