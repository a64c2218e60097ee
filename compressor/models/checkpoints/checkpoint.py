"""Reading a checkpoint without running anything in it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compressor.errors import ModelError, UntrustedFile, VerificationFailed
from compressor.file_digest import sha256
from compressor.listed import listed
from compressor.models.checkpoints.archive import MAX_EXPANSION, SPARE_BYTES, Kind, detect_format
from compressor.models.checkpoints.finite_weights import count_not_finite
from compressor.models.checkpoints.normalize_checkpoint import dense_float32, flatten_names
from compressor.models.checkpoints.pickle_reader import PickleContent, UnreadObject
from compressor.models.checkpoints.pt2_archive import is_exported, read_exported
from compressor.models.checkpoints.saved_settings import architecture_name, hyper_parameters, is_lightning
from compressor.models.checkpoints.select_weights import Weights, select_weights
from compressor.models.checkpoints.torch_file import read_torch_file


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """A flat float32 state dict with the names in the file.

    `arch` is the architecture's name in the file. `module` is present for trusted pickles only. `hyper_parameters` are
    the saved arguments of a constructor, as far as they are plain data.
    """

    tensors: dict[str, Tensor]
    sha256: str
    notes: tuple[str, ...] = ()
    arch: str | None = None
    module: nn.Module | None = None
    hyper_parameters: Mapping[str, object] = field(default_factory=dict)
    is_lightning: bool = False
    aside: tuple[str, ...] = ()  # keys of other weights in the file


def read_checkpoint(path: str | Path, *, trust_pickle: bool = False, weights: str | None = None) -> LoadedCheckpoint:
    """Read .pt, .pth, .th, .ckpt, .bin, .pkl, .safetensors and the weights in .pt2, by content rather than by name.

    Args:
        path: The file.
        trust_pickle: Whether a pickle may run code, if its weights cannot be read without.
        weights: Key or prefix of the weights, if the file holds several; None takes the usual one.

    Returns:
        The tensors and what the file says about them.

    Raises:
        ModelError: The file holds no weights, or none under that key.
        UntrustedFile: Reading it would run code or exhaust the machine.
        VerificationFailed: A tensor is not finite.
    """
    path = Path(path)
    where = str(path)
    kind = detect_format(path)
    if kind == "safetensors":
        reading = PickleContent((_read_safetensors(path),), (), ())
    elif kind == "zip" and is_exported(path):
        reading = PickleContent((read_exported(path),), (), ())
    else:
        reading = _read_torch(path, kind, trust_pickle=trust_pickle)
    saved = reading.values[-1]
    chosen = _weights_of(saved, reading, where, weights)
    state = chosen.held.state_dict() if isinstance(chosen.held, nn.Module) else chosen.held
    _refuse_inflated(state, path)
    named, name_notes = flatten_names(state, where)
    tensors, type_notes = dense_float32(named, where)
    _check_finite(tensors, where)
    return LoadedCheckpoint(
        tensors=tensors,
        sha256=sha256(path),
        notes=(*_unread_notes(reading), *chosen.notes, *name_notes, *type_notes),
        arch=architecture_name(saved),
        module=chosen.held if isinstance(chosen.held, nn.Module) else None,
        hyper_parameters=hyper_parameters(saved),
        is_lightning=is_lightning(saved),
        aside=chosen.aside,
    )


def _weights_of(saved: object, reading: PickleContent, where: str, weights: str | None) -> Weights:
    """Select the weights. Raises UntrustedFile if they may be inside an object that only its own code can read."""
    try:
        return select_weights(saved, where, weights)
    except ModelError:
        if not reading.objects:
            raise
        problem = f"its weights are inside objects of {listed(sorted(reading.objects), 5)}; their code was not executed"
        if isinstance(saved, UnreadObject):
            problem = f"it holds a whole {saved.name} rather than a state dict; its code was not executed"
        raise UntrustedFile("untrusted-file/pickle-with-code", where, problem, _SAVE_STATE_DICT) from None


_SAVE_STATE_DICT = (
    "save only the state_dict() or convert it to .safetensors; if you trust its author with your machine, "
    "--trust-pickle"
)


def _unread_notes(reading: PickleContent) -> tuple[str, ...]:
    if not reading.objects:
        return ()
    return (f"left out objects whose code was not executed: {listed(sorted(reading.objects), 5)}",)


def _refuse_inflated(state: Mapping[str, object], path: Path) -> None:
    """Refuse tensors that are much larger than the file: a few bytes can declare a tensor of any size."""
    tensors = [value for value in state.values() if isinstance(value, Tensor) and value.layout == torch.strided]
    storages = (tensor.untyped_storage() for tensor in tensors if not tensor.is_meta)
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    held, size = sum(sizes.values()), path.stat().st_size
    if held > MAX_EXPANSION * size + SPARE_BYTES:
        problem = f"its {size:,} bytes unpack to {held:,} bytes of tensors, which were not read"
        raise UntrustedFile(
            "untrusted-file/oversized-tensors", str(path), problem, "get the file from its author again"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        problem = f"the safetensors file cannot be read ({error})"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again") from None


def _read_torch(path: Path, kind: Kind, *, trust_pickle: bool) -> PickleContent:
    reading = read_torch_file(path, kind)
    if trust_pickle and (reading.calls or (reading.objects and not _holds_weights(reading, path))):
        return PickleContent((_load_trusted(path),), (), ())
    if reading.calls:
        problem = f"it asks to run {listed(sorted(reading.calls), 5)}, nothing was executed"
        raise UntrustedFile("untrusted-file/pickle-with-code", str(path), problem, _SAVE_STATE_DICT)
    if reading.hostile:
        problem = f"{reading.fault}; it was not loaded"
        raise UntrustedFile("untrusted-file/suspicious-pickle", str(path), problem, "save the state dict alone")
    if kind == "pickle" and (reading.fault or not (reading.objects or _holds_weights(reading, path))):
        problem = (
            "it is no checkpoint" if reading.fault else "it is a pickle without tensors that torch.save did not write"
        )
        raise ModelError(
            "model-file/foreign-pickle", str(path), problem, "give a state dict saved by torch.save, or .safetensors"
        )
    if reading.fault:
        raise ModelError("model-file/damaged", str(path), reading.fault, "copy or download it again")
    return reading


def _holds_weights(reading: PickleContent, path: Path) -> bool:
    try:
        select_weights(reading.values[-1] if reading.values else None, str(path), None)
    except ModelError:
        return False
    return True


def _load_trusted(path: Path) -> object:
    """Load a pickle whose code the user allowed to run."""
    try:
        # An open file: given a path, torch decides by the suffix .safetensors.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to programmers, such as which pickle protocol to write
            return torch.load(file, map_location="cpu", weights_only=False)
    except MemoryError:
        raise ModelError(
            "model-file/too-large", str(path), "it does not fit in memory", "use a larger machine"
        ) from None
    except (ImportError, AttributeError) as error:
        problem = f"its objects need code that is not installed here ({error})"
        raise ModelError(
            "model-file/missing-package", str(path), problem, "install it, or save only the state_dict()"
        ) from None
    except (pickle.UnpicklingError, EOFError) as error:
        problem = f"a pickle that cannot be read ({' '.join(str(error).split())[:200]})"
        raise ModelError("model-file/damaged", str(path), problem, "copy or download it again") from None
    except Exception as error:  # code that a pickle runs can raise anything
        line = " ".join(str(error).split())[:200] or type(error).__name__
        hint = "save only the state_dict() where it was made"
        raise ModelError(
            "model-file/code-failed", str(path), f"its code failed ({type(error).__name__}: {line})", hint
        ) from None


def _check_finite(tensors: dict[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if count := count_not_finite(tensor):
            problem = f"{count} of {tensor.numel()} values are not finite"
            raise VerificationFailed(
                "weights/non-finite", f"{where}: {name}", problem, "use a checkpoint from before the divergence"
            )
