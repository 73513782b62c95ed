"""Flower ServerApp: the federation of one configuration over Flower's Grid.

On Flower's simulation engine, in a checkout, with one node for each site of the configuration::

    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 flwr run . --stream \\
        --run-config "config='$PWD/configs/demo.yaml' out='$PWD/runs/flwr'" --federation-config num-supernodes=3

The variable keeps Flower from downloading this project's dependencies again for every run. ``flwr run`` leaves a
SuperLink running; ``adamss-fl simulate`` runs the same app and leaves nothing.
"""

import errno
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from adamss_fl.errors import AdamssError
from client.paths import run_files
from server.deployed import (
    await_turn,
    listen_for_replies,
    pass_objects_in_files,
    read_registered,
    run_name,
    state_folder,
)
from server.grid_sites import GridSites

log = logging.getLogger("flwr")

_FULL = (errno.ENOSPC, errno.EDQUOT)


def server_app(config: str = "", out: str = "") -> ServerApp:
    """Return the ServerApp.

    config, out : the run's configuration file and folder; where empty, Flower's run configuration gives them.
    """
    app = ServerApp()
    given = {"config": config, "out": out}

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        _log_with_flower()
        run_config: dict[str, Any] = {**context.run_config, **{key: value for key, value in given.items() if value}}
        state = state_folder()
        if state is not None:
            _run_deployed(grid, context, run_config, state)
        else:
            _run_simulated(grid, run_config)

    return app


def _log_with_flower() -> None:
    """Let this project's own loggers write where Flower's does; they have no handler of their own here."""
    own = logging.getLogger("adamss_fl")
    own.setLevel(logging.INFO)
    for handler in log.handlers:
        if handler not in own.handlers:
            own.addHandler(handler)


def _run_simulated(grid: Grid, run_config: Mapping[str, Any]) -> None:
    """Run the configuration file that the run configuration names, with the sites that the nodes say they are."""
    from adamss_fl.assembly import run_federation
    from adamss_fl.config import load_config

    try:
        files = run_files(run_config)
        settings = load_config(files.config)
        names = [site.name for site in settings.sites]
        sites = GridSites(grid, names, float(run_config.get("join-seconds", 60)), spool=files.out / "replies")
        run_federation(settings, sites, files.out)
        log.info("the run is in %s", files.out)
    except AdamssError as failure:
        log.error("%s", failure)
        raise


def _run_deployed(grid: Grid, context: Context, run_config: Mapping[str, Any], state: Path) -> None:
    """Run or carry on a submission with the sites whose keys are registered, and note how it ended.

    Raises AdamssError, and touches nothing, where this Flower run is not the one that carries the submission now.
    """
    from adamss_fl.assembly import run_federation
    from adamss_fl.config import load_config
    from adamss_fl.deployment.submissions import Submissions, outcome_of

    submissions, name = Submissions(state), run_name(run_config)
    await_turn(submissions, name, context.run_id, run_config)
    pass_objects_in_files(state)
    out = submissions.folder(name)
    failure: AdamssError | None = None
    try:
        settings = load_config(out / "task.yaml")
        sites = GridSites(
            grid,
            [site.name for site in settings.sites],
            float(run_config.get("join-seconds", 60)),
            keys=read_registered(state),
            quorum=settings.federation.min_sites,
            spool=out / "replies",
            pause=listen_for_replies(state),
        )
        run_federation(settings, sites, out)
    except AdamssError as error:
        failure = error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        failure = AdamssError(f"{error.filename or out}: {error.strerror}; make room on the server's disk")
    if failure is not None:
        log.error("%s", failure)
    submissions.end(name, outcome_of(failure))


app = server_app()
