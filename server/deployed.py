"""A server that was started from a kit: where a run is kept, and who its sites are."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from adamss_fl.deployment.server_node import REGISTERED, STATE_VARIABLE
from adamss_fl.errors import InputError


def state_folder() -> Path | None:
    """The state folder of the server that started this process; None in a simulation."""
    folder = os.environ.get(STATE_VARIABLE)
    return Path(folder) if folder else None


def run_name(run_config: Mapping[str, object]) -> str:
    """The run's name. Raises InputError where the Flower run was not started by ``adamss-fl submit``."""
    name = run_config.get("run")
    if not isinstance(name, str) or not name:
        raise InputError("this Flower run brings no name of a run; start it with `adamss-fl submit`")
    return name


def read_registered(state: Path) -> dict[str, bytes]:
    """Public key (PEM) by site, as `adamss-fl server start` has registered them with the SuperLink."""
    found = json.loads((state / REGISTERED).read_text(encoding="utf-8"))
    return {name: key.encode() for name, key in found.items()}
