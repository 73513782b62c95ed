"""Run the coordinator's server of a federation from its kit: Flower's SuperLink and what goes with it.

KIT is the folder that `adamss-fl provision` made for the server. Every command takes --json.

Example: adamss-fl server start federation/server
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adamss_fl.cli.shell import JsonOption, console, emit
from adamss_fl.errors import AdamssError, InputError

if TYPE_CHECKING:
    from adamss_fl.cli.flower_control import FlowerControl
    from adamss_fl.provisioning.kits import ServerKit

KitArgument = Annotated[Path, typer.Argument(help="The server's kit.")]
HostOption = Annotated[str, typer.Option(help="The address of this machine to listen on; 0.0.0.0 is all of them.")]

SECONDS_BETWEEN_LOOKS = 1.0


def start(kit: KitArgument, host: HostOption = "0.0.0.0", json: JsonOption = False) -> None:
    """Run the server until it is stopped: SuperLink and SuperExec, kept running, and every run that is wanted.

    Example: adamss-fl server start federation/server
    """
    from adamss_fl.deployment.server_node import programs
    from adamss_fl.deployment.supervisor import Supervisor
    from adamss_fl.provisioning.kits import open_server_kit

    opened = open_server_kit(kit)
    state = state_of(kit)
    _write_registered(opened, state)
    carrier = _Coordinator(opened, state)
    console.print(
        f"server of {opened.consortium}: https://{host}:{opened.port}, sites {', '.join(opened.sites)}; logs in "
        f"{state / 'logs'}",
        soft_wrap=True,
    )
    Supervisor(
        programs(state, opened.port, opened.ca_file, opened.cert_file, opened.key_file, host), state, carrier.tick
    ).run()
    emit({"stopped": state}, json)


def status(kit: KitArgument, json: JsonOption = False) -> None:
    """Show what runs, which sites are connected, and the runs.

    Example: adamss-fl server status federation/server
    """
    from adamss_fl.deployment import supervisor
    from adamss_fl.deployment.submissions import Submissions, describe
    from adamss_fl.provisioning.kits import open_server_kit

    opened, state = open_server_kit(kit), state_of(kit)
    found = supervisor.status(state)
    sites: list[dict[str, Any]] = [{"name": name, "status": "unknown"} for name in sorted(opened.sites)]
    if found["running"]:
        try:
            connected = {node["name"]: node["status"] for node in control_of(opened, state).nodes()}
            sites = [{"name": name, "status": connected.get(name, "unregistered")} for name in sorted(opened.sites)]
        except AdamssError as error:
            console.print(f"{error}")
    emit({**found, "sites": sites, "runs": describe(Submissions(state))}, json)


def stop(kit: KitArgument, json: JsonOption = False) -> None:
    """End the server and all its processes; runs go on where they were when it is started again.

    Example: adamss-fl server stop federation/server
    """
    from adamss_fl.deployment import supervisor

    emit({"stopped": supervisor.request_stop(state_of(kit))}, json)


COMMANDS: Mapping[str, Callable[..., None]] = {"start": start, "status": status, "stop": stop}
"""Each command and its function."""


def state_of(kit: Path) -> Path:
    """The server's state folder: inside its kit."""
    return (kit / "state").resolve()


def control_of(kit: "ServerKit", state: Path) -> "FlowerControl":
    """The running SuperLink of a kit, as seen by its coordinator on this machine."""
    from adamss_fl.cli.flower_control import FlowerControl
    from adamss_fl.deployment.server_node import LOOPBACK, coordinator_secret

    return FlowerControl(f"{LOOPBACK}:{kit.port}", kit.ca_file, coordinator_secret(state))


def _write_registered(kit: "ServerKit", state: Path) -> None:
    from adamss_fl.deployment.server_node import REGISTERED
    from adamss_fl.federation.files import write_json

    write_json(state / REGISTERED, {name: key.decode() for name, key in pem_keys(kit).items()})


def pem_keys(kit: "ServerKit") -> dict[str, bytes]:
    """Public key by site as Flower stores it (PEM, SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives import serialization

    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return {
        name: serialization.load_ssh_public_key(text.encode()).public_bytes(encoding, form)
        for name, text in kit.sites.items()
    }


class _Coordinator:
    """What the server does beside keeping its processes: keys once they can be registered, then the runs."""

    def __init__(self, kit: "ServerKit", state: Path) -> None:
        from adamss_fl.deployment.submissions import Carrier, Submissions

        self._keys = pem_keys(kit)
        self._control = control_of(kit, state)
        self._carrier = Carrier(Submissions(state), self._control)
        self._registered = False
        self._due = 0.0
        self._told = ""

    def tick(self) -> None:
        """Do what is due; a SuperLink that does not answer is asked again a moment later."""
        from adamss_fl.cli.flower_control import Unreachable

        if time.monotonic() < self._due:
            return
        try:
            if not self._registered:
                if not self._control.is_gated():
                    raise InputError(
                        "the SuperLink answers whoever asks it: this version of Flower has no place for the gate; "
                        "install the version in constraints.txt"
                    )
                self._control.register(self._keys)
                self._registered = True
                console.print("the sites' keys are registered; sites may connect")
            self._carrier.look()
            self._told = ""
        except InputError:
            raise
        except AdamssError as error:
            if not isinstance(error, Unreachable) and str(error) != self._told:
                self._told = str(error)
                console.print(f"{self._told}; it is tried again", soft_wrap=True, markup=False)
        self._due = time.monotonic() + SECONDS_BETWEEN_LOOKS
