"""A hospital's own files beside its state: policy, audit log, approvals, what its staff last said, and its log."""

import getpass
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_json
from adamss_fl.federation.guard.audit import AuditLog
from adamss_fl.federation.guard.audit_files import clean, head_path
from adamss_fl.federation.guard.policy import STANDINGS, Policy, Standing, read_policy
from adamss_fl.federation.messages import PolicyRefusal


@dataclass(frozen=True)
class SiteFolder:
    """The private folder of a site.

    folder : holds ``policy.yaml``, ``audit.jsonl``, ``audit.head``, ``approvals.json``, ``standing.json`` and
        ``site.log``. policy_file : where the policy lies, if not there.
    required : the site is guarded in any case: without a policy it refuses everything.
    """

    folder: Path
    policy_file: Path | None = None
    required: bool = False

    @property
    def policy_path(self) -> Path:
        """The policy."""
        return self.folder / "policy.yaml" if self.policy_file is None else self.policy_file

    @property
    def audit_path(self) -> Path:
        """The newest file of the audit log."""
        return self.folder / "audit.jsonl"

    @property
    def approvals_path(self) -> Path:
        """The bundles that were seen and approved."""
        return self.folder / "approvals.json"

    @property
    def standing_path(self) -> Path:
        """What the staff last said by command."""
        return self.folder / "standing.json"

    @property
    def is_guarded(self) -> bool:
        """Whether the site must have a policy, has one, or ever had: taking it away must not open the door."""
        marks = (self.policy_path, self.audit_path, head_path(self.audit_path), self.approvals_path, self.standing_path)
        return self.required or any(mark.exists() or mark.is_symlink() for mark in marks)

    @property
    def audit(self) -> AuditLog:
        """The audit log."""
        return AuditLog(self.audit_path)

    def rules(self) -> tuple[Policy, Standing | None]:
        """The policy as it is now, and what the staff last said. Raises InputError where either is unreadable."""
        return read_policy(self.policy_path), self.standing()

    def standing(self) -> Standing | None:
        """What the staff last said by command, None where they never did. Raises InputError for an unreadable file."""
        return _standing_of(read_record(self.standing_path), self.standing_path)

    def stand(self, standing: Standing, by: str = "") -> dict[str, Any]:
        """Keep that the staff said ``standing``; it counts from the next message on. Returns what was kept."""
        record = {"standing": standing, "since": now_text(), "by": clean(by or user())}
        write_json(self.standing_path, record, private=True)
        return record

    def log(self, message: str) -> None:
        """Add a line to the site's own ``site.log``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "site.log").open("a", encoding="utf-8", errors="backslashreplace") as file:
            line = "".join(each if each.isprintable() else " " for each in message)
            file.write(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z} {line}\n")

    def greet(self) -> None:
        """Judge and note the question for the site's name, which comes before a run and tells nothing else.

        A paused site still says who it is. Raises PolicyRefusal ``left`` or ``policy_unreadable``, and OSError where
        the audit log cannot be kept. Does nothing where the site is not guarded.
        """
        if not self.is_guarded:
            return
        code, reason = "", ""
        try:
            _, standing = self.rules()
            if standing == "left":
                code, reason = "left", "the site has left"
        except Exception as error:  # whatever is wrong with the rules, nothing is answered without them
            code, reason = "policy_unreadable", str(error)
        self.audit.append("in", "hello", "", 0, 0, "", 0, "refused" if code else "allowed", code)
        self.audit.append("out", "hello", "", 0, 0, "", 0, "refused" if code else "answered", code)
        if code:
            self.log(f"refused to give its name with code {code}: {reason}")
            raise PolicyRefusal(code)

    def note_unreadable(self, code: str) -> None:
        """Note a message that was none, where the site is guarded; what was sent is not kept."""
        if self.is_guarded:
            self.audit.append("in", "unreadable", "", 0, 0, "", 0, "refused", code)
            self.audit.append("out", "unreadable", "", 0, 0, "", 0, "refused", code)


def read_record(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file, None where there is no file. Raises InputError where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read; restore it or take it away") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no record of a site; restore it or take it away")
    return found


def now_text() -> str:
    """The time now, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _standing_of(record: dict[str, Any] | None, path: Path) -> Standing | None:
    if record is None:
        return None
    for known in STANDINGS:
        if record.get("standing") == known:
            return known
    raise InputError(f"{path}: 'standing' is none of {', '.join(STANDINGS)}; say 'adamss-fl site pause' or 'resume'")
