"""``adamss-fl runs``: the runs that a server carries."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit


def runs(
    federation: Annotated[Path, typer.Option(help="The server's kit.")],
    json: JsonOption = False,
) -> None:
    """List the runs of a federation: state, rounds, how often each was started again, and why it waits.

    Example: adamss-fl runs --federation federation/server
    """
    from adamss_fl.cli.server import state_of
    from adamss_fl.deployment.submissions import Submissions, describe

    emit({"runs": describe(Submissions(state_of(federation)))}, json)
