"""Networks of libraries that nobody had tried before: decoders, encoder-decoders, detectors, audio, blocks, graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from library_networks import AUDIO, GROUPED, SEQ2SEQ, TEXT, VISION  # beside this file
from torch import Tensor, nn

IDS, IMAGE, LARGE = (2, 24), (2, 3, 32, 32), (2, 3, 64, 64)
SMALL_LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
DECODER = {**GROUPED, "head_dim": 16}
MOE = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}

TRANSFORMERS: dict[str, tuple[str, dict[str, Any], tuple[str, tuple[int, ...]]]] = {
    "Qwen3ForCausalLM": ("Qwen3Config", DECODER, ("ids", IDS)),
    "Gemma2ForCausalLM": ("Gemma2Config", {**DECODER, "sliding_window": 16}, ("ids", IDS)),
    "Phi3ForCausalLM": ("Phi3Config", GROUPED, ("ids", IDS)),
    "CohereForCausalLM": ("CohereConfig", GROUPED, ("ids", IDS)),
    "StableLmForCausalLM": ("StableLmConfig", GROUPED, ("ids", IDS)),
    "Starcoder2ForCausalLM": ("Starcoder2Config", GROUPED, ("ids", IDS)),
    "OlmoForCausalLM": ("OlmoConfig", GROUPED, ("ids", IDS)),
    "SmolLM3ForCausalLM": ("SmolLM3Config", GROUPED, ("ids", IDS)),
    "MixtralForCausalLM": ("MixtralConfig", MOE, ("ids", IDS)),
    "BloomForCausalLM": ("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200}, ("ids", IDS)),  # noqa: E501
    "GPTJForCausalLM": ("GPTJConfig", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "vocab_size": 200}, ("ids", IDS)),  # noqa: E501
    "GPTNeoForCausalLM": ("GPTNeoConfig", {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "vocab_size": 200}, ("ids", IDS)),  # noqa: E501
    "FalconForCausalLM": ("FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 200}, ("ids", IDS)),  # noqa: E501
    "MambaForCausalLM": ("MambaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 200}, ("ids", IDS)),  # noqa: E501
    "XLMRobertaForTokenClassification": ("XLMRobertaConfig", TEXT, ("ids", IDS)),
    "MPNetForSequenceClassification": ("MPNetConfig", TEXT, ("ids", IDS)),
    "FNetModel": ("FNetConfig", TEXT, ("ids", IDS)),
    "ModernBertForSequenceClassification": ("ModernBertConfig", {**TEXT, "cls_token_id": 1, "sep_token_id": 2}, ("ids", IDS)),  # noqa: E501
    "T5ForConditionalGeneration": ("T5Config", {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 200}, ("two ids", IDS)),  # noqa: E501
    "PegasusForConditionalGeneration": ("PegasusConfig", SEQ2SEQ, ("two ids", IDS)),
    "MarianMTModel": ("MarianConfig", SEQ2SEQ, ("two ids", IDS)),
    "BlenderbotSmallModel": ("BlenderbotSmallConfig", SEQ2SEQ, ("two ids", IDS)),
    "WhisperForAudioClassification": ("WhisperConfig", {**SEQ2SEQ, "max_source_positions": 50, "num_mel_bins": 20}, ("floats", (2, 20, 100))),  # noqa: E501
    "Data2VecAudioForCTC": ("Data2VecAudioConfig", {**AUDIO, "num_conv_pos_embedding_groups": 4, "conv_pos_kernel_size": 5}, ("floats", (2, 4000))),  # noqa: E501
    "WavLMForCTC": ("WavLMConfig", AUDIO, ("floats", (2, 4000))),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", {**VISION, "mlp_ratio": 2}, ("floats", IMAGE)),  # noqa: E501
    "Swinv2ForImageClassification": ("Swinv2Config", {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, ("floats", IMAGE)),  # noqa: E501
    "ViTMAEModel": ("ViTMAEConfig", {**VISION, "mask_ratio": 0.0, "decoder_hidden_size": 32, "decoder_num_attention_heads": 4}, ("floats", IMAGE)),  # noqa: E501
    "ConvNextV2ForImageClassification": ("ConvNextV2Config", {"hidden_sizes": [16, 32, 48, 64], "depths": [1] * 4}, ("floats", LARGE)),  # noqa: E501
    "RegNetForImageClassification": ("RegNetConfig", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8}, ("floats", LARGE)),  # noqa: E501
    "EfficientNetForImageClassification": ("EfficientNetConfig", {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640}, ("floats", LARGE)),  # noqa: E501
    "MobileViTForImageClassification": ("MobileViTConfig", {"hidden_sizes": [32, 40, 48], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 96], "num_attention_heads": 4, "image_size": 64}, ("floats", LARGE)),  # noqa: E501
    "PvtForImageClassification": ("PvtConfig", {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [1] * 4}, ("floats", LARGE)),  # noqa: E501
    "DPTForDepthEstimation": ("DPTConfig", {**VISION, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16}, ("floats", IMAGE)),  # noqa: E501
    "SamVisionModel": ("SamVisionConfig", {**SMALL_LAYERS, "output_channels": 32, "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 128}, ("floats", LARGE)),  # noqa: E501
    "TimesformerForVideoClassification": ("TimesformerConfig", {**VISION, "num_frames": 2}, ("floats", (2, 2, 3, 32, 32))),  # noqa: E501
    "PatchTSTForPrediction": ("PatchTSTConfig", {"num_input_channels": 2, "context_length": 32, "prediction_length": 8, "patch_length": 8, "patch_stride": 8, "d_model": 32, "num_attention_heads": 4, "ffn_dim": 64, "num_hidden_layers": 2}, ("floats", (2, 32, 2))),  # noqa: E501
}  # fmt: skip


def _inputs(kind: str, shape: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(1)
    if kind == "floats":
        return [torch.randn(shape)]
    return [torch.randint(3, 199, shape) for _ in range(2 if kind == "two ids" else 1)]


class Answers(nn.Module):
    """A model of transformers that takes its inputs in order, and decoders' ids by name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, source: Tensor, target: Tensor | None = None) -> Tensor:
        output = self.net(source) if target is None else self.net(input_ids=source, decoder_input_ids=target)
        return output.logits if hasattr(output, "logits") else output[0]


