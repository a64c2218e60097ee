"""What C++ prints past Python's streams is not seen, so that stdout carries results only."""

from __future__ import annotations

import ctypes
import os

import pytest

from compressor.export.silence import silent_streams


def test_nothing_that_is_written_within_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    c = ctypes.CDLL(None)
    c.puts(b"before, held back by C")
    with silent_streams():
        c.puts(b"within, held back by C")
        os.write(1, b"within, to stdout")
        os.write(2, b"within, to stderr")
    os.write(1, b"after")
    assert capfd.readouterr() == ("before, held back by C\nafter", "")


def test_streams_are_restored_after_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), silent_streams():
        raise KeyError
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
