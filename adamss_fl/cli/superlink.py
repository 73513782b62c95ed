"""Flower's ``flower-superlink`` behind the project's gate, its larger objects in files.

See ``adamss_fl.deployment.gate`` and ``adamss_fl.deployment.object_files``.
"""

import gc
import importlib
import os
from pathlib import Path
from typing import Any

from adamss_fl.errors import AdamssError


def main() -> None:
    """Run the SuperLink that the command line describes. Raises AdamssError where this Flower has no place for it."""
    from flwr.supercore.inflatable.inflatable_object import get_object_id
    from flwr.supercore.inflatable.inflatable_utils import validate_object_content
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    from adamss_fl.deployment.gate import Gate
    from adamss_fl.deployment.object_files import ObjectFiles
    from adamss_fl.deployment.server_node import STATE_VARIABLE, coordinator_secret

    stores: Any = importlib.import_module("flwr.supercore.object_store.object_store_factory")
    if not hasattr(extensions, "get_middleware") or not hasattr(stores, "SqlObjectStore"):
        raise AdamssError("this version of Flower has no place for the gate; install the version in constraints.txt")
    state = Path(os.environ[STATE_VARIABLE])
    secret, sql_store = coordinator_secret(state), stores.SqlObjectStore

    def check(object_id: str, content: bytes) -> None:
        if get_object_id(content) != object_id:
            raise ValueError("an object that is not what its ID says")
        validate_object_content(content=content)

    others = extensions.get_middleware()
    extensions.get_middleware = lambda: (Middleware(Gate, secret=secret), *others)
    stores.SqlObjectStore = lambda database: ObjectFiles(sql_store(database, verify=False), state / "objects", check)
    gc.freeze()  # what was imported need not be looked through again and again
    flower_superlink()


if __name__ == "__main__":
    main()
