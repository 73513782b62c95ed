"""Run a hospital's site from its kit, and keep its own rules: approve code, pause, leave, read the audit log.

KIT is the folder that the coordinator sent, STATE the site's state folder, the one that holds its policy.yaml. Every
command takes --json.

Example: adamss-fl site audit /srv/adamss/state
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adamss_fl.cli import site_processes
from adamss_fl.cli.shell import JsonOption, emit
from adamss_fl.errors import AdamssError, InputError

if TYPE_CHECKING:
    from adamss_fl.federation.guard.policy import Standing
    from adamss_fl.federation.guard.site_folder import SiteFolder

StateArgument = Annotated[Path, typer.Argument(help="The site's state folder.")]
DigestArgument = Annotated[str, typer.Argument(help="SHA-256 of the bundle, all 64 digits.")]
ByOption = Annotated[str, typer.Option(help="Who says so; default: the user of this machine.")]


def pending(state: StateArgument, json: JsonOption = False) -> None:
    """List the application bundles that a server offered and nobody has approved, and those that are approved.

    Example: adamss-fl site pending /srv/adamss/state
    """
    from adamss_fl.federation.guard.approvals import Approvals

    approvals = Approvals(_folder(state).folder)
    found = {"pending": approvals.pending(), "approved": approvals.approved()}
    if json:
        emit(found, json)
        return
    for name, bundles in found.items():  # hundreds of file names would hide the digests
        emit({name: [{**asdict(bundle), "files": f"{len(bundle.files)} files"} for bundle in bundles]})


def approve(state: StateArgument, digest: DigestArgument, by: ByOption = "", json: JsonOption = False) -> None:
    """Let an application bundle run at this site, from its next message on.

    Example: adamss-fl site approve /srv/adamss/state 3b1f...e9 --by "Dr. Keller"
    """
    from adamss_fl.federation.guard.approvals import Approvals

    bundle = Approvals(_folder(state).folder).approve(digest, by)
    emit({"digest": bundle.digest, "by": bundle.by, "approved": bundle.approved}, json)


def withdraw(state: StateArgument, digest: DigestArgument, json: JsonOption = False) -> None:
    """Take the approval of an application bundle back; it does not run again.

    Example: adamss-fl site withdraw /srv/adamss/state 3b1f...e9
    """
    from adamss_fl.federation.guard.approvals import Approvals
    from adamss_fl.federation.guard.policy import read_policy

    folder = _folder(state)
    if digest in read_policy(folder.policy_path).bundles:
        raise InputError(f"{folder.policy_path}: bundles: the policy itself approves {digest}; take it out there")
    emit({"digest": Approvals(folder.folder).withdraw(digest).digest, "approved": None}, json)


def audit(
    state: StateArgument,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest entries to list.")] = 20,
    json: JsonOption = False,
) -> None:
    """Verify the audit log from its first entry to its last, and list the newest; exits 1 where it was altered.

    Example: adamss-fl site audit /srv/adamss/state --last 50
    """
    from adamss_fl.federation.guard.audit import last_entries, verify

    path = _folder(state).audit_path
    report = verify(path)
    shown = ("n", "time", "direction", "kind", "run", "round", "attempt", "size", "decision", "code", "digest")
    log = [{name: getattr(entry, name) for name in shown} for entry in last_entries(path, last)]
    found: dict[str, Any] = {name: getattr(report, name) for name in ("entries", "files", "first", "last")}
    emit({"whole": not report.problems, **found, "problems": report.problems, "notes": report.notes, "log": log}, json)
    if report.problems:
        more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        raise AdamssError(f"{path}: the audit log was altered: {report.problems[0]}{more}")


def pause(state: StateArgument, by: ByOption = "", json: JsonOption = False) -> None:
    """Refuse everything from now on, also the answer to what is being done; the server is told 'paused'.

    Example: adamss-fl site pause /srv/adamss/state
    """
    _stand(state, "paused", by, json)


def resume(state: StateArgument, by: ByOption = "", json: JsonOption = False) -> None:
    """Take part again, under the policy; wins over 'paused' in the policy.

    Example: adamss-fl site resume /srv/adamss/state
    """
    _stand(state, "running", by, json)


def leave(state: StateArgument, by: ByOption = "", json: JsonOption = False) -> None:
    """Leave the federation at once: nothing is answered any more, not even the site's name, until 'resume'.

    Example: adamss-fl site leave /srv/adamss/state
    """
    _stand(state, "left", by, json)


COMMANDS: Mapping[str, Callable[..., None]] = {
    "start": site_processes.start,
    "status": site_processes.status,
    "stop": site_processes.stop,
    "pending": pending,
    "approve": approve,
    "withdraw": withdraw,
    "audit": audit,
    "pause": pause,
    "resume": resume,
    "leave": leave,
}
"""Each command and its function; a function of another module is one more line here."""


def _stand(state: Path, standing: "Standing", by: str, json: bool) -> None:
    folder = _folder(state)
    record = folder.stand(standing, by)
    folder.log(f"{record['by']} said that the site is {standing}")
    emit(record, json)


def _folder(state: Path) -> "SiteFolder":
    """The site's folder; a mistyped one must not take an order that then stops nothing."""
    from adamss_fl.federation.guard.site_folder import SiteFolder

    folder = SiteFolder(state)
    if not folder.is_guarded:
        raise InputError(f"{state}: holds no policy.yaml; give the state folder of a site that has a policy")
    return folder
