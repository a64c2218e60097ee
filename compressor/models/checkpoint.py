"""Reading a checkpoint without running anything in it."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compressor.errors import ModelError, UntrustedFile, VerificationFailed
from compressor.models.archive import MAX_EXPANSION, SPARE_BYTES, Kind, detect_format, pickle_in_zip
from compressor.models.normalize_checkpoint import dense_float32, flatten_names, open_wrappers
from compressor.models.pickle_scan import scan
from compressor.models.pt2_archive import is_exported, read_exported

_LEGACY_PICKLES = 5  # magic number, version, machine, the object, the names of its storages


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A flat float32 state dict. `arch` is what the file calls its architecture; `module` only from trusted pickles."""

    tensors: dict[str, Tensor]
    sha256: str
    notes: tuple[str, ...] = ()
    arch: str | None = None
    module: nn.Module | None = None


class _StandIn:
    """Takes the place of types that training scripts save beside the weights, and whose own readers never run."""

    def __init__(self, *args: object) -> None:
        del args

    def __setstate__(self, state: object) -> None:
        del state


_STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (_StandIn, name)
    for name in (
        "argparse.Namespace",
        *(f"{module}.{path}" for module in ("pathlib", "pathlib._local") for path in ("PosixPath", "WindowsPath")),
        *("numpy.dtype", "numpy.ndarray"),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    )
]


def read_checkpoint(path: str | Path, *, trust_pickle: bool = False) -> LoadedCheckpoint:
    """Read .pt, .pth, .th, .ckpt, .bin, .safetensors and the weights in .pt2, by content rather than by name.

    Raises ModelError where the file holds no tensors, UntrustedFile where reading it would run code or run away,
    VerificationFailed where a tensor is not finite.
    """
    path = Path(path)
    where = str(path)
    kind = detect_format(path)
    if kind == "safetensors":
        loaded: object = _read_safetensors(path)
    elif kind == "zip" and is_exported(path):
        loaded = read_exported(path)
    else:
        loaded = _read_torch(path, kind, trust_pickle=trust_pickle)
    held, notes = open_wrappers(loaded, where)
    state: Mapping[str, object] = held.state_dict() if isinstance(held, nn.Module) else held
    _refuse_inflated(state, path)
    named, name_notes = flatten_names(state, where)
    tensors, type_notes = dense_float32(named, where)
    _check_finite(tensors, where)
    arch = loaded.get("arch") if isinstance(loaded, dict) else None
    return LoadedCheckpoint(
        tensors=tensors,
        sha256=sha256(path),
        notes=(*notes, *name_notes, *type_notes),
        arch=arch if isinstance(arch, str) else None,
        module=held if isinstance(held, nn.Module) else None,
    )


def _refuse_inflated(state: Mapping[str, object], path: Path) -> None:
    """A few bytes can ask for a tensor of any size; memory is only taken when someone reads it, so look before."""
    plain = [each for each in state.values() if isinstance(each, Tensor) and each.layout == torch.strided]
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in plain if not each.is_meta
    }
    held, size = sum(storages.values()), path.stat().st_size
    if held > MAX_EXPANSION * size + SPARE_BYTES:
        problem = f"its {size:,} bytes unpack to {held:,} bytes of tensors, which were not read"
        raise UntrustedFile(
            "untrusted-file/oversized-tensors", str(path), problem, "get the file from its author again"
        )


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        problem = f"the safetensors file cannot be read ({error})"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again") from None


def _read_torch(path: Path, kind: Kind, *, trust_pickle: bool) -> object:
    pickled = pickle_in_zip(path) if kind == "zip" else path.read_bytes()
    found = scan(pickled, pickles=_LEGACY_PICKLES if kind == "legacy" else 1)
    unsafe = _unsafe(found.globals)
    if unsafe and not trust_pickle:
        raise UntrustedFile(
            "untrusted-file/pickle-with-code",
            str(path),
            f"it would run {', '.join(unsafe[:5])}{f' and {len(unsafe) - 5} more' * (len(unsafe) > 5)}, "
            "nothing was executed",
            "save only the state_dict(), or convert it to .safetensors; if you trust its author with your machine, "
            "add --trust-pickle",
        )
    if found.fault and kind != "pickle" and not unsafe:
        if found.fault.startswith("damaged"):
            raise ModelError("model-file/damaged", str(path), found.fault, "copy or download it again")
        raise UntrustedFile(
            "untrusted-file/suspicious-pickle",
            str(path),
            f"{found.fault}, so it was not loaded",
            "save the state dict alone",
        )
    if kind == "pickle" and not unsafe:
        what = "it is not a checkpoint" if found.fault else "it is a pickle that torch.save did not write"
        raise ModelError(
            "model-file/foreign-pickle", str(path), what, "give a state dict saved with torch.save, or .safetensors"
        )
    return _torch_load(path, trust_pickle=bool(unsafe))


def _torch_load(path: Path, *, trust_pickle: bool) -> object:
    """`trust_pickle` only where the user said so and the restricted reader can't do."""
    try:
        # Opened here, because torch would go by the name of a file that is called .safetensors.
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")  # advice to programmers, such as which pickle protocol to write
            return torch.load(file, map_location="cpu", weights_only=not trust_pickle)
    except MemoryError:
        raise ModelError(
            "model-file/too-large", str(path), "it does not fit in memory", "use a machine with more memory"
        ) from None
    except Exception as error:  # a reader fed with arbitrary bytes can raise anything
        line = " ".join(str(error).split())[:200] or type(error).__name__
        hint = "copy or download it again; if another program wrote it, save the state_dict() with torch.save"
        raise ModelError("model-file/damaged", str(path), f"it is damaged or not a checkpoint ({line})", hint) from None


def _unsafe(names: Iterable[str]) -> list[str]:
    """Those of the globals that the restricted reader would refuse, by asking torch about a pickle of just these."""
    lines = [f"c{module}\n{name}\n" for module, _, name in (each.rpartition(".") for each in names)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + "".join(lines).encode() + b"N.")
        archive.writestr("archive/version", "3\n")
    buffer.seek(0)
    with torch.serialization.safe_globals(_STAND_INS):
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(buffer))


def _check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            problem = f"{bad} of {tensor.numel()} values are not finite"
            raise VerificationFailed(
                "weights/non-finite", f"{where}: {name}", problem, "use a checkpoint from before the divergence"
            )
