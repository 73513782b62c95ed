"""A hospital's end of a federation: its settings, and the Flower processes that a kit starts.

A site's SuperNode keeps the connection to the server; a SuperExec beside it starts one process for each message, which
comes through this project's own door (``adamss_fl.cli.door``), where the application bundle is checked before any code
of it is unpacked. The parent of these processes (``adamss_fl.cli.clients``) has imported what they need.
"""

import os
import secrets
import shlex
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamss_fl import yaml_source
from adamss_fl.deployment import knock
from adamss_fl.deployment.supervisor import Program
from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically
from adamss_fl.plugins import suggest

KIT_VARIABLE = "ADAMSS_FL_SITE_KIT"
"""Environment variable: the kit's folder, for the processes that Flower starts at a site."""

CHUNK_BYTES = 24 * 2**20
"""What Flower sends in one request at most: a part of a model (``client.records``), which it would else cut in four. A
request costs the SuperLink some 10 ms whatever its size."""

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that glibc takes; a part of a model is smaller
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
}
"""Environment of processes that copy parts of a model: the memory of one copy is used for the next. glibc would give it
back each time, and most of the time of a copy would be the system's, for clearing the pages of the next."""

_KEYS = ("path", "layout", "state", "device", "port")
_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class SiteSettings:
    """What a hospital sets in its kit's ``site.yaml``; folders are relative to that file.

    path : the cohort; layout : its ``cohort_layout``.
    state : private folder of the site: its policy, weights, caches, logs and audit log.
    device : ``auto``, ``cpu`` or ``cuda``.
    port : of the SuperNode's own door on this machine's loopback; each site on one machine needs another.
    """

    path: Path
    state: Path
    layout: str = "hecktor2022"
    device: str = "cpu"
    port: int = 9094


def read_site_settings(kit: Path) -> SiteSettings:
    """Read ``site.yaml`` of a kit. Raises InputError naming file, line and key."""
    file = kit / "site.yaml"
    document = yaml_source.read(file)
    data: Mapping[str, Any] = document.data
    for key, value in data.items():
        if key not in _KEYS:
            raise document.error((key,), f"unknown key '{key}'; {suggest(key, _KEYS, 'keys')}")
        wanted = int if key == "port" else str
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise document.error((key,), f"must be {'a whole number' if wanted is int else 'a text'}, not {value!r}")
    for key in ("path", "state"):
        if not data.get(key):
            raise document.error((key,) if key in data else (), f"{key} is missing; give a folder")
    port = data.get("port", 9094)
    if not 1 <= port <= 65535:
        raise document.error(("port",), f"must be between 1 and 65535, not {port}")
    if data.get("device", "cpu") not in _DEVICES:
        raise document.error(("device",), f"must be auto, cpu or cuda, not {data['device']!r}")

    def absolute(text: str) -> Path:
        return (kit / Path(text).expanduser()).resolve()

    path = absolute(data["path"])
    if not path.is_dir():
        raise document.error(("path",), f"no folder {path}; give the folder of this hospital's patients")
    return SiteSettings(
        path=path,
        state=absolute(data["state"]),
        layout=data.get("layout", "hecktor2022"),
        device=data.get("device", "cpu"),
        port=port,
    )


def programs(kit: Path, settings: SiteSettings, server: str, ca_file: Path, key_file: Path) -> list[Program]:
    """The SuperNode, its SuperExec, and the parent of the processes that answer messages.

    server : HOST:PORT of the SuperLink; ca_file : whom the server's certificate must come from; key_file : the site's
    private key. Writes the door and the secret that both processes share into the state folder.
    """
    secret = shared_secret(settings.state)
    door = _write_door(settings.state)
    environment = {
        **flower_environment(settings.state),
        KIT_VARIABLE: str(kit.resolve()),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
        "PATH": os.pathsep.join((str(door.parent), str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }
    local = f"127.0.0.1:{settings.port}"
    node = [
        *(sys.executable, "-m", "adamss_fl.cli.supernode"),
        *("--superlink", server, "--root-certificates", str(ca_file)),
        *("--auth-supernode-private-key", str(key_file)),
        *("--isolation", "process", "--host", "127.0.0.1", "--port", str(settings.port)),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    executor = [
        flower("flower-superexec"),
        *("--runtime-api-address", local, "--insecure", "--superexec-auth-secret-file", str(secret)),
    ]
    clients = [sys.executable, "-m", "adamss_fl.cli.clients", str(door.parent)]
    return [
        Program("supernode", node, {**environment, **KEEP_MEMORY}),
        Program("superexec", executor, environment, settings.port),
        Program("clients", clients, environment),
    ]


def flower(name: str) -> str:
    """One of Flower's commands beside this Python. Raises InputError where it is not installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise InputError(f"{path}: Flower's command is missing; install adamss-fl with its dependencies again")
    return str(path)


def flower_environment(state: Path) -> dict[str, str]:
    """What Flower's processes need to know on either side: their home, to call nobody, and in what parts to send."""
    return {
        "FLWR_HOME": str(state / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES),
        "PYTHONSAFEPATH": "1",
    }


def shared_secret(state: Path, name: str = "superexec.secret") -> Path:
    """The file of a secret of 32 random bytes, made once, that nobody else on the machine may read."""
    path = state / name
    state.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"{path}: others may read it; `chmod 600` it")
    return path


def _write_door(state: Path) -> Path:
    """A ``flwr-clientapp`` for SuperExec to find first on its PATH."""
    path = state / "door" / "flwr-clientapp"
    command = shlex.join([sys.executable, "-I", "-S", str(Path(knock.__file__)), str(path.parent)])
    write_atomically(path, f'#!/bin/sh\nexec {command} "$@"\n'.encode())
    path.chmod(0o700)
    return path
