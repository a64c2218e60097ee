"""Folders of Hugging Face libraries: read, pruned, and loaded back by the library or by compressor.load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from failures import raises_error
from libraries import library
from safetensors.torch import save_file

import compressor
from compressor.cli import run
from compressor.errors import ModelError, UntrustedFile
from compressor.models.families import family_of
from compressor.models.hugging_face.transformers_folder import image_size, image_statistics, weight_files
from compressor.models.hugging_face.transformers_module import architecture_of
from compressor.models.hugging_face.transformers_widths import changed_config
from compressor.models.inputs.example_inputs import example_inputs
from compressor.models.saved_model import load_folder
from compressor.models.source import load_model
from compressor.tensors import tree_leaves

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "hidden_size": 32}
WHISPER = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 50, "max_source_positions": 20, "num_mel_bins": 10,
    "max_target_positions": 34, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
OPTIONS = ("-r", "l1", "--target", "none", "-q", "--set", "prune.target={macs: 50%}")


def test_a_folder_and_its_prefix_belong_to_the_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    family = family_of(f"hf:{tmp_path}")
    assert family is not None
    assert family.prefix == "hf"
    assert family.claims(tmp_path)
    assert not family.claims(tmp_path.parent)


def test_a_folder_of_timm_needs_no_transformers(tmp_path: Path) -> None:
    import timm

    net = timm.create_model("resnet10t", num_classes=5)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    usual = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 64, 64]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": usual}))
    loaded = load_model(str(tmp_path))
    assert (loaded.spec.source, loaded.spec.num_classes) == ("timm:resnet10t", 5)
    assert (loaded.spec.image, loaded.mean, loaded.std) == ((3, 64, 64), (0.5,) * 3, (0.25,) * 3)


def test_shards_are_read_from_the_index_and_from_nowhere_else(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert [path.name for path in weight_files(tmp_path)] == ["one.safetensors", "two.safetensors"]
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with raises_error(ModelError, "model-file/damaged"):
        weight_files(tmp_path)


def test_the_processor_says_how_pixels_are_normalized(tmp_path: Path) -> None:
    settings = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "size": {"height": 48, "width": 40}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert image_statistics(tmp_path) == ((0.5,) * 3, (0.2,) * 3)
    assert image_size(settings) == (48, 40)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert image_statistics(tmp_path) == ((0.0,) * 3, (1.0,) * 3)


def test_fields_of_parts_change_together() -> None:
    config = {"width": 4, "text_config": {"heads": 2}}
    assert changed_config(config, {"width": 3, "text_config.heads": 1}, -1) == {"width": 1, "text_config": {"heads": 1}}
    assert config["width"] == 4


def _saved(tmp_path: Path, name: str, config: str, **settings: Any) -> Path:
    transformers = library("transformers")
    torch.manual_seed(0)
    module = getattr(transformers, name)(
        getattr(transformers, config)(**(settings if "d_model" in settings else SMALL | settings))
    )
    module.eval().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def _answers(out: Path, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first output of the reloaded module, and that of the ONNX file."""
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert names == [one.name for one in load_folder(out).spec.inputs]
    feed = {name: one.numpy() for name, one in zip(names, inputs, strict=True)}
    with torch.no_grad():
        module = compressor.load(out)(*inputs)
    return module[0] if isinstance(module, tuple) else next(iter(module.values())), torch.from_numpy(
        session.run(None, feed)[0]
    )


