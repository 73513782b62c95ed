"""A hospital's own rules, from its ``policy.yaml``: what a run may ask of it. They win over whatever a run says.

:func:`decide` judges a request and :func:`decide_reply` an answer; both are pure, and refuse with a short code that the
server may read and a reason that stays at the site.
"""

import json
import re
from dataclasses import dataclass, fields, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from adamss_fl import __version__, yaml_source
from adamss_fl.federation.guard.hours import is_open, read_window
from adamss_fl.federation.messages import Kind
from adamss_fl.plugins import mistake_text, suggest
from adamss_fl.yaml_source import Key

Standing = Literal["running", "paused", "left"]
"""What the site's staff last said by ``adamss-fl site resume``, ``pause`` or ``leave``."""

STANDINGS: tuple[Standing, ...] = ("running", "paused", "left")

KINDS: tuple[Kind, ...] = ("describe", "statistics", "train", "evaluate")

STATISTICS = (
    "event_times",
    "clinical",
    "follow_up",
    "radiomics",
    "radiomics_moments",
    "radiomics_cox",
    "radiomics_products",
    "summary",
    "columns",
    "survival_counts",
    "cox",
    "cox_times",
    "outcome_cells",
    "concordance",
    "concordance_boxes",
    "outcome_survival",
    "prediction_error",
)
"""The queries that ``Site.statistics`` answers."""

NAMED_ALONE = ("cox_times",)
"""Queries that a policy allows only by name: over its iterations it tells of groups of patients, see ``cox_sums``."""

PARAMETER_GROUPS = (
    "pet_encoder",
    "ct_encoder",
    "fusion_encoder",
    "fusion_gates",
    "decoder",
    "segmentation_head",
    "survival_head",
    "norm_statistics",
)
"""The model's groups, as ``adamss_fl.model.GROUPS``, which takes torch to import."""

BYTES_OF_A_MB = 1_000_000

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


class PolicyMistake(ValueError):
    """A value that no policy can have; ``key`` says which, the text what is wrong with it."""

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Policy:
    """What a site allows.

    runs : patterns of the names of tasks, as a shell matches files; upper and lower case differ.
    kinds, statistics : instructions and queries that are answered.
    min_patients : the least number of patients behind any figure that leaves.
    min_cell : the least number of patients in a cell of the tables told of test patients, unless it is empty, and
        behind what is told for the comparison of sites.
    groups_may_leave : parameter groups whose tensors may leave.
    hours : windows of local time, see ``federation.guard.hours``; None means always.
    device : where the site may compute: ``cpu``, ``cuda`` (any GPU), ``cuda:0``; None means anywhere.
    max_message_mb : the largest message in or out, in millions of bytes.
    paused : refuse everything.
    bundles : SHA-256 of approved application bundles, besides those approved by ``adamss-fl site approve``.

    Raises PolicyMistake for a value out of its range.
    """

    runs: tuple[str, ...] = ("*",)
    kinds: tuple[str, ...] = KINDS
    statistics: tuple[str, ...] = tuple(name for name in STATISTICS if name not in NAMED_ALONE)
    min_patients: int = 5
    min_cell: int = 5
    groups_may_leave: tuple[str, ...] = PARAMETER_GROUPS
    hours: tuple[str, ...] | None = None
    device: str | None = None
    max_message_mb: float = 512.0
    paused: bool = False
    bundles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, known in (("kinds", KINDS), ("statistics", STATISTICS), ("groups_may_leave", PARAMETER_GROUPS)):
            for place, name in enumerate(getattr(self, key)):
                if name not in known:
                    raise PolicyMistake((key, place), f"unknown name '{name}'; {suggest(name, known, 'names')}")
        if self.hours == ():
            raise PolicyMistake(("hours",), "is empty; leave it out for always, or set 'paused: true' for never")
        for place, text in enumerate(self.hours or ()):
            try:
                read_window(text)
            except ValueError as error:
                raise PolicyMistake(("hours", place), f"'{text}' is no time of the week; {error}") from error
        for place, digest in enumerate(self.bundles):
            if not _DIGEST.fullmatch(digest):
                raise PolicyMistake(("bundles", place), "must be a SHA-256 of 64 digits 0-9 and a-f, in quotes")
        if self.min_patients < 1:
            raise PolicyMistake(("min_patients",), f"must be 1 or more, not {self.min_patients}")
        if self.min_cell < 1:
            raise PolicyMistake(("min_cell",), f"must be 1 or more, not {self.min_cell}")
        if not self.max_message_mb > 0:
            raise PolicyMistake(("max_message_mb",), f"must be more than 0, not {self.max_message_mb:g}")
        if self.device is not None and not _DEVICE.fullmatch(self.device):
            raise PolicyMistake(("device",), f"must be cpu, cuda or cuda:NUMBER, not '{self.device}'")


@dataclass(frozen=True)
class Request:
    """What a policy judges of an instruction, with what only the site knows.

    task : the name of the site's task; kind, statistic : what is asked (``statistic`` of the kind ``statistics``).
    groups : parameter groups whose tensors the answer would hold.
    device : where the site would compute, None where it would not. gpus : how many GPUs the machine has, None where
        they were not counted.
    size : bytes of the message. version : of the code that asks, None where it does not say.
    """

    task: str
    kind: str
    statistic: str | None = None
    groups: frozenset[str] = frozenset()
    device: str | None = None
    gpus: int | None = None
    size: int = 0
    version: str | None = None


@dataclass(frozen=True)
class Decision:
    """Whether something is allowed; if not, a ``code`` that may reach the server and a ``reason`` that stays here."""

    allowed: bool
    code: str = ""
    reason: str = ""


ALLOWED = Decision(True)


_POLICY = TypeAdapter(Policy)


