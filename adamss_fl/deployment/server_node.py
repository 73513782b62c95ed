"""The coordinator's end of a federation: the Flower processes that a kit starts."""

import os
import sys
from pathlib import Path

from adamss_fl.deployment.site_node import KEEP_MEMORY, flower, flower_environment, shared_secret
from adamss_fl.deployment.supervisor import Program

STATE_VARIABLE = "ADAMSS_FL_SERVER_STATE"
"""Environment variable: the server's state folder, for the ServerApp that Flower starts."""

REGISTERED = "registered.json"
"""In the state folder: the public key (PEM) of every site that may take part, by name."""

REPLIES_BELL = "replies.bell"
"""In the state folder: what the SuperLink rings when it has all of a reply (``long_polls.FileBell``)."""

LOOPBACK = "127.0.0.1"


def coordinator_secret(state: Path) -> bytes:
    """The secret by which a SuperLink knows its coordinator, made once; whoever may read the state folder has it."""
    return shared_secret(state, "coordinator.secret").read_bytes()


def programs(state: Path, port: int, ca_file: Path, cert_file: Path, key_file: Path, host: str) -> list[Program]:
    """The SuperLink, with TLS, SuperNode authentication and our gate, and the SuperExec that starts ServerApps.

    state : the server's folder; port, host : what the SuperLink listens on; ca_file, cert_file, key_file : PEM.
    The server's certificate must be good for 127.0.0.1, where SuperExec finds the SuperLink.
    """
    secret = shared_secret(state)
    environment = {
        **flower_environment(state),
        STATE_VARIABLE: str(state.resolve()),
        **KEEP_MEMORY,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }
    coordinator_secret(state)
    link = [
        *(sys.executable, "-m", "adamss_fl.cli.superlink"),
        *("--host", host, "--port", str(port), "--database", str(state / "superlink.db")),
        *("--ssl-ca-certfile", str(ca_file), "--ssl-certfile", str(cert_file), "--ssl-keyfile", str(key_file)),
        *("--enable-supernode-auth", "--isolation", "process", "--disable-runtime-dependency-installation"),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    executor = [
        flower("flower-superexec"),
        *("--runtime-api-address", f"{LOOPBACK}:{port}", "--root-certificates", str(ca_file)),
        *("--superexec-auth-secret-file", str(secret)),
    ]
    return [Program("superlink", link, environment), Program("superexec", executor, environment, port)]
