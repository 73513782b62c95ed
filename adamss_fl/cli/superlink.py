"""Flower's ``flower-superlink`` behind the project's gate, with cheaper and fewer requests and larger objects in files.

See ``adamss_fl.deployment.gate``, ``lean_requests``, ``long_polls`` and ``object_files``.
"""

import gc
import importlib
import os
from pathlib import Path
from typing import Any

from adamss_fl.cli.flower_objects import check_object
from adamss_fl.deployment.gate import Gate
from adamss_fl.deployment.lean_requests import CONTROL, FLEET, RUNTIME, only_for
from adamss_fl.deployment.long_polls import Bell, FileBell, LongPolls
from adamss_fl.deployment.object_files import FOLDER, ObjectFiles
from adamss_fl.deployment.server_node import REPLIES_BELL, STATE_VARIABLE, coordinator_secret
from adamss_fl.deployment.site_node import shared_secret
from adamss_fl.errors import AdamssError

_LAYERS = (
    ("flwr.superlink.routers.control.middlewares", "ControlSensitiveResponseMiddleware", CONTROL),
    ("flwr.superlink.routers.control.middlewares", "ControlAuthenticationMiddleware", CONTROL),
    ("flwr.superlink.routers.control.middlewares", "ControlLicenseMiddleware", CONTROL),
    ("flwr.superlink.routers.control.middlewares", "ControlEventLogMiddleware", CONTROL),
    ("flwr.superlink.routers.fleet.node_auth", "NodeAuthMiddleware", FLEET),
    ("flwr.superlink.routers.fleet.middlewares", "FleetEventLogMiddleware", FLEET),
    ("flwr.supercore.routers.runtime.tracing", "RuntimeTracingMiddleware", RUNTIME),
)
"""Flower's layers that have something to do for one of its APIs alone: module, class, and where its paths begin."""


def main() -> None:
    """Run the SuperLink that the command line describes. Raises AdamssError where this Flower has no place for it."""
    from flwr.superlink.cli.flower_superlink import flower_superlink

    state = Path(os.environ[STATE_VARIABLE])
    _stand_behind_the_gate(coordinator_secret(state), FileBell(state / REPLIES_BELL))
    _keep_objects_in_files(state / FOLDER, shared_secret(state).read_bytes())
    for module, name, prefix in _LAYERS:
        only_for(prefix, getattr(importlib.import_module(module), name))
    gc.freeze()  # what was imported need not be looked through again and again
    flower_superlink()


def _stand_behind_the_gate(secret: bytes, replies: FileBell) -> None:
    from flwr.superlink import extensions
    from starlette.middleware import Middleware

    if not hasattr(extensions, "get_middleware"):
        raise AdamssError("this version of Flower has no place for the gate; install the version in constraints.txt")
    others = extensions.get_middleware()
    messages, runs = Bell(), Bell()
    held = {FLEET + "pull-messages": messages, RUNTIME + "acquire-task": runs}
    rings = {RUNTIME + "push-messages": messages.ring, CONTROL + "start-run": runs.ring}
    announced = {FLEET + "push-messages": (FLEET + "pull-messages", replies.ring)}
    extensions.get_middleware = lambda: (
        Middleware(Gate, secret=secret),
        Middleware(LongPolls, held=held, rings=rings, announced=announced),
        *others,
    )


def _keep_objects_in_files(folder: Path, word: bytes) -> None:
    stores: Any = importlib.import_module("flwr.supercore.object_store.object_store_factory")
    in_database = stores.SqlObjectStore
    stores.SqlObjectStore = lambda path: ObjectFiles(in_database(path, verify=False), folder, check_object, word)


if __name__ == "__main__":
    main()
