"""The sources of architectures. Each module here except base.py defines one, in its constant FAMILY."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from compressor.models.families.base import Family, NamedFamily


@cache
def families() -> tuple[Family, ...]:
    """Return every family; the first of two that have the same architecture is preferred."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    members: list[Family] = [import_module(f"{__name__}.{name}").FAMILY for name in names]
    return tuple(sorted(members, key=lambda family: family.rank))


def named_families() -> tuple[NamedFamily, ...]:
    """Return the families whose architectures have names."""
    return tuple(family for family in families() if isinstance(family, NamedFamily))


def family_of(source: str) -> Family | None:
    """Return the family that a source such as `timm:resnet26d` names; None for files and folders."""
    return next((family for family in families() if family.owns(source)), None)