def _transformers(name: str) -> tuple[nn.Module, list[Tensor]]:
    library = import_module("transformers")
    config, settings, (kind, shape) = TRANSFORMERS[name]
    made = getattr(library, config)(**settings)
    if getattr(made, "use_cache", False):
        made.use_cache = False
    return Answers(getattr(library, name)(made)), _inputs(kind, shape)


class Conditioned(nn.Module):
    """A denoiser of diffusers with a text that it attends to."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.net(x, torch.full((len(x),), 7, device=x.device), text).sample


def _diffusers(name: str) -> tuple[nn.Module, list[Tensor]]:
    library = import_module("diffusers")
    if name == "UNet2DConditionModel":
        net = library.UNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
            attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
        return Conditioned(net), [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 32)]
    assert name == "PixArtTransformer2DModel"
    from library_networks import Timed

    class Text(Timed):
        def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
            step = torch.full((len(x),), 7, device=x.device)
            return self.net(
                x,
                encoder_hidden_states=text,
                timestep=step,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample

    net = library.PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, num_layers=2, sample_size=8, cross_attention_dim=32,
        caption_channels=16, in_channels=4, out_channels=8, use_additional_conditions=False,
    )  # fmt: skip
    return Text(net), [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 16)]


def _torchaudio(name: str) -> tuple[nn.Module, list[Tensor]]:
    models = import_module("torchaudio.models")
    if name == "Conformer":

        class Lengths(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = models.Conformer(32, 4, 64, 2, 7)

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x, torch.full((len(x),), x.shape[1], device=x.device))[0]

        return Lengths(), [torch.randn(2, 20, 32)]
    if name == "HDemucs":
        return models.HDemucs(["a", "b"], channels=16, depth=4, nfft=256), [torch.randn(1, 2, 4096)]
    assert name == "WaveRNN"
    net = models.WaveRNN(
        upsample_scales=[2, 2],
        n_classes=16,
        hop_length=4,
        n_res_block=2,
        n_rnn=32,
        n_fc=32,
        kernel_size=3,
        n_freq=16,
        n_hidden=32,
        n_output=32,
    )
    return net, [torch.randn(2, 1, 16), torch.randn(2, 1, 16, 6)]


def _segmentation(name: str) -> tuple[nn.Module, list[Tensor]]:
    library = import_module("segmentation_models_pytorch")
    architecture, encoder = name.split("-", 1)
    return getattr(library, architecture)(encoder, encoder_weights=None, classes=2), [torch.randn(2, 3, 64, 64)]


MONAI: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "SwinUNETR": ({"in_channels": 1, "out_channels": 2, "feature_size": 12, "spatial_dims": 2, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}, (1, 1, 64, 64)),  # noqa: E501
    "SENet154": ({"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "layers": (1, 1, 1, 1)}, (1, 1, 64, 64)),
    "EfficientNetBN": ({"model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 1, "num_classes": 2, "pretrained": False}, (1, 1, 64, 64)),  # noqa: E501
    "HighResNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 2}, (1, 1, 32, 32)),
    "RegUNet": ({"spatial_dims": 2, "in_channels": 1, "num_channel_initial": 8, "depth": 2}, (1, 1, 32, 32)),
    "FlexibleUNet": ({"in_channels": 1, "out_channels": 2, "backbone": "resnet18", "spatial_dims": 2}, (1, 1, 64, 64)),
}  # fmt: skip


def _monai(name: str) -> tuple[nn.Module, list[Tensor]]:
    settings, shape = MONAI[name]
    return getattr(import_module("monai.networks.nets"), name)(**settings), [torch.randn(shape)]


LIBRARIES: dict[str, tuple[Callable[[str], tuple[nn.Module, list[Tensor]]], Sequence[str]]] = {
    "transformers": (_transformers, tuple(TRANSFORMERS)),
    "diffusers": (_diffusers, ("UNet2DConditionModel", "PixArtTransformer2DModel")),
    "torchaudio": (_torchaudio, ("Conformer", "HDemucs", "WaveRNN")),
    "segmentation_models_pytorch": (
        _segmentation,
        (
            "Unet-mobilenet_v2",
            "FPN-efficientnet-b0",
            "UPerNet-resnet18",
            "DPT-tu-vit_tiny_patch16_224",
            "Unet-timm-skresnet18",
            "Unet-densenet121",
        ),
    ),
    "monai": (_monai, tuple(MONAI)),
}
NETWORKS = tuple(f"{library}:{name}" for library, (_, names) in LIBRARIES.items() for name in names)


def build(name: str) -> tuple[nn.Module, list[Tensor]]:
    """Build a network with random weights, in eval mode, and one batch of its inputs."""
    library, _, own = name.partition(":")
    torch.manual_seed(0)
    module, inputs = LIBRARIES[library][0](own)
    return module.eval(), inputs
