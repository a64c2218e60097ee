"""A model that exists in memory only, such as in a notebook."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.execution.copies import copy_module
from compressor.models.build import IN_MEMORY
from compressor.models.inputs.batch_dims import BatchDimSetting, with_batch_dim
from compressor.models.inputs.user_inputs import inputs_like, inputs_that_run, named_in, shapes_in
from compressor.models.preparation.prepare import prepare_module, refuse_opaque
from compressor.models.user_modules.faithful import checked_copies
from compressor.tensors import hash_of


def model_in_memory(
    module: nn.Module,
    *,
    example_inputs: Tensor | Sequence[Tensor] | None = None,
    input: Sequence[int] | Sequence[Sequence[int]] | None = None,
    batch_dim: BatchDimSetting = "auto",
    num_classes: int | None = None,
) -> LoadedModel:
    """Take a copy of a module as the dense model. The module itself, its mode and its device do not change.

    Args:
        module: The module.
        example_inputs: A batch for each input; it tells their shapes and types.
        input: The shape of each input without the batch, if there is no example; otherwise the usual image sizes are
            tried.
        batch_dim: The batch dimension of the inputs; `auto` = found by trying, or the first.
        num_classes: The number of classes; None = not known.

    Returns:
        The model in float32 and eval mode, on the CPU.

    Raises:
        ModelError: The module cannot be copied or changed, or takes no such inputs.
    """
    name = type(module).__name__
    refuse_opaque(module, name)
    own, notes = prepare_module(copy_module(module).to("cpu").float())
    note: str | None = None
    if example_inputs is not None:
        tensors = [example_inputs] if isinstance(example_inputs, Tensor) else list(example_inputs)
        example, note = inputs_like([tensor.cpu() for tensor in tensors], name, own, batch_dim)
        inputs = named_in(example, own)
    elif shapes := shapes_in(input):
        unnamed = [ModelInput(shape) for shape in shapes]
        inputs = named_in(with_batch_dim(unnamed, batch_dim), own)
    else:
        inputs, source = inputs_that_run(own, name)
        note = f"{source}; give example_inputs to change it"
    spec = ModelSpec(f"{IN_MEMORY}{name}", inputs, num_classes)
    notes = (*notes, *([note] if note else []))
    return checked_copies(LoadedModel(own, spec, name, notes=notes, sha256=hash_of("", module.state_dict())))
