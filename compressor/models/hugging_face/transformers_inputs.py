"""Finds the inputs of a module of transformers: names from its forward, shapes and ranges from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from compressor.core import LoadedModel, ModelInput, ModelSpec
from compressor.errors import ModelError
from compressor.execution.copies import copy_module
from compressor.execution.run_copy import forward_error, run_copy
from compressor.models.hugging_face.transformers_folder import image_processor, image_size
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.preparation.signature import name_inputs
from compressor.tensors import tree_names

TOKENS = 64  # length of example sequences, where the positions are no fewer
OFFSET = 2  # positions that RoBERTa and its relatives leave out
AUDIO_SAMPLES = 16_000  # one second
HIDDEN = (
    "last_hidden_state",
    "encoder_last_hidden_state",
    "hidden_states",
    "encoder_hidden_states",
    "image_hidden_states",
)
"""Outputs that are no answer where a model has a head: their width would keep every layer before them whole."""

_SPECIAL = ("pad", "bos", "eos", "sep", "cls", "mask", "decoder_start", "unk", "image", "audio", "video")


def find_named_inputs(
    module: nn.Module, folder: Path, shapes: Sequence[tuple[int, ...]] | None
) -> tuple[ModelInput, ...]:
    """Find the fewest inputs that a module runs on, with the attention mask where its forward takes one.

    Args:
        module: The module in eval mode. Only copies of it run.
        folder: Its folder, whose processor may give the size of images.
        shapes: The shapes that the user sets: one for each input, or one for the first, which others follow.

    Returns:
        The inputs, named as forward names them.

    Raises:
        ModelError: None of the usual combinations runs.
    """
    known = _known_inputs(module, folder)
    tried = []
    failure: Exception | None = None
    for names in _combinations(module, known):
        inputs = _with_shapes([known[name] for name in names], shapes)
        failure = _failure(module, inputs)
        if failure is None:
            return tuple(inputs)
        tried.append(" + ".join(f"{one.name} {'x'.join(map(str, one.shape))}" for one in inputs))
    problem = f"it runs on none of {'; '.join(tried) or 'the known inputs'} (the last: {failure})"
    hint = "set model.input to one shape for each, or give your code: path/to/net.py:factory@WEIGHTS"
    raise ModelError("model-input/no-usual-size-runs", str(folder), " ".join(problem.split())[:600], hint)


def hidden_outputs(module: nn.Module, spec: ModelSpec) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Select the answers of a model with a head: all outputs but the hidden states of its parts.

    Args:
        module: The module with named inputs.
        spec: Its inputs.

    Returns:
        The indices of the outputs, () for all, and a note if some are left out.
    """
    loaded = LoadedModel(module, spec, spec.source)
    names = tree_names(run_copy(module, *example_inputs(loaded)))
    answers = [name for name in names if not name.startswith(HIDDEN)]
    if "For" not in type(module).__name__ or not answers or len(answers) == len(names):
        return (), ()
    left = ", ".join(name for name in names if name not in answers)
    note = f"outputs {', '.join(answers)}; {left} left out, which model.outputs can name"
    return tuple(names.index(name) for name in answers), (note,)


def _combinations(module: nn.Module, known: dict[str, ModelInput]) -> Iterator[list[str]]:
    """Yield combinations of inputs from the fewest on; each in the order of `known`."""
    taken = [name for name in known if name in inspect.signature(module.forward).parameters]
    main = str(getattr(module, "main_input_name", "input_ids"))
    first = [main] if main in taken else taken[:1]
    masks = ["attention_mask"] if first == ["input_ids"] and "attention_mask" in taken else []
    base = [*first, *masks]
    decoders = [name for name in taken if name.startswith("decoder_")]
    others = [name for name in taken if name not in (*base, *decoders)]
    yield base
    if decoders:
        yield [*base, *decoders[:1]]
    for other in (name for name in others if name != "attention_mask"):
        yield sorted([*base, other], key=taken.index)
    if len(taken) > len(base) + 1:
        yield taken
    if masks:
        yield first


