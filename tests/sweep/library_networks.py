"""Small networks of six libraries with random weights, by the name of the library and of the class."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

TEXT = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 200,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 200, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
AUDIO = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 30,
    "conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 4, 4), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
IMAGE, LARGER = (2, 3, 32, 32), (2, 3, 64, 64)

TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str]] = {  # class -> configuration, its settings, kind of input
    "BertForSequenceClassification": ("BertConfig", TEXT, "ids"),
    "BertModel": ("BertConfig", TEXT, "ids"),
    "RobertaForMaskedLM": ("RobertaConfig", TEXT, "ids"),
    "DistilBertForSequenceClassification": (
        "DistilBertConfig",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 200, "max_position_embeddings": 64},
        "ids",
    ),
    "ElectraForSequenceClassification": ("ElectraConfig", {**TEXT, "embedding_size": 32}, "ids"),
    "AlbertForSequenceClassification": ("AlbertConfig", {**TEXT, "embedding_size": 32}, "ids"),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", TEXT, "ids"),
    "MobileBertForSequenceClassification": (
        "MobileBertConfig",
        {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        "ids",
    ),
    "GPT2LMHeadModel": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200}, "ids"),
    "OPTForCausalLM": (
        "OPTConfig",
        {**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64},
        "ids",
    ),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", TEXT, "ids"),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED, "ids"),
    "MistralForCausalLM": ("MistralConfig", GROUPED, "ids"),
    "Qwen2ForCausalLM": ("Qwen2Config", GROUPED, "ids"),
    "GemmaForCausalLM": ("GemmaConfig", {**GROUPED, "head_dim": 16}, "ids"),
    "PhiForCausalLM": ("PhiConfig", TEXT, "ids"),
    "T5EncoderModel": (
        "T5Config",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 200},
        "ids",
    ),
    "BartModel": ("BartConfig", SEQ2SEQ, "ids"),
    "ViTForImageClassification": ("ViTConfig", VISION, "image"),
    "DeiTForImageClassification": ("DeiTConfig", VISION, "image"),
    "BeitForImageClassification": ("BeitConfig", VISION, "image"),
    "Dinov2ForImageClassification": ("Dinov2Config", {**VISION, "mlp_ratio": 2}, "image"),
    "CLIPVisionModel": ("CLIPVisionConfig", VISION, "image"),
    "SiglipVisionModel": ("SiglipVisionConfig", VISION, "image"),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "image",
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", {"hidden_sizes": [16, 32, 48, 64], "depths": [1] * 4}, "large"),  # noqa: E501
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "bottleneck"},
        "large",
    ),
    "MobileNetV2ForImageClassification": ("MobileNetV2Config", {}, "large"),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        {"hidden_sizes": [16, 32, 40, 64], "depths": [1] * 4, "decoder_hidden_size": 32, "num_attention_heads": [1, 2, 4, 8]},  # noqa: E501
        "large",
    ),
    "PoolFormerForImageClassification": ("PoolFormerConfig", {"hidden_sizes": [16, 32, 40, 64], "depths": [1] * 4}, "large"),  # noqa: E501
    "YolosForObjectDetection": ("YolosConfig", {**VISION, "image_size": [32, 32], "num_detection_tokens": 5}, "image"),
    "Wav2Vec2ForCTC": ("Wav2Vec2Config", AUDIO, "wave"),
    "HubertForCTC": ("HubertConfig", AUDIO, "wave"),
    "ASTForAudioClassification": ("ASTConfig", {**VISION, "max_length": 64, "num_mel_bins": 32}, "spectrum"),
}  # fmt: skip

INPUTS: dict[str, Callable[[], Tensor]] = {
    "ids": lambda: torch.randint(3, 199, (2, 32)),
    "image": lambda: torch.randn(IMAGE),
    "large": lambda: torch.randn(LARGER),
    "wave": lambda: torch.randn(2, 4000),
    "spectrum": lambda: torch.randn(2, 64, 32),
}


def _transformers(name: str) -> tuple[nn.Module, Tensor]:
    library = import_module("transformers")
    config, settings, kind = TRANSFORMERS[name]
    made = getattr(library, config)(**settings)
    if getattr(made, "use_cache", False):
        made.use_cache = False
    return getattr(library, name)(made), INPUTS[kind]()


def _ultralytics(name: str) -> tuple[nn.Module, Tensor]:
    tasks = import_module("ultralytics.nn.tasks")
    kind = {"seg": tasks.SegmentationModel, "cls": tasks.ClassificationModel, "pose": tasks.PoseModel}
    cls = next((cls for word, cls in kind.items() if name.endswith(word)), tasks.DetectionModel)

    class Predictions(cls):  # type: ignore[misc, valid-type]
        def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(x, *args, **kwargs)
            return output[0] if isinstance(output, tuple) and not self.training else output

    return Predictions(f"{name}.yaml", verbose=False), torch.rand(LARGER)


def _segmentation(name: str) -> tuple[nn.Module, Tensor]:
    library = import_module("segmentation_models_pytorch")
    encoder = "mit_b0" if name == "Segformer" else "resnet18"
    size = 128 if name == "PAN" else 64
    return getattr(library, name)(encoder, encoder_weights=None, classes=2), torch.randn(2, 3, size, size)


AUDIO_MODELS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "ConvTasNet": ({"msk_num_feats": 32, "msk_num_hidden_feats": 64, "enc_num_feats": 64}, (2, 1, 2000)),
    "Wav2Letter": ({"num_features": 1}, (2, 1, 8000)),
    "DeepSpeech": ({"n_feature": 40, "n_hidden": 64}, (2, 1, 20, 40)),
    "wav2vec2_base": ({}, (1, 4000)),
}


def _torchaudio(name: str) -> tuple[nn.Module, Tensor]:
    models = import_module("torchaudio.models")
    settings, shape = AUDIO_MODELS[name]
    if name == "wav2vec2_base":
        settings = {
            "extractor_mode": "group_norm", "extractor_conv_layer_config": [(32, 10, 5), (32, 4, 4)],
            "extractor_conv_bias": False, "encoder_embed_dim": 64, "encoder_projection_dropout": 0.0,
            "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4, "encoder_num_layers": 2,
            "encoder_num_heads": 4, "encoder_attention_dropout": 0.0, "encoder_ff_interm_features": 128,
            "encoder_ff_interm_dropout": 0.0, "encoder_dropout": 0.0, "encoder_layer_norm_first": False,
            "encoder_layer_drop": 0.0, "aux_num_out": 30,
        }  # fmt: skip
        return models.wav2vec2_model(**settings), torch.randn(shape)
    return getattr(models, name)(**settings), torch.randn(shape)


class Timed(nn.Module):
    """A denoiser of diffusers at one step of time."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, torch.full((len(x),), 7, device=x.device)).sample


