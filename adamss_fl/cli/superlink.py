"""Flower's ``flower-superlink`` behind the project's gate (see ``adamss_fl.deployment.gate``)."""

import os
from pathlib import Path

from adamss_fl.errors import AdamssError


def main() -> None:
    """Run the SuperLink that the command line describes. Raises AdamssError where this Flower has no place for it."""
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    from adamss_fl.deployment.gate import Gate
    from adamss_fl.deployment.server_node import STATE_VARIABLE, coordinator_secret

    if not hasattr(extensions, "get_middleware"):
        raise AdamssError("this version of Flower has no place for the gate; install the version in constraints.txt")
    secret = coordinator_secret(Path(os.environ[STATE_VARIABLE]))
    others = extensions.get_middleware()
    extensions.get_middleware = lambda: (Middleware(Gate, secret=secret), *others)
    flower_superlink()


if __name__ == "__main__":
    main()
