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
from compressor.models.checkpoints.checkpoint import read_checkpoint


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
    "text": (b"hello, these are not weights\n" * 9, 3, "model-file/foreign-pickle", "it is no checkpoint"),
    "zeros": (bytes(4096), 3, "model-file/foreign-pickle", "it is no checkpoint"),
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
    "integers": (saved({"w.weight": torch.ones(2, dtype=torch.int8)}), 3, "model-file/unsupported-tensor", "quantized"),
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


class Calls:
    """Pickled as a call of any function with any arguments, whose result is given a state."""

    def __init__(self, function: object, *args: object, state: object = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


class SetsState:
    """Unpickling it runs its own method."""

    sentinel: Path

    def __setstate__(self, state: object) -> None:
        self.sentinel.touch()

    def __getstate__(self) -> object:
        return {"weight": torch.ones(2)}


def program(*steps: bytes) -> bytes:
    """A pickle beside the weights of a torch archive: `steps` push one value."""
    text = b"".join(steps)
    return rezipped(nothing, pickled=b"\x80\x04}X\x01\x00\x00\x00e" + text + b"s.")


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def runs(sentinel: Path) -> dict[str, bytes]:
    """Programs that would leave the file behind if anything in them ran."""
    touch = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    argument = text(touch) + b"\x85R"
    return {
        "eval": program(named("builtins", "eval"), argument),
        "exec of Python 2": program(named("__builtin__", "exec"), argument),
        "a dotted name": program(named("torch.serialization", "os.system"), argument),
        "a class of another module": program(named("torch.serialization", "subprocess.Popen"), argument),
        "an allowed module": program(named("collections", "abc.sys"), argument),
        "getattr, then call": program(
            named("builtins", "getattr"), named("builtins", "__import__"), text("__call__"), b"\x86R", argument
        ),
        "partial, then call": program(
            named("functools", "partial"), named("builtins", "exec"), b"\x85R", b"(", text(touch), b"tR"
        ),
        "torch.load": program(named("torch", "load"), argument),
        "torch.hub": program(named("torch.hub", "load"), argument),
        "numpy's runstring": program(named("numpy.testing._private.utils", "runstring"), argument),
        "inside a class of data": program(named("torch.jit.unsupported_tensor_ops", "execWrapper"), argument),
        "INST": program(b"(", text(touch), b"ibuiltins\nexec\n"),
        "OBJ": program(b"(", named("builtins", "exec"), text(touch), b"o"),
        "a state given to a function": program(
            named("torch._utils", "_rebuild_tensor_v2"), b"N}", text("__code__"), text(touch), b"s\x86b"
        ),
        "an extension": program(b"\x82\x01", argument),
        "nested": pickle.dumps({"w": Calls(torch.storage._load_from_bytes, saved(Evil(sentinel)))}),
        "nested legacy": pickle.dumps(
            {"w": Calls(torch.storage._load_from_bytes, saved(Evil(sentinel), _use_new_zipfile_serialization=False))}
        ),
    }


@pytest.mark.parametrize("name", runs(Path("x")))
def test_nothing_runs_by_any_way(name: str, tmp_path: Path) -> None:
    sentinel, path = tmp_path / "executed", tmp_path / "model.pt"
    path.write_bytes(runs(sentinel)[name])
    with pytest.raises(CompressorError) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == (3 if name == "an extension" else 4)
    assert not sentinel.exists()


@pytest.mark.parametrize("settings", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}])
def test_objects_beside_weights_never_run(settings: dict[str, object], tmp_path: Path) -> None:
    """They are read past, and named; the same file runs them where the user trusts it."""
    SetsState.sentinel = tmp_path / "executed"
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"state_dict": WEIGHTS, "log": SetsState()}, **settings))
    found = read_checkpoint(path)
    assert found.tensors.keys() == WEIGHTS.keys()
    assert f"{__name__}.SetsState" in " ".join(found.notes)
    assert not SetsState.sentinel.exists()
    torch.load(path, weights_only=False)
    assert SetsState.sentinel.exists()


def test_functions_of_torch_are_not_changed(tmp_path: Path) -> None:
    """A state given to a function would change it for the whole process."""
    before = dict(vars(torch._utils._rebuild_tensor_v2))
    path = tmp_path / "model.pt"
    path.write_bytes(program(named("torch._utils", "_rebuild_tensor_v2"), b"}", text("a"), b"K\x01s", b"b"))
    with pytest.raises(CompressorError):
        read_checkpoint(path)
    assert vars(torch._utils._rebuild_tensor_v2) == before


KEYS = [struct.pack("<H", key) for key in range(500)]
WALKS: dict[str, tuple[bytes, int]] = {
    "dicts filled later": (
        b"\x80\x02"
        + b"".join(b"}q%c0" % level for level in range(9))
        + b"".join(b"h%c(" % level + b"".join(b"M%sh%c" % (k, level + 1) for k in KEYS) + b"u0" for level in range(8))
        + b"h\x00.",
        4,
    ),
    "a dict in itself": (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", 4),
    "lists in lists": (b"\x80\x02}X\x01\x00\x00\x00a" + b"(" * 5000 + b"l" * 5000 + b"s.", 4),
    "a bytearray by its size": (b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85Rs.", 3),
    "a number as text": (b"\x80\x02}X\x01\x00\x00\x00aI" + b"9" * 100_000 + b"\ns.", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", WALKS)
def test_reading_ends(name: str, tmp_path: Path) -> None:
    pickled, code = WALKS[name]
    path = tmp_path / "model.pt"
    path.write_bytes(rezipped(nothing, pickled=pickled))
    start = time.process_time()
    with pytest.raises(CompressorError) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == code
    assert time.process_time() - start < 10


def tensor_call(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickle whose one tensor lies anywhere in the storage of two numbers."""
    key = next(name for name in zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(2)}))).namelist() if "/data/" in name)
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00%sX\x03\x00\x00\x00cpuK\x02tQ"
    numbers = lambda values: b"(" + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values) + b"t"  # noqa: E731
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + storage % key.rpartition("/")[2].encode()
        + b"J" + offset.to_bytes(4, "little", signed=True) + numbers(size) + numbers(stride) + b"\x89}tRs."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (3,), (1,)), (2, (1,), (1,)), (-1, (1,), (1,)), (0, (2,), (2,)), (1, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_beyond_its_storage(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(rezipped(nothing, pickled=tensor_call(offset, size, stride)))
    with pytest.raises(CompressorError) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 3
    path.write_bytes(rezipped(nothing, pickled=tensor_call(1, (1,), (1,))))
    assert torch.equal(read_checkpoint(path).tensors["w"], torch.ones(1))