@pytest.mark.long
@pytest.mark.parametrize("widths", ["config", "free"])
def test_a_language_model_returns_as_a_folder(widths: str, tmp_path: Path) -> None:
    dense = _saved(tmp_path, "BertForSequenceClassification", "BertConfig", vocab_size=50, max_position_embeddings=34)
    (dense / "vocab.txt").write_text("[PAD]")
    out = tmp_path / "out"
    assert run([str(dense), *OPTIONS, "--set", f"prune.widths={widths}", "-o", str(out)]) == 0
    ids, mask = torch.randint(1, 50, (3, 32)), torch.ones(3, 32, dtype=torch.int64)
    ours, theirs = _answers(out, ids, mask)
    assert torch.allclose(ours, theirs, atol=1e-4)
    library = json.loads((out / "report.json").read_text())["library"]
    assert run(["verify", str(out), "-q"]) == 0
    if widths == "free":  # heads without the residual stream: no field says it
        assert library["path"] is None
        return
    import transformers

    again = transformers.BertForSequenceClassification.from_pretrained(out / library["path"]).eval()
    assert again.config.hidden_size // again.config.num_attention_heads == 8
    assert again.config.hidden_size < 32
    assert (out / library["path"] / "vocab.txt").is_file()
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids, attention_mask=mask).logits, ours, atol=1e-5)
    assert run([str(out / library["path"]), *OPTIONS, "-o", str(tmp_path / "twice")]) == 0


@pytest.mark.long
def test_a_network_of_images_takes_its_processor(tmp_path: Path) -> None:
    dense = _saved(tmp_path, "ViTForImageClassification", "ViTConfig", image_size=16, patch_size=4, num_labels=3)
    (dense / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    loaded = load_model(f"hf:{dense}")
    assert [(one.name, one.shape) for one in loaded.spec.inputs] == [("pixel_values", (3, 16, 16))]
    assert (loaded.spec.num_classes, loaded.mean) == (3, (0.5,) * 3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "config", "settings"),
    [
        (
            "LlamaForCausalLM",
            "LlamaConfig",
            {"vocab_size": 50, "max_position_embeddings": 34, "num_key_value_heads": 2},
        ),
        ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
    ],
)
def test_widths_of_the_configuration_make_a_folder_that_the_library_loads(
    name: str, config: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    dense = _saved(tmp_path, name, config, **settings)
    assert run([f"hf:{dense}", *OPTIONS, "--set", "prune.widths=config", "-o", str(out)]) == 0
    path = json.loads((out / "report.json").read_text())["library"]["path"]
    again = getattr(library("transformers"), name).from_pretrained(out / path).eval()
    loaded = load_folder(out)
    inputs = example_inputs(loaded, 2)
    feed = {one.name: tensor for one, tensor in zip(loaded.spec.inputs, inputs, strict=True)}
    with torch.no_grad():
        assert torch.equal(again(**feed).logits, tree_leaves(loaded.module(*inputs))[0])


@pytest.mark.long
def test_samples_say_the_length_of_sequences_and_shorter_integers_are_read(tmp_path: Path) -> None:
    dense = _saved(tmp_path, "BertForSequenceClassification", "BertConfig", vocab_size=50, max_position_embeddings=34)
    ids = np.random.default_rng(0).integers(1, 50, (24, 12)).astype(np.int32)
    np.savez(tmp_path / "tokens.npz", attention_mask=np.ones_like(ids), input_ids=ids)
    out = tmp_path / "out"
    options = ["-r", "minutes", "--target", "none", "-q", "--data", str(tmp_path / "tokens.npz")]
    assert run([str(dense), *options, "-o", str(out)]) == 0
    assert [one.shape for one in load_folder(out).spec.inputs] == [(12,), (12,)]
    report = json.loads((out / "report.json").read_text())
    assert report["agreement"]["samples"] == 5
    ours, theirs = _answers(out, torch.from_numpy(ids[:3]).long(), torch.ones(3, 12, dtype=torch.int64))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_code_in_a_folder_is_refused_and_a_missing_library_said() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        with raises_error(ModelError, "model/library-missing"):
            architecture_of({"model_type": "bert"}, "folder")
        return
    with raises_error(UntrustedFile, "untrusted-file/remote-code"):
        architecture_of({"model_type": "mine", "auto_map": {"AutoModel": "net.Net"}}, "folder")
    with raises_error(ModelError, "model/unknown-architecture"):
        architecture_of({"model_type": "mine"}, "folder")
    with raises_error(ModelError, "model/quantized-module"):
        architecture_of({"model_type": "bert", "quantization_config": {"quant_method": "gptq"}}, "folder")
