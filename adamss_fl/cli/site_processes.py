"""``adamss-fl site start|status|stop``: a hospital's own processes, from its kit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adamss_fl.cli.shell import JsonOption, console, emit
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.deployment.site_node import SiteSettings
    from adamss_fl.provisioning.kits import SiteKit

KitArgument = Annotated[Path, typer.Argument(help="The site's kit.")]


def start(kit: KitArgument, json: JsonOption = False) -> None:
    """Take part in the federation until stopped, under the policy in the site's state folder.

    Example: adamss-fl site start kit
    """
    from adamss_fl.cli import flower_control
    from adamss_fl.deployment.clock import ClockWatch, clock_lead_seconds, clock_problem
    from adamss_fl.deployment.site_node import programs
    from adamss_fl.deployment.supervisor import Supervisor
    from adamss_fl.federation.guard.approvals import Approvals, bundle_digest
    from adamss_fl.federation.guard.policy import read_policy
    from adamss_fl.provisioning.kits import remember

    opened, settings = _open(kit)
    policy = settings.state / "policy.yaml"
    if not policy.exists():
        raise InputError(f"{policy}: is missing; put the hospital's policy there (configs/policy.yaml explains it)")
    read_policy(policy)
    remember(opened, settings.state)
    own = bundle_digest(flower_control.build_bundle())
    approvals = Approvals(settings.state)
    if not any(bundle.digest == own for bundle in (*approvals.approved(), *approvals.pending())):
        approvals.approve(own, "the software as installed here")
    server = f"{opened.server_host}:{opened.server_port}"
    console.print(
        f"site {opened.site} of {opened.consortium}: server {server}, patients in {settings.path}; logs in "
        f"{settings.state / 'logs'}",
        soft_wrap=True,
    )

    def lead() -> float | None:
        return clock_lead_seconds(opened.server_host, opened.server_port)

    if (problem := clock_problem(lead())) is not None:
        raise InputError(problem)
    watch = ClockWatch(lead, lambda line: console.print(line, soft_wrap=True))
    Supervisor(programs(kit, settings, server, opened.ca_file, opened.key_file), settings.state, watch.tick).run()
    emit({"stopped": settings.state}, json)


def status(kit: KitArgument, json: JsonOption = False) -> None:
    """Show what runs at this site, what its staff last said, and the newest messages.

    Example: adamss-fl site status kit
    """
    from adamss_fl.deployment import supervisor
    from adamss_fl.federation.guard.audit import last_entries
    from adamss_fl.federation.guard.site_folder import SiteFolder

    opened, settings = _open(kit)
    folder = SiteFolder(settings.state, required=True)
    shown = ("time", "direction", "kind", "run", "round", "decision", "code")
    newest = [{name: getattr(entry, name) for name in shown} for entry in last_entries(folder.audit_path, 6)]
    head = {"site": opened.site, "consortium": opened.consortium, "expires": opened.expires}
    emit({**head, **supervisor.status(settings.state), "standing": folder.standing(), "messages": newest}, json)


def stop(kit: KitArgument, json: JsonOption = False) -> None:
    """End this site's processes; it takes part again from the next round after `start`.

    Example: adamss-fl site stop kit
    """
    from adamss_fl.deployment import supervisor

    emit({"stopped": supervisor.request_stop(_open(kit)[1].state)}, json)


def _open(kit: Path) -> "tuple[SiteKit, SiteSettings]":
    from adamss_fl.deployment.site_node import read_site_settings
    from adamss_fl.provisioning.kits import open_site_kit

    return open_site_kit(kit), read_site_settings(kit)
