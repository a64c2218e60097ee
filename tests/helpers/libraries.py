"""Libraries that models come from: tests of them are skipped where one is missing, but not in CI."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def library(name: str) -> Any:
    """Import a library; without it the test is skipped, or fails where COMPRESS_REQUIRE_LIBRARIES is set."""
    if os.environ.get("COMPRESS_REQUIRE_LIBRARIES"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
