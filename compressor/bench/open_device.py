"""Looks up a device by its name in targets.yaml, and checks that it can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from compressor.bench.device.device import Device
from compressor.bench.device.transport import AdbTransport, LocalTransport, SshTransport, Transport
from compressor.recipe.device_config import DeviceConfig, find_target
from compressor.run_log import RunLog

FOLDERS: dict[type[Transport], str] = {AdbTransport: "/data/local/tmp"}  # Android has no /tmp


def open_device(name: str, threads: int | Literal["auto"] = "auto", *, file: Path | None = None) -> Device | None:
    """Look up a device; it is not connected to yet.

    Args:
        name: A name in targets.yaml, `local`, or `none`.
        threads: Threads of the runtime; auto = as in targets.yaml, 1 by default.
        file: Another targets.yaml.

    Returns:
        The device; None for `none`, where nothing is measured.

    Raises:
        RecipeError: There is no device of that name.
    """
    if name == "none":
        return None
    config = find_target(name, file) or DeviceConfig.model_construct(name=name)
    transport = _transport(config)
    return Device(
        name=config.name,
        transport=transport,
        provider=config.provider,
        threads=config.threads if threads == "auto" else threads,
        python=config.python or (),
        folder=config.folder or FOLDERS.get(type(transport), "/tmp"),
        graph=config.graph,
        options=config.options,
        cpu_fallback=config.cpu_fallback,
        power=config.power,
    )


def check_device(device: Device | None, log: RunLog) -> None:
    """Connect to a remote device once, so that the run fails now if it is unreachable, not after hours of training.

    Args:
        device: The device; the local machine is not checked.
        log: Receives a note about the device that the models will be sent to.

    Raises:
        DeviceUnavailable: The device cannot be reached.
    """
    if device is None or device.is_local:
        return
    with log.stage("find the target"), device.open() as session:
        description = f"{session.facts.get('cpu', 'unknown processor')}, {session.runtime}, {session.provider}"
        log.note(f"target {device.name} is a {description}; both models will be sent there and removed again")


def _transport(config: DeviceConfig) -> Transport:
    if config.ssh is not None:
        ssh = config.ssh
        return SshTransport(ssh.host, ssh.user, ssh.port, _path(ssh.key), _path(ssh.known_hosts))
    return AdbTransport(config.adb.serial) if config.adb is not None else LocalTransport()


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None
