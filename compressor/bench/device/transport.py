"""How to start Python on a device, and what it means when that fails: this machine, SSH, ADB."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

CONNECT_SECONDS = 10

Trouble = tuple[str, str]
"""what was found, what to do"""


class Transport(Protocol):
    @property
    def shares_files(self) -> bool:
        """Whether paths here are paths there."""

    @property
    def locked(self) -> bool:
        """Whether a lock keeps other benches away."""

    def command(self, python: Sequence[str], arguments: Sequence[str]) -> list[str]:
        """The command, to be run here, that runs Python there, its stdin and stdout being ours."""

    def trouble(self, code: int | None, said: str) -> Trouble | None:
        """What the way there says about its end, if the fault lies with it."""


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """This machine, in the Python that runs now unless the target names another."""

    shares_files: ClassVar[bool] = True
    locked: ClassVar[bool] = False

    def command(self, python: Sequence[str], arguments: Sequence[str]) -> list[str]:
        return [*(python or (sys.executable,)), *arguments]

    def trouble(self, code: int | None, said: str) -> Trouble | None:
        return None


@dataclass(frozen=True, slots=True)
class SshTransport:
    """OpenSSH's own client: no password is ever asked for, an unknown host never accepted, nothing forwarded."""

    host: str
    user: str | None = None
    port: int = 22
    key: Path | None = None
    known_hosts: Path | None = None
    shares_files: ClassVar[bool] = False
    locked: ClassVar[bool] = True

    def command(self, python: Sequence[str], arguments: Sequence[str]) -> list[str]:
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
        return [
            "ssh",
            "-T",
            *settings,
            "-p",
            str(self.port),
            *login,
            "--",
            self.host,
            remote_command(python, arguments),
        ]

    def trouble(self, code: int | None, said: str) -> Trouble | None:
        if code not in (255, None):  # the command's own
            return None
        by_hand = f"ssh -p {self.port} {f'{self.user}@' if self.user else ''}{self.host}"
        return stderr_text(
            said,
            {
                "REMOTE HOST IDENTIFICATION HAS CHANGED": (
                    "the host's key has changed: another machine answers, or the connection is intercepted",
                    "find out why, then remove the known key with ssh-keygen -R",
                ),
                "Host key verification failed": (
                    "the host's key is unknown on this machine",
                    f"log in once and compare its fingerprint: {by_hand}",
                ),
                "Permission denied": (
                    "it refused the ssh key",
                    f"check user and key of the target; this command must work without a password: {by_hand} true",
                ),
                "Could not resolve hostname": (
                    "the host name cannot be resolved",
                    "check host in targets.yaml, and the network",
                ),
                "Connection refused": (
                    "it refused the connection",
                    "check host and port in targets.yaml, and its sshd",
                ),
                "timed out": ("it did not answer", "check that it is switched on and reachable: " + by_hand),
                "No route to host": ("there is no route to the host", "check that it is switched on, and the network"),
                "Connection closed": ("it closed the connection", "read the log of its sshd"),
                "Connection reset": ("it reset the connection", "read the log of its sshd"),
                "not responding": ("it stopped answering", "check that it is switched on and reachable: " + by_hand),
            },
        ) or (("ssh failed: " + last_line(said), f"this command must work: {by_hand} true") if code == 255 else None)


@dataclass(frozen=True, slots=True)
class AdbTransport:
    """Android's debug bridge; stdin and exit codes need Android 7 or newer. A shell is not an app: it is scheduled
    like a background job, so times there are those of a shell. Tested against a fake `adb`, not on hardware."""

    serial: str | None = None
    shares_files: ClassVar[bool] = False
    locked: ClassVar[bool] = True

    def command(self, python: Sequence[str], arguments: Sequence[str]) -> list[str]:
        chosen = ["-s", self.serial] if self.serial else []
        return ["adb", *chosen, "shell", "-T", remote_command(python, arguments)]

    def trouble(self, code: int | None, said: str) -> Trouble | None:
        return (
            stderr_text(
                said,
                {
                    "unauthorized": ("the device does not trust this computer", "unlock it and allow USB debugging"),
                    "offline": ("the device is offline", "connect it again, or restart it"),
                    "more than one device": (
                        "several devices are connected",
                        "set adb.serial in targets.yaml",
                    ),
                    "not found": ("adb knows no such device", "run adb devices and check adb.serial in targets.yaml"),
                    "no devices": ("no device is connected", "connect it, allow USB debugging, and run adb devices"),
                },
            )
            if "adb: " in said or "error: " in said
            else None
        )


def remote_command(python: Sequence[str], arguments: Sequence[str]) -> str:
    """One line for the shell there; nothing in it can be anything but a word."""
    return shlex.join((*(python or ("python3",)), *arguments))


def ssh_quote(path: Path) -> str:
    """A path as a value of ssh's own option syntax, where % starts a token and spaces end a name."""
    text = str(path.expanduser()).replace("%", "%%")
    return f'"{text}"' if " " in text else text


def stderr_text(said: str, known: Mapping[str, Trouble]) -> Trouble | None:
    return next((trouble for sign, trouble in known.items() if sign in said), None)


def last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
