"""``adamss-fl stop``: end a run of a federation."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit


def stop(
    name: Annotated[str, typer.Argument(help="The run's name, as `adamss-fl runs` lists it.")],
    federation: Annotated[Path, typer.Option(help="The server's kit.")],
    json: JsonOption = False,
) -> None:
    """Stop a run after what it is doing; all saved rounds stay, and `submit` with the same name carries it on.

    Example: adamss-fl stop first --federation federation/server
    """
    from adamss_fl.cli.server import state_of
    from adamss_fl.deployment.submissions import Submissions

    submissions = Submissions(state_of(federation))
    submissions.stop(name)
    emit({"run": submissions.folder(name), "state": "stopped"}, json)
