"""A site behind its hospital's own policy: every message is judged and audited on its way in and on its way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Protocol

import torch

from adamss_fl.federation.cohort.queries import COHORT_QUERIES
from adamss_fl.federation.digest import message_digest
from adamss_fl.federation.guard.audit import AuditLog
from adamss_fl.federation.guard.audit_files import Direction
from adamss_fl.federation.guard.disclosure import NoCount, fewest_patients, without_small_splits
from adamss_fl.federation.guard.policy import (
    Decision,
    Policy,
    Request,
    Standing,
    decide,
    decide_patients,
    decide_reply,
    refused,
)
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.messages import Instruction, PolicyRefusal, Reply, SiteFailure, failure_code
from adamss_fl.federation.outcome.queries import OUTCOME_QUERIES
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.model import group_of, tensor_groups
from adamss_fl.training.tensors import device_of

Rules = Callable[[], tuple[Policy, Standing | None]]
"""Gives the policy as it is now and what the staff last said; raises where either is unreadable."""

FOREIGN = "a tensor of no group"


class Answering(Protocol):
    """What the guard needs of the site behind it; ``federation.site.Site`` is one."""

    name: str
    task: Task

    @property
    def data(self) -> SiteData:
        """The site's patients."""
        ...

    @property
    def local_names(self) -> frozenset[str]:
        """Names of the tensors that stay at the site."""
        ...

    def handle(self, instruction: Instruction) -> Reply:
        """Answer, or raise SiteFailure."""
        ...


