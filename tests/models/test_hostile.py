"""Files that are broken, something else, or meant to harm: each ends in its exit code, and nothing in them runs."""

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from failures import raises_error
from torch import nn

from compressor.errors import CompressorError, ModelError, UntrustedFile
from compressor.models.checkpoint import read_checkpoint


class Evil:
    """Unpickling it runs a command that leaves a file behind."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


def saved(value: object, **settings: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **settings)
    return buffer.getvalue()


def rezipped(
    change: Callable[[zipfile.ZipFile], None], *, pickled: bytes | None = None, compress: bool = False
) -> bytes:
    """A torch archive with its pickle replaced and more done to it."""
    buffer = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(2)}))) as old, zipfile.ZipFile(buffer, "w", kind) as new:
        for entry in old.infolist():
            replaced = pickled is not None and entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, pickled if replaced else old.read(entry))
        change(new)
    return buffer.getvalue()


def nothing(archive: zipfile.ZipFile) -> None:
    del archive


def laughs(levels: int, *, last: bytes) -> bytes:
    """t = (t, t) again and again by way of the memo: 2 ** levels parts in some bytes for each level."""
    doubling = b"".join(b"q%ch%ch%c\x86" % ((level,) * 3) for level in range(levels))
    return b"\x80\x02}K\x01" + doubling + last + b"."


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def script() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"):
            archive.writestr(name, b"\x80\x02}.")
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("net/archive_format", "net/models/model.json", "net/data/sample_inputs/model.pt"):
            archive.writestr(name, b"pt2")
    return buffer.getvalue()


WEIGHTS = {"conv.weight": torch.ones(4, 3, 3, 3)}
HEADER = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}

# {"w": torch.FloatTensor(4 * 10 ** 8)}: 1.6 GB that the system hands out and nobody has written
HUGE = b"\x80\x02}X\x01\x00\x00\x00wctorch\nFloatTensor\nJ" + (4 * 10**8).to_bytes(4, "little") + b"\x85Rs."

CASES: dict[str, tuple[bytes, int, str, str]] = {
    "empty": (b"", 3, "model-file/empty", "empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), 3, "model-file/other-format", "PNG"),
    "html": (b"<!DOCTYPE html><html>sign in</html>", 3, "model-file/web-page", "web page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        3,
        "model-file/other-format",
        "git lfs pull",
    ),
    "text": (b"hello, these are not weights\n" * 9, 3, "model-file/foreign-pickle", "not a checkpoint"),
    "zeros": (bytes(4096), 3, "model-file/foreign-pickle", "not a checkpoint"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), 3, "model-file/other-format", "unpacked first"),
    "truncated zip": (saved(WEIGHTS)[:600], 3, "model-file/damaged", "truncated"),
    "truncated legacy": (
        saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-50],
        3,
        "model-file/damaged",
        "damaged",
    ),
    "other zip": (b"PK\x05\x06" + bytes(18), 3, "model-file/not-a-torch-archive", "data.pkl"),
    "torchscript": (script(), 3, "model-file/other-archive", "TorchScript"),
    "pt2": (exported(), 3, "model-file/other-archive", "torch.export"),
    "no tensors": (saved({"epoch": 3}), 3, "model-file/no-tensors", "no tensors"),
    "one tensor": (saved(torch.ones(2)), 3, "model-file/no-tensors", "no tensors"),
    "plain pickle": (pickle.dumps({"w": [1.0]}), 3, "model-file/foreign-pickle", "torch.save"),
    "sparse": (saved({"w": torch.eye(2).to_sparse()}), 3, "model-file/unsupported-tensor", "sparse"),
    "complex": (saved({"w": torch.ones(2, dtype=torch.complex64)}), 3, "model-file/unsupported-tensor", "complex"),
    "meta": (saved({"w": torch.ones(2, device="meta")}), 3, "model-file/unsupported-tensor", "meta"),
    "expanded": (
        saved({"w": torch.ones(1).expand(1 << 20, 1 << 20)}),
        3,
        "model-file/unsupported-tensor",
        "more values",
    ),
    "integers": (saved({"w.weight": torch.ones(2, dtype=torch.int8)}), 3, "model-file/unsupported-tensor", "quantised"),
    "damaged pickle": (rezipped(nothing, pickled=b"\x80\x02}q"), 3, "model-file/damaged", "damaged"),
    "safetensors cut": (safetensors(HEADER, bytes(8))[:40], 3, "model-file/damaged", "truncated"),
    "safetensors short": (safetensors(HEADER, bytes(4)), 3, "model-file/damaged", "safetensors"),
    "safetensors bad offsets": (
        safetensors({"w": {**HEADER["w"], "data_offsets": [0, 1 << 60]}}),
        3,
        "model-file/damaged",
        "safetensors",
    ),
    "safetensors no json": (struct.pack("<Q", 4) + b"{{{{", 3, "model-file/damaged", "safetensors"),
    "nan": (saved({"w": torch.tensor([1.0, float("nan")])}), 6, "weights/non-finite", "1 of 2 values"),
    "infinite": (saved({"w": torch.tensor([float("inf")] * 3)}), 6, "weights/non-finite", "3 of 3 values"),
    "module": (saved(nn.Linear(2, 2)), 4, "untrusted-file/pickle-with-code", "torch.nn.modules.linear.Linear"),
    "zip bomb": (
        rezipped(lambda z: z.writestr("archive/data/9", bytes(64 << 20)), compress=True),
        4,
        "untrusted-file/malformed-archive",
        "zip bomb",
    ),
    "traversal": (
        rezipped(lambda z: z.writestr("archive/../../../tmp/x", b"x")),
        4,
        "untrusted-file/malformed-archive",
        "leads out",
    ),
    "same name": (
        rezipped(lambda z: z.writestr("archive/DATA.PKL", b"x")),
        4,
        "untrusted-file/malformed-archive",
        "share a name",
    ),
    "laughs": (rezipped(nothing, pickled=laughs(200, last=b"K\x00s")), 4, "untrusted-file/suspicious-pickle", "unfold"),
    "deep tuples": (
        rezipped(nothing, pickled=b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x00s."),
        4,
        "untrusted-file/suspicious-pickle",
        "unfold",
    ),
    "huge tensor": (
        rezipped(nothing, pickled=HUGE),
        4,
        "untrusted-file/oversized-tensors",
        "unpack to 1,600,000,000 bytes",
    ),
    "many operations": (
        rezipped(nothing, pickled=b"\x80\x02" + b"N0" * 1_500_000 + b"}."),
        4,
        "untrusted-file/suspicious-pickle",
        "operations",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_file(name: str, tmp_path: Path) -> None:
    content, exit_code, code, word = CASES[name]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(CompressorError) as caught:
        read_checkpoint(path)
    assert (caught.value.exit_code, caught.value.code) == (exit_code, code)
    assert word in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 20


FORMS: dict[str, Callable[[Evil], bytes]] = {
    "zip": lambda evil: saved({"state_dict": WEIGHTS, "evil": evil}),
    "legacy": lambda evil: saved({"state_dict": WEIGHTS, "evil": evil}, _use_new_zipfile_serialization=False),
    "plain": lambda evil: pickle.dumps(evil),
    "protocol 0": lambda evil: pickle.dumps(evil, protocol=0),
    "protocol 5 in torch": lambda evil: saved({"evil": evil}, pickle_protocol=5),
    "before the magic number": lambda evil: pickle.dumps(evil, protocol=2) + saved(WEIGHTS),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_code_is_refused_and_not_run(name: str, suffix: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    path = tmp_path / f"model{suffix}"
    path.write_bytes(FORMS[name](Evil(sentinel)))
    with raises_error(UntrustedFile, "untrusted-file/pickle-with-code", "posix.system") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 4
    assert not sentinel.exists()


def test_trust_is_what_runs_it(tmp_path: Path) -> None:
    """The sentinel does appear once the user trusts the file: the tests above can fail."""
    sentinel, path = tmp_path / "executed", tmp_path / "model.pt"
    path.write_bytes(saved({"state_dict": WEIGHTS, "evil": Evil(sentinel)}))
    assert read_checkpoint(path, trust_pickle=True).tensors.keys() == WEIGHTS.keys()
    assert sentinel.exists()


def test_missing_folder_and_name(tmp_path: Path) -> None:
    (tmp_path / "resnet56.pt").write_bytes(b"x")
    with raises_error(ModelError, "model-file/no-such-file", "did you mean resnet56.pt") as caught:
        read_checkpoint(tmp_path / "resnet65.pt")
    assert caught.value.exit_code == 3
    with raises_error(ModelError, "model-file/not-a-file", "plan.json") as caught:
        read_checkpoint(tmp_path)
    assert caught.value.exit_code == 3


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with raises_error(ModelError, "model-file/permission-denied", "model.pt") as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 3
