"""``adamss-fl submit``: ask the server for a run over the real sites, and follow it."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit


def submit(
    config: Annotated[Path, typer.Argument(help="The run's configuration, a YAML file.")],
    federation: Annotated[Path, typer.Option(help="The server's kit, on the machine where the server runs.")],
    name: Annotated[str, typer.Option(help="Name of the run; default: the configuration file's.")] = "",
    follow: Annotated[bool, typer.Option(help="Show progress until the run ends; Ctrl-C only stops looking.")] = True,
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Start a run of the federation, or look on at one that goes on; its sites are those of the consortium.

    Of `sites` in the configuration only the names count: a run of some sites names those. Calling it again with the
    same configuration and name follows the same run; one that was stopped or that failed is carried on.

    Example: adamss-fl submit configs/demo.yaml --federation federation/server --name first
    """
    from adamss_fl.cli.following import follow_run
    from adamss_fl.cli.server import state_of
    from adamss_fl.deployment import supervisor
    from adamss_fl.deployment.submissions import Submissions
    from adamss_fl.deployment.tasks import task_for_sites
    from adamss_fl.errors import InputError
    from adamss_fl.provisioning.kits import open_server_kit

    kit, state = open_server_kit(federation), state_of(federation)
    task = task_for_sites(config, overrides, tuple(kit.sites))
    if not supervisor.status(state)["running"]:
        raise InputError(f"{federation}: the server does not run; start it: adamss-fl server start {federation}")
    submissions, run = Submissions(state), name or config.stem
    submissions.add(run, task)
    if not follow:
        emit({"run": submissions.folder(run), "state": "waiting"}, json)
        return
    emit(follow_run(submissions, run), json)
