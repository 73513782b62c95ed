"""The loop of a run: send, collect, check, aggregate in a fixed order, save, validate, record; from any round on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adamss_fl.errors import AdamssError
from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.events import EventLog, read_events
from adamss_fl.federation.merging import mean_opening, merge_evaluations
from adamss_fl.federation.messages import Absence, Collected, Instruction, Kind, Reply, Sites, Weights
from adamss_fl.federation.plan import Round, RoundPlan
from adamss_fl.federation.reply_checks import figures_problem
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.transfer import carry_over, reset_names
from adamss_fl.federation.uniform_batches import uniform_lines
from adamss_fl.federation.update import Update, check_envelope, check_update
from adamss_fl.federation.wire import Changed, pack

_LOG = logging.getLogger(__name__)


class QuorumLost(AdamssError):
    """Fewer sites than the quorum gave a usable reply; the last good model is the newest checkpoint.

    final : whether the run is to end with it, rather than wait for the sites (``federation.then: stop``).
    """

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True)
class RunIdentity:
    """What goes with the run's model on every message and in every checkpoint.

    run : its name; edges_days : time bins; fingerprint : hash of its task.
    tabular : the encoding of clinical columns and radiomics features as a plain mapping, None where there is none.
    trained_on : number of training patients and ranges of their images, see ``federation.inputs``.
    stage_one : hash of all that decides the model after stage I, see ``federation.stage_one``.
    """

    run: str
    edges_days: tuple[float, ...]
    fingerprint: str = ""
    tabular: Mapping[str, Any] | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    stage_one: str | None = None

    def settings(self) -> dict[str, Any]:
        """The settings of an instruction that the model cannot be applied without."""
        return {"edges_days": list(self.edges_days), "tabular": self.tabular}


class Rounds:
    """Drives a plan over sites.

    sites : who trains; settings : quorum, deadline and attempts; aggregation : the rules per group.
    checkpoints, events : where the run is kept; validate_every : validation figures every so many rounds.
    transfer : what of stage I enters stage II, see ``federation.transfer``.

    ``remedies`` : what is done once, before the next attempt or round, where a site was absent with a cause.
    ``spared`` : earlier rounds whose checkpoints are to stay when the given round is saved.
    """

    def __init__(
        self,
        sites: Sites,
        plan: RoundPlan,
        settings: FederationSettings,
        aggregation: GroupedAggregation,
        checkpoints: Checkpoints,
        events: EventLog,
        identity: RunIdentity,
        validate_every: int = 0,
        transfer: str = "full",
    ) -> None:
        self.sites = sites
        self.plan = plan
        self.settings = settings
        self.aggregation = aggregation
        self.checkpoints = checkpoints
        self.events = events
        self.identity = identity
        self.validate_every = validate_every
        self.transfer = transfer
        self._warned: set[str] = set()
        self.remedies: Mapping[str, Callable[[], object]] = {}
        self.spared: Callable[[int], Collection[int]] = lambda _: ()

    def run(self, start: int, stop: int | None = None) -> Weights:
        """Train every round after the checkpoint of round ``start``, up to ``stop`` (None: all); the weights then.

        Raises :class:`QuorumLost` with the absences and their causes; all rounds before it are saved.
        """
        weights = self._load(start)
        rounds = self.plan.rounds
        for round_ in rounds[start:stop]:
            self.events.write("round_start", round_.index, stages=list(round_.stages), rounds=len(rounds))
            if self.transfer != "full" and round_.index == self.plan.first_survival_round():
                weights = self._begin_stage_two(round_.index, weights)
            updates = self._collect(round_, weights)
            weights = self.aggregation.aggregate(weights, updates, round_.index)
            # Recorded first: a crash between the two repeats the round, and of two records the later one is read.
            self._record(round_, updates, weights)
            self._save(round_, weights)
            self.validate(round_, weights)
        return weights

    def _load(self, round: int) -> Weights:
        """The weights of a checkpoint, the aggregator being set to its state. No one else may hold them."""
        found = self.checkpoints.load(round)
        self.aggregation.load_state(found.aggregator)
        return found.weights

    def ask(self, kind: Kind, round: int, settings: Mapping[str, Any], weights: Weights | None = None) -> list[Reply]:
        """One instruction that is no training: the replies that count, sorted by site; absences are recorded.

        Raises :class:`QuorumLost` where fewer than the quorum answer.
        """
        instruction = Instruction(kind, self.identity.run, round, 1, settings, weights)
        collected = self.sites.broadcast(instruction, self.settings.deadline_seconds or None)
        replies, absences = [], list(collected.absences)
        for reply in collected.replies:
            stale = check_envelope(reply, instruction)
            problem = None if stale is not None else figures_problem(instruction, reply.figures)
            if stale is not None:
                absences.append(stale)
            elif problem is not None:
                absences.append(Absence(reply.site, "refused_reply", problem))
            else:
                replies.append(reply)
        self._note(round, absences)
        if len(replies) < self.settings.min_sites:
            raise self._lost(f"{kind}: {self._shortfall(len(replies), absences)}")
        return replies

    def _begin_stage_two(self, round: int, weights: Weights) -> Weights:
        """The weights with what stage II is not to inherit set back; the aggregator forgets what it had gathered.

        The checkpoint of the round before holds neither change, so that a repeated round makes both again.
        """
        initial = self.checkpoints.load(0).weights
        self.aggregation.load_state({})
        self.events.write("transfer", round, kept=self.transfer, reset=len(reset_names(self.transfer, weights)))
        return carry_over(weights, initial, self.transfer)

    def _collect(self, round_: Round, weights: Weights) -> list[Update]:
        settings = {
            "stages": list(round_.stages),
            "epochs": round_.epochs,
            "steps": round_.steps,
            "progress": {stage: list(span) for stage, span in round_.progress.items()},
            **self.identity.settings(),
            "block_ends": [each.index for each in self.plan.rounds if each.closes_block],
            "wire": self.settings.wire,
        }
        packed = self.settings.wire == "bf16"
        sent = pack(weights) if packed else weights
        shared = self.aggregation.shared(weights)
        absences: list[Absence] = []
        updates: list[Update] = []
        for attempt in range(1, self.settings.attempts + 1):
            instruction = Instruction("train", self.identity.run, round_.index, attempt, settings, sent)
            collected = self.sites.broadcast(instruction, self.settings.deadline_seconds or None)
            if packed:
                collected = replace(collected, replies=tuple(_applied(reply, shared) for reply in collected.replies))
            updates, absences = sort_out(collected, instruction, shared, self.settings.max_change)
            self._note(round_.index, absences)
            for cause in sorted(self.remedies.keys() & {absence.cause for absence in absences}):
                self.remedies[cause]()
            if len(updates) >= self.settings.min_sites:
                return updates
        if updates and self.settings.then == "continue":
            self.events.write("short_of_quorum", round_.index, sites=[update.site for update in updates])
            return updates
        kept = f"the model of round {round_.index - 1} is kept"
        raise self._lost(f"round {round_.index}: {self._shortfall(len(updates), absences)}; {kept}")

    def _save(self, round_: Round, weights: Weights) -> None:
        identity = self.identity
        state = {
            "run": identity.run,
            **identity.settings(),
            "fingerprint": identity.fingerprint,
            "trained_on": dict(identity.trained_on),
            "stage_one": identity.stage_one,
            "stages": list(round_.stages),
        }
        checkpoint = Checkpoint(round_.index, weights, self.aggregation.state(), state)
        self.checkpoints.save(checkpoint, pin=round_.closes_block, spare=self.spared(round_.index))

    def _record(self, round_: Round, updates: Sequence[Update], weights: Weights) -> None:
        for update in updates:
            self.events.write("train", round_.index, update.site, figures=dict(update.figures))
        if any(update.figures.get("balanced") is False for update in updates):
            for line in uniform_lines(read_events(self.events.path)):
                if line not in self._warned:
                    _LOG.warning("round %d: %s", round_.index, line)
                    self._warned.add(line)
        self.events.write(
            "aggregate",
            round_.index,
            sites=[update.site for update in updates],
            figures={
                "gate_opening": mean_opening([update.figures for update in updates]),
                "bytes": sum(array.nbytes for array in weights.values()),
            },
        )

    def validate(self, round_: Round, weights: Weights) -> None:
        """Record the sites' figures on their validation patients, where they are due and there are such patients."""
        if not self.validate_every or (round_.index % self.validate_every and not round_.closes_block):
            return
        settings = {"split": "validation", **self.identity.settings()}
        replies = self.ask("evaluate", round_.index, settings, weights)
        figures = merge_evaluations({reply.site: reply.figures for reply in replies})
        if figures["patients"]:
            self.events.write("validation", round_.index, figures=figures)

    def _lost(self, message: str) -> QuorumLost:
        return QuorumLost(message, final=self.settings.then == "stop")

    def _note(self, round: int, absences: Sequence[Absence]) -> None:
        for absence in absences:
            self.events.write("absence", round, absence.site, cause=absence.cause, detail=absence.detail)

    def _shortfall(self, replies: int, absences: Sequence[Absence]) -> str:
        named = ", ".join(f"{a.site} ({a.cause}{': ' + a.detail if a.detail else ''})" for a in absences)
        return f"{replies} of the {self.settings.min_sites} sites needed gave a usable reply; absent: {named or 'none'}"


def _applied(reply: Reply, shared: Weights) -> Reply:
    """A reply in bfloat16 with the model that its change leads to."""
    return replace(reply, weights=None if reply.weights is None else Changed(shared, reply.weights))


def sort_out(
    collected: Collected, instruction: Instruction, shared: Weights, max_change: float
) -> tuple[list[Update], list[Absence]]:
    """Training replies as updates sorted by site, and everyone else with the cause.

    A second reply of the same site is not counted.
    """
    updates: dict[str, Update] = {}
    absences = list(collected.absences)
    for reply in collected.replies:
        checked = check_update(reply, instruction, shared, max_change)
        if isinstance(checked, Absence):
            absences.append(checked)
        elif checked.site in updates:
            absences.append(Absence(checked.site, "duplicate"))
        else:
            updates[checked.site] = checked
    return [updates[site] for site in sorted(updates)], sorted(absences, key=lambda absence: absence.site)
