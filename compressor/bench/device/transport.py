"""How to start a program on a device: directly, over SSH or over ADB; and what to do when that fails."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from compressor.bench.device.connection import ProcessEnd

CONNECT_SECONDS = 10

Diagnosis = tuple[str, str]
"""the problem, and what to do about it"""


class Transport(Protocol):
    """A way to run a program on a device."""

    @property
    def shares_files(self) -> bool:
        """Whether a path means the same file on this machine and on the device."""

    @property
    def locked(self) -> bool:
        """Whether a lock on the device keeps other measurements out."""

    @property
    def default_python(self) -> tuple[str, ...]:
        """The command that runs Python on the device unless targets.yaml names another."""

    def command(self, words: Sequence[str]) -> list[str]:
        """The command on this machine that runs `words` on the device, with stdin and stdout connected."""

    def diagnose(self, end: ProcessEnd) -> Diagnosis | None:
        """Why the command ended, if the transport is the cause; None otherwise."""


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """This machine."""

    shares_files: ClassVar[bool] = True
    locked: ClassVar[bool] = False
    default_python: ClassVar[tuple[str, ...]] = (sys.executable,)

    def command(self, words: Sequence[str]) -> list[str]:
        return list(words)

    def diagnose(self, end: ProcessEnd) -> None:
        return None


@dataclass(frozen=True, slots=True)
class SshTransport:
    """OpenSSH's client. It never asks for a password, refuses unknown hosts and forwards nothing."""

    host: str
    user: str | None = None
    port: int = 22
    key: Path | None = None
    known_hosts: Path | None = None
    shares_files: ClassVar[bool] = False
    locked: ClassVar[bool] = True
    default_python: ClassVar[tuple[str, ...]] = ("python3",)

    def command(self, words: Sequence[str]) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "4",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "ControlMaster": "no",
            "ControlPath": "none",
            "LogLevel": "ERROR",
            **({"UserKnownHostsFile": ssh_quote(self.known_hosts)} if self.known_hosts else {}),
            **({"IdentityFile": ssh_quote(self.key), "IdentitiesOnly": "yes"} if self.key else {}),
        }
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        login = ["-l", self.user] if self.user else []
        return ["ssh", "-T", *settings, "-p", str(self.port), *login, "--", self.host, shlex.join(words)]

    def diagnose(self, end: ProcessEnd) -> Diagnosis | None:
        if end.code not in (255, None):  # ssh itself exits with 255; another code is that of the program it ran
            return None
        manual = f"ssh -p {self.port} {f'{self.user}@' if self.user else ''}{self.host}"
        diagnoses = {
            "REMOTE HOST IDENTIFICATION HAS CHANGED": (
                "the host's key has changed: another machine answers, or the connection is intercepted",
                "find out why, then remove the known key with ssh-keygen -R",
            ),
            "Host key verification failed": (
                "the host's key is unknown on this machine",
                f"log in once and compare its fingerprint: {manual}",
            ),
            "Permission denied": (
                "it refused the ssh key",
                f"check user and key in targets.yaml; this command must work without a password: {manual} true",
            ),
            "Could not resolve hostname": (
                "the host name cannot be resolved",
                "check host in targets.yaml, and the network",
            ),
            "Connection refused": ("it refused the connection", "check host and port in targets.yaml, and its sshd"),
            "timed out": ("it did not answer", f"check that it is switched on and reachable: {manual}"),
            "No route to host": ("there is no route to the host", "check that it is switched on, and the network"),
            "Connection closed": ("it closed the connection", "read the log of its sshd"),
            "Connection reset": ("it reset the connection", "read the log of its sshd"),
            "not responding": ("it stopped answering", f"check that it is switched on and reachable: {manual}"),
        }
        unknown = (f"ssh failed: {end.last_line}", f"this command must work: {manual} true")
        return _first_match(diagnoses, end.stderr) or (unknown if end.code == 255 else None)


@dataclass(frozen=True, slots=True)
class AdbTransport:
    """The Android Debug Bridge; stdin and exit codes need Android 7 or newer.

    Android schedules a shell like a background job, so an app may be faster. Tested with a fake `adb`, not on hardware.
    """

    serial: str | None = None
    shares_files: ClassVar[bool] = False
    locked: ClassVar[bool] = True
    default_python: ClassVar[tuple[str, ...]] = ("python3",)

    def command(self, words: Sequence[str]) -> list[str]:
        serial = ["-s", self.serial] if self.serial else []
        return ["adb", *serial, "shell", "-T", shlex.join(words)]

    def diagnose(self, end: ProcessEnd) -> Diagnosis | None:
        if "adb: " not in end.stderr and "error: " not in end.stderr:
            return None
        diagnoses = {
            "unauthorized": ("the device does not trust this computer", "unlock it and allow USB debugging"),
            "offline": ("the device is offline", "connect it again, or restart it"),
            "more than one device": ("several devices are connected", "set adb.serial in targets.yaml"),
            "not found": ("adb knows no such device", "run adb devices and check adb.serial in targets.yaml"),
            "no devices": ("no device is connected", "connect it, allow USB debugging, and run adb devices"),
        }
        return _first_match(diagnoses, end.stderr)


def _first_match(diagnoses: Mapping[str, Diagnosis], stderr: str) -> Diagnosis | None:
    return next((diagnosis for pattern, diagnosis in diagnoses.items() if pattern in stderr), None)


def ssh_quote(path: Path) -> str:
    """Quote a path for an option of ssh, where % starts a token and a space ends the value."""
    text = str(path.expanduser()).replace("%", "%%")
    return f'"{text}"' if " " in text else text
