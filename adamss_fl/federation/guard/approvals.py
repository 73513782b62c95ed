"""Which application bundles a site lets run: it keeps every one that was offered, and who approved which.

Flower sends a run's code to the sites as a bundle, a zip file known by the SHA-256 of its bytes. A site unpacks only
what :func:`check_bundle` allows, so that a server cannot send it new code.
"""

import hashlib
import io
import re
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.files import locked, write_json
from adamss_fl.federation.guard.audit_files import clean
from adamss_fl.federation.guard.policy import ALLOWED, Decision, decide_standing, refused
from adamss_fl.federation.guard.site_folder import SiteFolder, now_text, read_record, user

MOST_PENDING = 50
"""More bundles than that are not kept to be looked at: of those not approved the oldest are forgotten."""

MOST_FILES = 500
_MOST_PYPROJECT_BYTES = 1_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Bundle:
    """An application bundle.

    digest : SHA-256. first_seen : when it was first offered, None where it never was. size : bytes, 0 where unknown.
    files : names in it, where known. by, approved : who approved it and when, None where nobody did.
    """

    digest: str
    first_seen: str | None = None
    size: int = 0
    files: tuple[str, ...] = ()
    by: str | None = None
    approved: str | None = None


def bundle_digest(data: bytes) -> str:
    """The hash by which Flower knows a bundle: SHA-256 of its bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def bundle_files(data: bytes) -> tuple[str, ...]:
    """Names of the files in a bundle, sorted; empty where it is no zip file. Nothing is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return tuple(sorted(archive.namelist()))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return ()


class Approvals:
    """The bundles that a site knows, in ``approvals.json`` of its folder (only the owner may read it).

    Every method raises InputError where the file cannot be read: then nothing is approved.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = SiteFolder(state_dir).approvals_path

    def pending(self) -> tuple[Bundle, ...]:
        """Bundles that were offered and are not approved, the oldest first."""
        return tuple(bundle for bundle in self._read().values() if bundle.approved is None)

    def approved(self) -> tuple[Bundle, ...]:
        """Bundles that are approved, the oldest first."""
        return tuple(bundle for bundle in self._read().values() if bundle.approved is not None)

    def is_approved(self, digest: str) -> bool:
        """Whether somebody approved the bundle ``digest``."""
        bundle = self._read().get(digest)
        return bundle is not None and bundle.approved is not None

    def note_seen(self, digest: str, size: int = 0, files: Sequence[str] = ()) -> None:
        """Keep that a bundle was offered, the first time that it is. Raises InputError for what is no digest."""
        _check(digest)
        named = tuple(clean(name) for name in files[:MOST_FILES])
        with self._changed() as bundles:
            known = bundles.get(digest, Bundle(digest))
            if known.first_seen is None:
                bundles[digest] = Bundle(digest, now_text(), size, named, known.by, known.approved)
            waiting = [each for each, bundle in bundles.items() if bundle.approved is None]
            for each in waiting[:-MOST_PENDING]:
                del bundles[each]

    def approve(self, digest: str, by: str = "") -> Bundle:
        """Approve a bundle, seen or not; one that is approved stays as it is. Raises InputError for no digest."""
        _check(digest)
        with self._changed() as bundles:
            known = bundles.get(digest, Bundle(digest))
            if known.approved is None:
                known = Bundle(digest, known.first_seen, known.size, known.files, clean(by or user()), now_text())
            bundles[digest] = known
        return known

    def withdraw(self, digest: str) -> Bundle:
        """Take an approval back. Raises InputError where there is none."""
        with self._changed() as bundles:
            known = bundles.get(digest)
            if known is None or known.approved is None:
                raise InputError(
                    f"{self.path}: the bundle {digest} is not approved here, so nothing is to be withdrawn"
                )
            bundles[digest] = Bundle(digest, known.first_seen, known.size, known.files)
        return bundles[digest]

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Bundle]]:
        """The bundles, to be changed; they are kept when the block ends, and not where it raises."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_suffix(".lock")):
            before = self._read()
            bundles = dict(before)
            yield bundles
            if bundles != before:
                write_json(self.path, {"bundles": [asdict(bundle) for bundle in bundles.values()]}, private=True)

    def _read(self) -> dict[str, Bundle]:
        record = read_record(self.path)
        if record is None:
            return {}
        try:
            found = [Bundle(**{**each, "files": tuple(each["files"])}) for each in record["bundles"]]
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.path}: is no list of bundles; restore it or take it away") from error
        return {bundle.digest: bundle for bundle in found}


def check_bundle(data: bytes, folder: SiteFolder) -> Decision:
    """Whether the site lets a bundle run. To be asked before anything of it is unpacked; nothing of it is run.

    The bundle is noted as seen, and the decision is in the audit log. Codes of a refusal: ``left``, ``paused``,
    ``bundle_not_approved``, ``version_mismatch`` (an approved bundle of another version of this software),
    ``policy_unreadable``. Raises OSError where the log cannot be kept: then it must not run either.
    """
    digest = bundle_digest(data)
    decision = _judge(data, digest, folder)
    told = ("allowed", "") if decision.allowed else ("refused", decision.code)
    folder.audit.append("in", "bundle", "", 0, 0, digest, len(data), *told)
    if not decision.allowed:
        folder.log(f"refused the bundle {digest} with code {decision.code}: {decision.reason}")
    return decision


def _judge(data: bytes, digest: str, folder: SiteFolder) -> Decision:
    try:
        policy, standing = folder.rules()
        approvals = Approvals(folder.folder)
        approvals.note_seen(digest, len(data), bundle_files(data))
        approved = digest in policy.bundles or approvals.is_approved(digest)
    except Exception as error:  # whatever is wrong with the rules, no code runs without them
        return refused("policy_unreadable", str(error))
    stopped = decide_standing(policy, standing)
    if stopped is not None:
        return stopped
    if not approved:
        return refused("bundle_not_approved", f"look at it and say 'adamss-fl site approve {folder.folder} {digest}'")
    version = _version_of(data)
    if version not in (None, __version__):
        return refused("version_mismatch", f"the bundle is of version {version}, and {__version__} is installed here")
    return ALLOWED


def _version_of(data: bytes) -> str | None:
    """The version that a bundle of this software says it is of; None for another's, or where it says nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("pyproject.toml") as file:
            project: Any = tomllib.loads(file.read(_MOST_PYPROJECT_BYTES).decode()).get("project", {})
        ours = project.get("name") == "adamss-fl"
        return str(project["version"]) if ours else None
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, NotImplementedError, OSError, RuntimeError):
        return None


def _check(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise InputError(f"{clean(digest)!r}: is no bundle's digest; give all 64 digits 0-9 and a-f")
