"""``adamss-fl provision``: a consortium's authority, keys and kits."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, console, emit
from adamss_fl.errors import InputError


def provision(
    out: Annotated[Path, typer.Option(help="The consortium's folder; with --request, where the site's key is to lie.")],
    consortium: Annotated[Path | None, typer.Argument(help="The consortium's file.")] = None,
    renew: Annotated[str, typer.Option(metavar="SITE|server", help="Make this kit again, with new dates.")] = "",
    new_key: Annotated[bool, typer.Option("--new-key", help="With --renew: a new key too.")] = False,
    revoke: Annotated[str, typer.Option(metavar="SITE", help="Take away this site's right to take part.")] = "",
    request: Annotated[
        str, typer.Option(metavar="SITE", help="At a hospital: make the site's own key, and a request to send.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Make a consortium's certificate authority, its server's kit and one kit per site; again, to add a site.

    Example: adamss-fl provision configs/consortium.yaml --out consortium

    Example: adamss-fl provision configs/consortium.yaml --out consortium --renew hospital-1

    Example: adamss-fl provision --request hospital-4 --out kit
    """
    from adamss_fl.provisioning import provision as room
    from adamss_fl.provisioning.requests import make_request
    from adamss_fl.provisioning.settings import read_consortium

    if request:
        if consortium is not None or renew or revoke or new_key:
            raise InputError("--request: is given at a hospital, with --out alone; leave the rest out")
        emit({"request": make_request(request, out), "key": out / "site.key"}, json)
        return
    if consortium is None:
        raise InputError("CONSORTIUM: is missing; give the consortium's file, or --request SITE at a hospital")
    settings = read_consortium(consortium)
    kits = room.provision(settings, out, renew, revoke, new_key)
    for caution in room.cautions(settings, out):
        console.print(caution, soft_wrap=True, markup=False)
    emit({"kits": kits}, json)
