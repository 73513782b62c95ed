"""Flower's ``flower-superlink`` behind the project's gate, its larger objects in files.

See ``adamss_fl.deployment.gate`` and ``adamss_fl.deployment.object_files``.
"""

import gc
import importlib
import os
from pathlib import Path
from typing import Any

from adamss_fl.cli.flower_objects import check_object
from adamss_fl.errors import AdamssError


def main() -> None:
    """Run the SuperLink that the command line describes. Raises AdamssError where this Flower has no place for it."""
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    from adamss_fl.deployment.gate import Gate
    from adamss_fl.deployment.lean_requests import CONTROL, FLEET, RUNTIME, only_for
    from adamss_fl.deployment.object_files import FOLDER, ObjectFiles
    from adamss_fl.deployment.server_node import STATE_VARIABLE, coordinator_secret
    from adamss_fl.deployment.site_node import shared_secret

    stores: Any = importlib.import_module("flwr.supercore.object_store.object_store_factory")
    if not hasattr(extensions, "get_middleware") or not hasattr(stores, "SqlObjectStore"):
        raise AdamssError("this version of Flower has no place for the gate; install the version in constraints.txt")
    state = Path(os.environ[STATE_VARIABLE])
    secret, word, sql_store = coordinator_secret(state), shared_secret(state).read_bytes(), stores.SqlObjectStore

    others = extensions.get_middleware()
    extensions.get_middleware = lambda: (Middleware(Gate, secret=secret), *others)
    stores.SqlObjectStore = lambda database: ObjectFiles(
        sql_store(database, verify=False), state / FOLDER, check_object
    )
    control, fleet = "flwr.superlink.routers.control.middlewares", "flwr.superlink.routers.fleet"
    for module, name, prefix in (
        (control, "ControlSensitiveResponseMiddleware", CONTROL),
        (control, "ControlAuthenticationMiddleware", CONTROL),
        (control, "ControlLicenseMiddleware", CONTROL),
        (control, "ControlEventLogMiddleware", CONTROL),
        (f"{fleet}.node_auth", "NodeAuthMiddleware", FLEET),
        (f"{fleet}.middlewares", "FleetEventLogMiddleware", FLEET),
        ("flwr.supercore.routers.runtime.tracing", "RuntimeTracingMiddleware", RUNTIME),
    ):
        only_for(prefix, getattr(importlib.import_module(module), name))
    gc.freeze()  # what was imported need not be looked through again and again
    flower_superlink()


if __name__ == "__main__":
    main()
