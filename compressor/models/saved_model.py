"""The model of a finished output folder, rebuilt from plan.json and slim.safetensors. Nothing is unpickled unasked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compressor.core import Cost, LoadedModel, ModelInput, ModelSpec, NMPattern
from compressor.errors import ModelError, UntrustedFile, VerificationFailed
from compressor.execution.copies import copy_module
from compressor.execution.dropped_blocks import drop_blocks_
from compressor.file_digest import sha256
from compressor.models.build import PICKLE, build_named, weights_to_come
from compressor.models.checkpoints.finite_weights import count_not_finite
from compressor.models.families.onnx_files import is_onnx
from compressor.models.identification.shape_match import compare_shapes, shapes_of
from compressor.models.plan_record import PLAN, Attributes, PlanRecord, read_record
from compressor.models.preparation.prepare import prepare_module
from compressor.models.user_modules.trusted_pickle import rebuild_pickled
from compressor.models.user_modules.user_module import is_code, split_code
from compressor.sparsity.compressed_format import unpack
from compressor.tensors import named_tensors

WEIGHTS = "slim.safetensors"


def load(folder: str | Path, dense: nn.Module | None = None, *, trust_pickle: bool = False) -> nn.Module:
    """Load the slim module of an output folder. No pickle is read unless it is trusted.

    Args:
        folder: The output folder.
        dense: The dense module of a run that was started from memory; it does not change, and its weights do not
            matter. None = the architecture is built from its name or its code.
        trust_pickle: Whether the pickle that the run was given may run code, where only that builds the architecture.

    Returns:
        The module in float32 and eval mode, on the CPU.

    Raises:
        CompressorError: As `load_folder`.
    """
    return load_folder(folder, dense, trust_pickle=trust_pickle).module


def load_folder(folder: str | Path, dense: nn.Module | None = None, *, trust_pickle: bool = False) -> LoadedModel:
    """Rebuild the slim model of an output folder.

    Args:
        folder: The output folder.
        dense: The architecture as a module, which does not change; None = it is built by name.
        trust_pickle: Whether a pickle that alone builds the architecture may run code.

    Returns:
        The model.

    Raises:
        ModelError: The folder is incomplete or contradicts itself; the message names the tensor.
        UntrustedFile: The architecture is code inside the folder.
        VerificationFailed: A weight is not finite.
    """
    folder = Path(folder)
    plan = read_record(folder / PLAN, PlanRecord)
    digest, tensors = _read_weights(folder / WEIGHTS, plan.weights_sha256)
    try:
        tensors = unpack(tensors, {name: NMPattern(*sizes) for name, sizes in plan.packed.items()})
    except ValueError as error:
        raise ModelError(
            "output-folder/malformed-packing", str(folder / WEIGHTS), str(error), "compress the model again"
        ) from None
    if is_code(plan.model.source):
        _refuse_enclosed_code(folder, plan.model.source)
    inputs = tuple(ModelInput(**record.model_dump()) for record in plan.model.inputs)
    saved, source = plan.model, plan.model.source
    if "/" not in source and is_onnx(source):
        source = str(folder.resolve() / source)  # the graph that the run wrote beside the weights
    spec = ModelSpec(source, inputs, saved.num_classes, saved.arguments, saved.outputs)
    if dense is None and trust_pickle and source.startswith(PICKLE):
        module = rebuild_pickled(spec)
    elif dense is None:
        with weights_to_come(spec.source):
            module = build_named(spec)
    else:
        module, _ = prepare_module(copy_module(dense).to("cpu").float())
    _drop(module, plan.dropped_blocks, folder)
    _shrink(module, plan.kept, tensors, folder)
    _set_attributes(module, plan.attributes, folder)
    _fill(module, tensors, folder)
    return LoadedModel(
        module.float().eval(),
        spec,
        plan.name,
        sha256=digest,
        notes=(f"rebuilt from {folder}",),
        mean=plan.mean,
        std=plan.std,
        kept=plan.kept,
        dropped=plan.dropped_blocks,
        original=None if plan.original is None else Cost(**plan.original.model_dump()),
    )


def _read_weights(path: Path, expected_sha256: str | None) -> tuple[str, dict[str, Tensor]]:
    try:
        digest = sha256(path)
        if expected_sha256 not in (None, digest):
            problem = f"its SHA-256 begins with {digest[:12]}, but plan.json has {str(expected_sha256)[:12]}"
            raise ModelError(
                "output-folder/hash-differs", str(path), problem, "compress the model again: the file was changed"
            )
        tensors = load_file(path)
    except FileNotFoundError:
        raise ModelError(
            "output-folder/no-such-file", str(path), "the file does not exist", "compress the model again"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(
            "output-folder/not-readable", str(path), f"it cannot be read ({error})", "compress the model again"
        ) from None
    for name, tensor in tensors.items():
        if count := count_not_finite(tensor):
            problem = f"{count} of {tensor.numel()} values are not finite"
            raise VerificationFailed("weights/non-finite", f"{path}: {name}", problem, "compress the model again")
    return digest, tensors


def _refuse_enclosed_code(folder: Path, source: str) -> None:
    """Refuse code inside the folder: a folder may come from anyone, and loading it must not run its code."""
    path, _, _ = split_code(source)
    if not path.is_absolute() or path.resolve().is_relative_to(folder.resolve()):
        problem = f"its architecture is code inside the folder ({path}), which was not executed"
        raise UntrustedFile(
            "output-folder/enclosed-code", str(folder), problem, "move the code out of the folder if you trust it"
        )


def _drop(module: nn.Module, names: Sequence[str], folder: Path) -> None:
    """Put stand-ins in the place of dropped blocks."""
    for name in names:
        try:
            drop_blocks_(module, [name])
        except AttributeError:
            where = f"{folder / PLAN}: dropped_blocks.{name}"
            problem = "the architecture has no such module"
            raise ModelError("output-folder/unknown-block", where, problem, "compress the model again") from None


def _shrink(
    module: nn.Module, kept: Mapping[str, Mapping[int, tuple[int, ...]]], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """Replace every pruned tensor by one of the slim shape, wherever a shared tensor is used.

    It is empty where the file has its values. A buffer that state dicts leave out keeps those that its code gave it.
    """
    state = named_tensors(module, every_name=True)
    saved = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    stored = {id(state[name]): tensor for name, tensor in tensors.items() if name in state}
    for name, dims in kept.items():
        where = f"{folder / PLAN}: kept.{name}"
        if name not in state:
            raise ModelError(
                "output-folder/unknown-tensor", where, "the architecture has no such tensor", "compress the model again"
            )
        old, shape = state[name], list(state[name].shape)
        if id(old) in saved and id(old) not in stored:
            raise ModelError(
                "output-folder/missing-tensor",
                f"{folder / WEIGHTS}: {name}",
                "the tensor is missing",
                "compress the model again",
            )
        for dim, indices in dims.items():
            if not 0 <= dim < len(shape) or len(set(indices)) < len(indices) or not _within(indices, shape[dim]):
                problem = f"its {len(indices)} indices do not fit dimension {dim} of shape {_x(shape)}"
                raise ModelError("output-folder/index-out-of-range", where, problem, "compress the model again")
            shape[dim] = len(indices)
        if id(old) in saved and list(stored[id(old)].shape) != shape:
            problem = f"its shape is {_x(stored[id(old)].shape)}, but plan.json keeps {_x(shape)}"
            raise ModelError(
                "output-folder/shape-differs", f"{folder / WEIGHTS}: {name}", problem, "compress the model again"
            )
        slim = torch.empty(shape, dtype=old.dtype) if id(old) in saved else _kept_part(old, dims)
        new = nn.Parameter(slim, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else slim
        for owner, attribute in _owners(module, old):
            setattr(owner, attribute, new)


def _kept_part(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor:
    for dim, indices in dims.items():
        tensor = tensor.index_select(dim, torch.tensor(indices))
    return tensor


def _within(indices: Sequence[int], size: int) -> bool:
    return all(0 <= index < size for index in indices)


def _owners(module: nn.Module, tensor: Tensor) -> Iterator[tuple[nn.Module, str]]:
    """Yield every module and attribute that hold this very tensor; a shared tensor has several."""
    for owner in module.modules():
        held = (*owner.named_parameters(recurse=False, remove_duplicate=False), *owner.named_buffers(recurse=False))
        yield from ((owner, name) for name, value in held if value is tensor)


def _set_attributes(module: nn.Module, attributes: Attributes, folder: Path) -> None:
    """Set the widths that modules keep as numbers. No attribute is added."""
    modules = dict(module.named_modules())
    for name, values in attributes.items():
        for attribute, value in values.items():
            old = getattr(modules.get(name), attribute, None)
            if not isinstance(old, int | tuple | list):
                where = f"{folder / PLAN}: attributes.{name}.{attribute}"
                raise ModelError(
                    "output-folder/unknown-attribute",
                    where,
                    "the architecture has no such attribute",
                    "compress the model again",
                )
            setattr(modules[name], attribute, value)


def _fill(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Load every weight. A shared weight is in the file once, under any of its names."""
    state = module.state_dict(keep_vars=True)
    stored = {id(state[name]): tensor for name, tensor in tensors.items() if name in state}
    complete = {name: stored[id(value)] for name, value in state.items() if id(value) in stored} | tensors
    fit = compare_shapes(shapes_of(complete), shapes_of(state))
    if not fit.ok:
        raise ModelError("output-folder/tensors-differ", str(folder / WEIGHTS), str(fit), "compress the model again")
    state = module.state_dict()
    state.update(complete)
    module.load_state_dict(state)


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
