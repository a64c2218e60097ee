"""Which architectures the sweep covers: all of torchvision's image models, and the smallest of each timm module."""

from __future__ import annotations

from pathlib import Path

ROOMS = ("classification", "segmentation", "detection", "timm", "timm-extra")


def names(room: str) -> list[str]:
    """The models of one room, as the command line takes them."""
    from torchvision import models

    if room.startswith("timm"):
        return [f"timm:{name}" for name in Path(__file__).with_name(f"{room}.txt").read_text().split()]
    module = models if room == "classification" else getattr(models, room)
    return [f"torchvision:{name}" for name in models.list_models(module=module)]
