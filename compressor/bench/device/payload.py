"""The runner as one zip file, the same bytes each time, and the program that receives it on the device."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

from compressor.bench import runner

SOURCE = Path(runner.__file__).parent
BOOTSTRAP = "bootstrap.py"


def bootstrap_program() -> str:
    """The text for `python -c`."""
    return (SOURCE / BOOTSTRAP).read_text(encoding="utf-8")


@cache
def runner_archive() -> bytes:
    """The package `runner`, without dates: what was sent is known by its hash."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(SOURCE.glob("*.py")):
            if path.name != BOOTSTRAP:
                file.writestr(zipfile.ZipInfo(f"runner/{path.name}"), path.read_bytes())
    return made.getvalue()