class GuardedSite:
    """Hands ``site`` the instructions that its policy allows, and lets out the answers that it allows.

    rules : asked before every instruction and again before its answer leaves, so that a change counts at once.
    audit : where every message is kept before it is obeyed, or leaves. log : takes the reason of a refusal.
    now : local time.
    """

    def __init__(
        self,
        site: Answering,
        rules: Rules,
        audit: AuditLog,
        log: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self.name = site.name
        self._site = site
        self._rules = rules
        self._audit = audit
        self._log = log
        self._now = now

    def handle(self, instruction: Instruction) -> Reply:
        """Do what one instruction says, as far as the policy allows.

        Raises PolicyRefusal with the policy's code (``policy_unreadable`` where there is no readable policy),
        SiteFailure ``audit_failed`` where a message cannot be audited, and whatever the site raises.
        """
        digest, size = message_digest(instruction)
        decision = self._judge(instruction, size)
        self._note("in", instruction, digest, size, "allowed" if decision.allowed else "refused", decision.code)
        if not decision.allowed:
            raise self._refusal(instruction, decision)
        try:
            self._require_patients(instruction)
            reply = self._site.handle(self._with_min_cell(instruction))
        except PolicyRefusal:
            raise
        except Exception as failure:
            self._note_refusal(instruction, failure_code(failure))
            raise
        return self._let_out(instruction, reply)

    def _judge(self, instruction: Instruction, size: int) -> Decision:
        try:
            policy, standing = self._rules()
        except Exception as error:  # whatever is wrong with the rules, nothing is done without them
            return refused("policy_unreadable", str(error))
        try:
            request = self._request(instruction, size)
        except Exception as error:
            return refused(failure_code(error), f"what the task would do here cannot be told: {error}")
        return decide(policy, request, self._now(), standing)

    def _request(self, instruction: Instruction, size: int) -> Request:
        kind, query = instruction.kind, instruction.settings.get("query")
        computes = kind in ("train", "evaluate") or query == "radiomics"
        return Request(
            task=self._site.task.name,
            kind=kind,
            statistic=query if isinstance(query, str) else None,
            groups=self._shared_groups if kind == "train" else frozenset(),
            device=str(device_of(self._site.task.runtime)) if computes else None,
            gpus=torch.cuda.device_count() if computes else None,
            size=size,
        )

    @cached_property
    def _shared_groups(self) -> frozenset[str]:
        """The groups of which the task sends tensors after training."""
        groups = tensor_groups(self._site.task.model)
        return frozenset(group for group, names in groups.items() if set(names) - self._site.local_names)

    def _require_patients(self, instruction: Instruction) -> None:
        """Refuse training and statistics before the work where the training patients are too few for any answer.

        The loss of segmentation stands on the patients who have a mask, if there are any.
        """
        if instruction.kind not in ("train", "statistics"):
            return
        samples = self._site.data.train
        counts = [len(samples)]
        if instruction.kind == "train" and set(instruction.settings.get("stages", ())) != {"survival"}:
            masked = sum(sample.has_mask for sample in samples)
            counts += [masked] if masked else []
        try:
            decision = decide_patients(self._rules()[0], min(counts))
        except Exception as error:
            decision = refused("policy_unreadable", str(error))
        if decision is not None:
            raise self._refusal(instruction, decision)

    def _with_min_cell(self, instruction: Instruction) -> Instruction:
        """The instruction, what it asks of outcomes and cohort held to the policy's minimum cell count."""
        held = (*OUTCOME_QUERIES, *COHORT_QUERIES)
        if instruction.kind != "statistics" or instruction.settings.get("query") not in held:
            return instruction
        try:
            least = self._rules()[0].min_cell
        except Exception as error:
            raise self._refusal(instruction, refused("policy_unreadable", str(error))) from error
        return replace(instruction, settings={**instruction.settings, "least": least})

    def _let_out(self, instruction: Instruction, reply: Reply) -> Reply:
        digest, size = "", 0
        try:
            policy, standing = self._rules()
        except Exception as error:
            raise self._refusal(instruction, refused("policy_unreadable", str(error))) from error
        try:
            if instruction.kind == "describe":
                reply = self._trimmed(reply, policy)
            digest, size = message_digest(reply)
            patients = fewest_patients(instruction.kind, instruction.settings.get("query"), reply.figures)
            decision = decide_reply(policy, patients, _groups(reply), size, standing)
        except NoCount as error:
            decision = refused("too_few_patients", str(error))
        except Exception as error:  # an answer that cannot be judged does not leave
            decision = refused("site_error", f"the answer cannot be judged: {error}")
        if not decision.allowed:
            raise self._refusal(instruction, decision)
        self._note("out", instruction, digest, size, "answered")
        return reply

    def _trimmed(self, reply: Reply, policy: Policy) -> Reply:
        figures = without_small_splits(reply.figures, policy.min_patients)
        if figures != reply.figures:
            self._log(f"describe: figures of fewer than {policy.min_patients} patients are left out of the answer")
        return replace(reply, figures=figures)

    def _refusal(self, instruction: Instruction, decision: Decision) -> PolicyRefusal:
        """Audit and log a refusal; returns what is to be raised."""
        self._note_refusal(instruction, decision.code)
        what = f"{instruction.kind} of round {instruction.round}, attempt {instruction.attempt}"
        self._log(f"refused {what} with code {decision.code}: {decision.reason}")
        return PolicyRefusal(decision.code)

    def _note_refusal(self, instruction: Instruction, code: str) -> None:
        head = (instruction.kind, self.name, instruction.run, instruction.round, instruction.attempt)
        self._note("out", instruction, *message_digest(Reply(*head, figures={"refused": code})), "refused", code)

    def _note(
        self, way: Direction, instruction: Instruction, digest: str, size: int, decision: str, code: str = ""
    ) -> None:
        order = (instruction.kind, instruction.run, instruction.round, instruction.attempt)
        try:
            self._audit.append(way, *order, digest, size, decision, code)
        except OSError as error:
            raise SiteFailure("audit_failed") from error


def guarded(site: Site, folder: SiteFolder) -> Site | GuardedSite:
    """``site`` behind the policy in its folder; the site itself where the folder never had one."""
    return GuardedSite(site, folder.rules, folder.audit, folder.log) if folder.is_guarded else site


def _groups(reply: Reply) -> frozenset[str]:
    found = set()
    for name in reply.weights or {}:
        try:
            found.add(group_of(name))
        except KeyError:
            found.add(FOREIGN)
    return frozenset(found)