def _with_shapes(inputs: Sequence[ModelInput], shapes: Sequence[tuple[int, ...]] | None) -> list[ModelInput]:
    if shapes is None:
        return list(inputs)
    if len(shapes) == len(inputs):
        return [replace(one, shape=shape) for one, shape in zip(inputs, shapes, strict=True)]
    first, usual = shapes[0], inputs[0].shape
    return [replace(one, shape=first) if one.shape == usual else one for one in inputs]


def _failure(module: nn.Module, inputs: Sequence[ModelInput]) -> Exception | None:
    named = name_inputs(copy_module(module), [one.name for one in inputs])
    return forward_error(named, *example_inputs(LoadedModel(named, ModelSpec("", tuple(inputs)), ""), 2))


def _known_inputs(module: nn.Module, folder: Path) -> dict[str, ModelInput]:
    config: Any = module.config
    text = _part(config, "text_config")
    vision = _part(config, "vision_config")
    positions = _first(text, ("max_position_embeddings", "n_positions", "max_target_positions"), TOKENS + OFFSET)
    length = max(1, min(TOKENS, positions - OFFSET))
    tokens = _tokens(text, length)
    height, width = image_size(vars(vision)) or image_size(image_processor(folder)) or (224, 224)
    channels = _first(vision, ("num_channels", "in_channels", "in_chans"), 3)
    frames = _first(config, ("num_frames",), 0)
    picture = (channels, height, width)
    known = [
        tokens("input_ids"),
        ModelInput((length,), "int64", (1, 1), "attention_mask"),
        ModelInput((length, 4), "int64", (1, 1), "bbox"),
        ModelInput((frames, *picture) if frames else picture, name="pixel_values"),
        ModelInput(_features(config), name="input_features"),
        ModelInput(_values(config), name="input_values"),
        ModelInput(_series(config), name="past_values"),
        tokens("decoder_input_ids"),
    ]  # fmt: skip
    return {one.name: one for one in known}


def _tokens(config: Any, length: int) -> Any:
    """Return a function that makes the input of token ids, without ids of special meaning where these are at an end."""
    vocabulary = _first(config, ("vocab_size",), 100)
    special = {
        value
        for name in _SPECIAL
        if isinstance(value := getattr(config, f"{name}_token_id", None), int) and 0 <= value < vocabulary
    }
    low = max((value + 1 for value in special if value < vocabulary // 2), default=0)
    high = min((value - 1 for value in special if value >= vocabulary // 2), default=vocabulary - 1)
    bounds = (low, high) if high > low else (0, vocabulary - 1)
    return lambda name: ModelInput((length,), "int64", bounds, name)


def _features(config: Any) -> tuple[int, ...]:
    """The shape of spectrograms: (mel bins, frames) in Whisper, (frames, features) elsewhere."""
    bins = _first(config, ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "input_dim"), 80)
    if hasattr(config, "max_source_positions") and hasattr(config, "decoder_layers"):
        frames = 2 * _first(config, ("max_source_positions",), 1500)
        return (bins, frames) if getattr(config, "model_type", "") == "whisper" else (min(frames, 256), bins)
    return 128, bins


def _values(config: Any) -> tuple[int, ...]:
    """The shape of audio: samples of a waveform, or (frames, mel bins)."""
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return config.max_length, config.num_mel_bins
    return (AUDIO_SAMPLES,)


def _series(config: Any) -> tuple[int, int]:
    return _first(config, ("context_length",), 32), _first(config, ("num_input_channels",), 1)


def _part(config: Any, name: str) -> Any:
    part = getattr(config, name, None)
    return config if part is None or isinstance(part, dict) else part


def _first(config: Any, names: Sequence[str], default: int) -> int:
    return next(
        (value for name in names if isinstance(value := getattr(config, name, None), int) and value > 0), default
    )
