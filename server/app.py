"""Flower ServerApp: the federation of one configuration over Flower's Grid."""

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
        except AdamssError as failure:
            log.error("%s", failure)
            raise

    return app


app = server_app()