def refused(code: str, reason: str) -> Decision:
    """The decision against, with its code and the reason for the site's own log."""
    return Decision(False, code, reason)


def read_policy(path: Path) -> Policy:
    """The policy in a YAML file; keys that are absent have their defaults.

    Raises InputError naming file, line and key where the file is missing or unreadable, a key is unknown, or a value is
    of the wrong type or out of its range.
    """
    document = yaml_source.read(path)
    known = [each.name for each in fields(Policy)]
    for name in document.data:
        if name not in known:
            raise document.error((name,), f"unknown key '{name}'; {suggest(name, known, 'keys')}")
    try:
        policy: Policy = _POLICY.validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        mistake = error.errors()[0]
        cause = mistake.get("ctx", {}).get("error")
        if isinstance(cause, PolicyMistake):
            raise document.error(cause.key, str(cause)) from error
        text = f"{mistake_text(mistake['msg'])}, not {mistake['input']!r}"
        raise document.error(tuple(mistake["loc"]), text) from error
    return policy


def with_standing(policy: Policy, standing: Standing | None) -> Policy:
    """``policy`` with what the staff said over it: ``resume`` and ``pause`` win over the file's ``paused``."""
    return policy if standing is None else replace(policy, paused=standing == "paused")


def decide(policy: Policy, request: Request, now: datetime, standing: Standing | None = None) -> Decision:
    """Whether a site under ``policy`` does what ``request`` asks at ``now``; the first rule that it breaks decides.

    standing : what the staff said by command, None where they said nothing; it wins over the policy.
    """
    stopped = decide_standing(policy, standing)
    if stopped is not None:
        return stopped
    if request.version is not None and request.version != __version__:
        return refused("version_mismatch", f"version {request.version} asks, and {__version__} is installed here")
    if not any(fnmatchcase(request.task, pattern) for pattern in policy.runs):
        return refused("run_not_allowed", f"no pattern under 'runs' matches the task {request.task!r}")
    if request.kind not in policy.kinds:
        return refused("kind_not_allowed", f"{request.kind!r} is not under 'kinds'")
    if request.kind == "statistics" and request.statistic not in policy.statistics:
        return refused("statistic_not_allowed", f"the query {request.statistic!r} is not under 'statistics'")
    if policy.hours is not None and not is_open(policy.hours, now):
        return refused("outside_hours", f"{now:%a %H:%M} is in no window under 'hours'")
    if request.device is not None and not _may_use(policy.device, request.device):
        return refused("device_not_allowed", _device_reason(policy.device, request))
    return _forbidden_group(policy, request.groups) or _too_large(policy, request.size) or ALLOWED


def decide_standing(policy: Policy, standing: Standing | None) -> Decision | None:
    """The refusal of a site that has left or is paused, else None."""
    if standing == "left":
        return refused("left", "the site has left (adamss-fl site leave); 'adamss-fl site resume' brings it back")
    if with_standing(policy, standing).paused:
        by = "adamss-fl site pause" if standing == "paused" else "'paused' in the policy"
        return refused("paused", f"the site is paused ({by})")
    return None


def decide_reply(
    policy: Policy, patients: int | None, groups: frozenset[str], size: int, standing: Standing | None = None
) -> Decision:
    """Whether an answer may leave. The hours are not asked again: what was begun in time may be told.

    patients : the least number of patients behind any of its figures; None where nobody is behind them.
    groups : the parameter groups of its tensors; size : its bytes.
    """
    stopped = decide_standing(policy, standing)
    if stopped is not None:
        return stopped
    few = None if patients is None else decide_patients(policy, patients)
    return few or _forbidden_group(policy, groups) or _too_large(policy, size) or ALLOWED


def decide_patients(policy: Policy, patients: int) -> Decision | None:
    """The refusal of a figure that stands on too few patients, else None."""
    if patients >= policy.min_patients:
        return None
    return refused("too_few_patients", f"{patients} patients stand behind it; 'min_patients' is {policy.min_patients}")


def _forbidden_group(policy: Policy, groups: frozenset[str]) -> Decision | None:
    forbidden = sorted(groups - set(policy.groups_may_leave))
    if not forbidden:
        return None
    return refused("group_not_allowed", f"{', '.join(forbidden)} would leave and is not under 'groups_may_leave'")


def _too_large(policy: Policy, size: int) -> Decision | None:
    if size <= policy.max_message_mb * BYTES_OF_A_MB:
        return None
    return refused("too_large", f"{size / BYTES_OF_A_MB:.1f} MB; 'max_message_mb' is {policy.max_message_mb:g}")


def _device_reason(allowed: str | None, request: Request) -> str:
    """Why ``request.device`` is not the allowed one; says so where the machine has no such GPU."""
    reason = f"the run would use {request.device}; 'device' is {allowed}"
    if allowed is None or not allowed.startswith("cuda") or request.gpus is None:
        return reason
    number = int(allowed.partition(":")[2] or 0)
    if number < request.gpus and number > 0 and request.device == "cuda":
        return (
            f"{reason}; a run takes the first GPU that it is shown: set 'device' to cuda:0 and start the site with "
            f"CUDA_VISIBLE_DEVICES={number}"
        )
    if number < request.gpus:
        return reason
    found = f"{request.gpus} GPUs are" if request.gpus != 1 else "1 GPU is"
    return f"{reason}, and only {found} found on this machine; look at its driver, or set 'device' to another"


def _may_use(allowed: str | None, device: str) -> bool:
    """Whether ``device`` is the allowed one; ``cuda`` allows every GPU, and as a device it is the first one."""
    if allowed in (None, device):
        return True
    return device.startswith("cuda:") if allowed == "cuda" else (allowed, device) == ("cuda:0", "cuda")
