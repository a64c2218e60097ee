"""`timm:NAME[.TAG][@pretrained]`: the image classifiers of timm."""

from __future__ import annotations

from typing import Any

from torch import nn

from compressor.core import ImageSize, ModelSpec
from compressor.models.families.base import Defaults, NamedFamily, call_builder, download, unknown_weights


class Timm(NamedFamily):
    """The architectures of the installed timm."""

    prefix = "timm"
    rank = 3
    library = "timm"

    def names(self) -> list[str]:
        import timm

        names: list[str] = timm.list_models()
        return names

    def has(self, name: str) -> bool:
        return name.partition(".")[0] in self.names()

    def defaults(self, name: str) -> Defaults:
        cfg = _config(f"timm:{name}", name)
        return Defaults(tuple(cfg.input_size), cfg.num_classes, tuple(cfg.mean), tuple(cfg.std))

    def build(self, spec: ModelSpec, name: str) -> nn.Module:
        """Build the network, as `Family.build` does.

        Args:
            spec: Its source, classes and input.
            name: Its name in the family.

        Returns:
            The module.

        Raises:
            ModelError: It cannot be built with these sizes.
        """
        import timm

        settings = _settings(spec, name)
        module: nn.Module = call_builder(spec.source, timm.create_model, name, pretrained=False, **settings)
        return module

    def published_weights(self, spec: ModelSpec, name: str, tag: str, size: ImageSize | None) -> nn.Module:
        """Download the weights of timm's default or named tag.

        Args:
            spec: The architecture.
            name: Its name, with the tag of timm.
            tag: `pretrained`.
            size: Unused: the spec has the input size.

        Returns:
            The module with the weights.

        Raises:
            ModelError: `tag` is another word, or the download failed.
        """
        if tag != "pretrained":
            hint = f"give {spec.source}@pretrained, or {spec.source}.TAG@pretrained"
            raise unknown_weights(spec, tag, hint)
        import timm

        settings = _settings(spec, name)
        source = f"{spec.source}@{tag}"
        module: nn.Module = download(source, lambda: timm.create_model(name, pretrained=True, **settings))
        return module


def _config(source: str, name: str) -> Any:
    from timm.models import get_pretrained_cfg

    return call_builder(source, get_pretrained_cfg, name)


def _settings(spec: ModelSpec, name: str) -> dict[str, Any]:
    """Return the arguments of timm.create_model; `img_size` only if weights depend on it."""
    cfg = _config(spec.source, name)
    settings: dict[str, Any] = {} if spec.num_classes is None else {"num_classes": spec.num_classes}
    if spec.input[0] != cfg.input_size[0]:
        settings["in_chans"] = spec.input[0]
    if cfg.fixed_input_size and spec.input[1:] != tuple(cfg.input_size[1:]):
        settings["img_size"] = spec.input[1:]
    return settings


FAMILY = Timm()
