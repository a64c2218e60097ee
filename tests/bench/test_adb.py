"""ADB against a fake `adb` that behaves as the real one is documented to. No Android hardware has been tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compressor.bench.device.device import Device
from compressor.bench.device.transport import AdbTransport
from compressor.errors import DeviceUnavailable

from .conftest import Make, fails, job, left

FAKE = """#!/bin/sh
# Takes -s SERIAL shell -T WORDS...; like the real one it joins the words and gives them to the shell on the device.
serial=
if [ "$1" = -s ]; then serial=$2; shift 2; fi
case "$ADB_STATE" in
none) echo "adb: no devices/emulators found" >&2; exit 1;;
many) [ "$serial" ] || { echo "adb: more than one device/emulator" >&2; exit 1; };;
offline) echo "adb: device offline" >&2; exit 1;;
unauthorized) echo "adb: device unauthorized.
This adb server's \\$ADB_VENDOR_KEYS is not set
Try 'adb kill-server' if that seems wrong." >&2; exit 1;;
esac
if [ "$serial" ] && [ "$serial" != PHONE1 ]; then echo "adb: device '$serial' not found" >&2; exit 1; fi
[ "$1 $2" = "shell -T" ] || { echo "adb: unknown command $1" >&2; exit 1; }
shift 2
exec sh -c "$*"
"""


@pytest.fixture(autouse=True)
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/adb").write_text(FAKE)
    (tmp_path / "bin/adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")


def phone(tmp_path: Path, serial: str | None = "PHONE1", python: str = sys.executable) -> Device:
    (tmp_path / "data").mkdir(exist_ok=True)
    return Device(name="phone", transport=AdbTransport(serial), python=(python,), folder=str(tmp_path / "data"))


def test_a_model_is_timed_there_and_nothing_is_left(tmp_path: Path, linear: Make) -> None:
    with phone(tmp_path).open() as device:
        found = device.run(job(linear("it's a model.onnx")))
        assert left(tmp_path / "data")
    assert found[0].wall[0]
    assert left(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("state", "serial", "word"),
    [
        ("none", None, "no device"),
        ("many", None, "several devices"),
        ("one", "PHONE2", "no such device"),
        ("offline", "PHONE1", "offline"),
        ("unauthorized", "PHONE1", "USB debugging"),
    ],
)
def test_what_adb_complains_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, serial: str | None, word: str
) -> None:
    monkeypatch.setenv("ADB_STATE", state)
    fails(phone(tmp_path, serial), DeviceUnavailable, "target/unreachable", word)


def test_no_python_on_the_phone(tmp_path: Path) -> None:
    fails(
        phone(tmp_path, python="/data/no/python3"),
        DeviceUnavailable,
        "target/no-python",
        "/data/no/python3",
        "targets.yaml",
    )


def test_no_adb_here(tmp_path: Path) -> None:
    (tmp_path / "bin/adb").unlink()
    fails(phone(tmp_path), DeviceUnavailable, "target/transport-missing", "adb")
