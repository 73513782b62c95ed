"""A server that was started from a kit: where a run is kept, and who its sites are."""

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.supercore.inflatable.inflatable_utils import pull_objects

from adamss_fl.deployment.long_polls import FileBell
from adamss_fl.deployment.object_files import FOLDER, LOOKS, Pull, Push, from_files, into_files
from adamss_fl.deployment.server_node import REGISTERED, REPLIES_BELL, STATE_VARIABLE
from adamss_fl.deployment.site_node import shared_secret
from adamss_fl.deployment.submissions import Submissions
from adamss_fl.errors import AdamssError, InputError

_PAUSE_SECONDS = 10.0


def state_folder() -> Path | None:
    """The state folder of the server that started this process; None in a simulation."""
    folder = os.environ.get(STATE_VARIABLE)
    return Path(folder) if folder else None


def pass_objects_in_files(state: Path) -> None:
    """Let Flower's Grid share the SuperLink's files of objects, and look more often for what is still to come.

    A reply is announced before its parts are sent; Flower looks for one again after 1, 2, 4 and 8 seconds.
    """
    grid: Any = importlib.import_module("flwr.superlink.grid.http_grid")
    objects, word = state / FOLDER, shared_secret(state).read_bytes()
    pusher = grid.make_push_object_fn_protobuf

    def pull(object_ids: list[str], pull_object_fn: Pull) -> dict[str, bytes]:
        return pull_objects(object_ids, from_files(objects, pull_object_fn), **LOOKS)

    def pusher_into_files(**named: Any) -> Push:
        return into_files(objects, pusher(**named), word)

    grid.pull_objects, grid.make_push_object_fn_protobuf = pull, pusher_into_files


def listen_for_replies(state: Path) -> Callable[[float, float], None]:
    """A pause between two looks for replies that ends when the SuperLink has all of one, or after 10 s."""
    bell = FileBell(state / REPLIES_BELL)
    return lambda waited, left: bell.listen(min(_PAUSE_SECONDS, left))


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


def await_turn(
    submissions: Submissions, name: str, flower_run: int, run_config: Mapping[str, object], seconds: float = 20.0
) -> None:
    """Return once it is noted that ``flower_run`` carries the submission ``name`` now.

    The server notes it a moment after it has started the Flower run. Raises InputError for an unknown submission, and
    AdamssError where another Flower run carries it, or this one was started with another task than was submitted: then
    it was started by someone else than the server.
    """
    limit = time.monotonic() + seconds
    while (carried := submissions.read(name).flower_runs)[-1:] != (flower_run,):
        if flower_run in carried or time.monotonic() >= limit:
            raise AdamssError(f"{name}: this Flower run does not carry it; runs are started by `adamss-fl submit`")
        time.sleep(0.2)
    if run_config.get("task") != submissions.task(name):
        raise AdamssError(f"{name}: the sites were sent another task than was submitted; nothing was done")
