"""Flower ServerApp: the federation of one configuration over Flower's Grid.

On Flower's simulation engine, in a checkout, with one node for each site of the configuration::

    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 flwr run . --stream \\
        --run-config "config='$PWD/configs/demo.yaml' out='$PWD/runs/flwr'" --federation-config num-supernodes=3

The variable keeps Flower from downloading this project's dependencies again for every run. ``flwr run`` leaves a
SuperLink running; ``adamss-fl simulate`` runs the same app and leaves nothing.
"""

import logging
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from adamss_fl.errors import AdamssError
from client.paths import run_files
from server.grid_sites import GridSites

log = logging.getLogger("flwr")


def server_app(config: str = "", out: str = "") -> ServerApp:
    """Return the ServerApp.

    config, out : the run's configuration file and folder; where empty, Flower's run configuration gives them.
    """
    app = ServerApp()
    given = {"config": config, "out": out}

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from adamss_fl.assembly import run_federation
        from adamss_fl.config import load_config

        run_config: dict[str, Any] = {**context.run_config, **{key: value for key, value in given.items() if value}}
        try:
            files = run_files(run_config)
            settings = load_config(files.config)
            names = [site.name for site in settings.sites]
            sites = GridSites(grid, names, float(run_config.get("join-seconds", 60)))
            run_federation(settings, sites, files.out)
            log.info("the run is in %s", files.out)
        except AdamssError as failure:
            log.error("%s", failure)
            raise

    return app


app = server_app()