class Decoded(nn.Module):
    """An autoencoder of diffusers without its noise."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        latent = self.net.encode(x)
        latent = latent.latent_dist.mode() if hasattr(latent, "latent_dist") else latent.latents
        return self.net.decode(latent).sample


def _diffusers(name: str) -> tuple[nn.Module, Tensor]:
    library = import_module("diffusers")
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    pair = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    if name == "UNet2DModel":
        kinds = {
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        return Timed(library.UNet2DModel(sample_size=16, **blocks, **kinds, attention_head_dim=8)), torch.randn(
            2, 3, 16, 16
        )
    if name == "AutoencoderKL":
        return Decoded(library.AutoencoderKL(**blocks, **pair)), torch.randn(2, 3, 32, 32)
    if name == "VQModel":
        net = library.VQModel(**blocks, **pair, num_vq_embeddings=16)
        return Decoded(net).eval(), torch.randn(2, 3, 32, 32)
    if name == "AutoencoderTiny":
        channels = {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4}
        return Decoded(library.AutoencoderTiny(**channels)), torch.randn(2, 3, 32, 32)
    assert name == "DiTTransformer2DModel"
    sizes = {
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "num_layers": 2,
        "sample_size": 8,
        "norm_num_groups": 4,
    }

    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = library.DiTTransformer2DModel(**sizes)

        def forward(self, x: Tensor) -> Tensor:
            step = torch.full((len(x),), 7, device=x.device)
            return self.net(x, timestep=step, class_labels=step).sample

    return Labelled(), torch.randn(2, 4, 8, 8)


MONAI: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "UNet": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (16, 32, 64), "strides": (2, 2), "num_res_units": 1},  # noqa: E501
        (2, 1, 32, 32),
    ),
    "BasicUNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "features": (16, 16, 32, 32, 64, 16)}, (2, 1, 32, 32)),  # noqa: E501
    "SegResNet": ({"spatial_dims": 2, "init_filters": 16, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)}, (2, 1, 32, 32)),  # noqa: E501
    "DynUNet": (
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]},  # noqa: E501
        (2, 1, 32, 32),
    ),
    "AttentionUnet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (16, 32), "strides": (2,)}, (2, 1, 32, 32)),  # noqa: E501
    "UNETR": (
        {"in_channels": 1, "out_channels": 2, "img_size": (32, 32), "feature_size": 16, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4, "spatial_dims": 2},  # noqa: E501
        (2, 1, 32, 32),
    ),
    "DenseNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "init_features": 16, "growth_rate": 8, "block_config": (2, 2)}, (2, 1, 32, 32)),  # noqa: E501
    "ViT": (
        {"in_channels": 1, "img_size": (32, 32), "patch_size": (8, 8), "hidden_size": 64, "mlp_dim": 128, "num_layers": 2, "num_heads": 4, "classification": True, "spatial_dims": 2},  # noqa: E501
        (2, 1, 32, 32),
    ),
    "VNet": ({"spatial_dims": 3, "in_channels": 1, "out_channels": 2}, (1, 1, 16, 16, 16)),
}  # fmt: skip


def _monai(name: str) -> tuple[nn.Module, Tensor]:
    settings, shape = MONAI[name]
    return getattr(import_module("monai.networks.nets"), name)(**settings), torch.randn(shape)


LIBRARIES: dict[str, tuple[Callable[[str], tuple[nn.Module, Tensor]], tuple[str, ...]]] = {
    "transformers": (_transformers, tuple(TRANSFORMERS)),
    "ultralytics": (
        _ultralytics,
        ("yolov8n", "yolo11n", "yolov8n-seg", "yolov8n-cls", "yolov8n-pose", "yolov9t", "yolov5n"),
    ),
    "segmentation_models_pytorch": (
        _segmentation,
        ("Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Linknet", "MAnet", "PAN", "Segformer"),
    ),
    "torchaudio": (_torchaudio, tuple(AUDIO_MODELS)),
    "diffusers": (
        _diffusers,
        ("UNet2DModel", "AutoencoderKL", "VQModel", "AutoencoderTiny", "DiTTransformer2DModel"),
    ),
    "monai": (_monai, tuple(MONAI)),
}
NETWORKS = tuple(f"{library}:{name}" for library, (_, names) in LIBRARIES.items() for name in names)


def network(name: str) -> tuple[Callable[[], nn.Module], Callable[[], Tensor]]:
    """Return a factory of the network, in eval mode, and one of its example inputs."""
    library, _, own = name.partition(":")
    build = LIBRARIES[library][0]

    def make() -> nn.Module:
        torch.manual_seed(0)
        return build(own)[0].eval()

    def example() -> Tensor:
        torch.manual_seed(0)
        return build(own)[1]

    return make, example
