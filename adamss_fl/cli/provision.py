"""``adamss-fl provision``: a consortium's authority, keys and kits."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit


def provision(
    out: Annotated[Path, typer.Option(help="The consortium's folder; at a hospital, where its key is to lie.")],
    consortium: Annotated[Path | None, typer.Argument(help="The consortium file (configs/consortium.yaml).")] = None,
    renew: Annotated[str, typer.Option(help="A site, or 'server': make its kit again, with new dates.")] = "",
    revoke: Annotated[str, typer.Option(help="A site that is to take part no longer.")] = "",
    new_key: Annotated[bool, typer.Option("--new-key", help="With --renew: a new key too.")] = False,
    request: Annotated[str, typer.Option(help="At a hospital: make the key of this site, and a request to send.")] = "",
    json: JsonOption = False,
) -> None:
    """Make a consortium's certificate authority, its server's kit and one kit per site; again, to add a site.

    Example: adamss-fl provision consortium.yaml --out federation
    """
    from adamss_fl.errors import InputError
    from adamss_fl.provisioning import provision as room
    from adamss_fl.provisioning.settings import read_consortium

    if request:
        if consortium is not None or renew or revoke:
            raise InputError("--request: is for a hospital, and takes only --out; leave out what else was given")
        emit({"request": room.request(request, out), "key": out / "site.key"}, json)
        return
    if consortium is None:
        raise InputError("give the consortium file, or --request SITE at a hospital")
    if new_key and not renew:
        raise InputError("--new-key: goes with --renew; say whose key is to be new")
    found = room.provision(read_consortium(consortium), out, renew, revoke, new_key)
    emit({"kits": {name: str(path) for name, path in found.items()}}, json)
