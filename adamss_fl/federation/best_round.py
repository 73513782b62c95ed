"""The best validated round of a run: its model is kept while the run goes on, and taken when the run is over."""

from adamss_fl.federation.aggregation import LOCAL
from adamss_fl.federation.events import read_events
from adamss_fl.federation.plan import RoundPlan, trains
from adamss_fl.federation.rounds import Rounds
from adamss_fl.federation.selection import Choice, SelectionRule, chosen_round


def survival_rounds(plan: RoundPlan) -> tuple[int, ...]:
    """Indices of the rounds that train survival, be it within ``joint``."""
    return tuple(round_.index for round_ in plan.rounds if trains(round_.stages, "survival"))


def segmentation_round(plan: RoundPlan, taken: int) -> int:
    """The last round up to ``taken`` that trained segmentation; the last of all where none did before; 0 for none."""
    segmented = [round_.index for round_ in plan.rounds if trains(round_.stages, "segmentation")]
    return max((index for index in segmented if index <= taken), default=max(segmented, default=0))


def follow(rounds: Rounds, rule: SelectionRule, start: int) -> None:
    """Let ``rounds`` keep the best round so far; call it before training goes on after round ``start``.

    What is kept is read from the event log, so that a run that was killed keeps the same. A crash between saving a
    round and validating it is made up for here, since the best round may be that one.
    """
    candidates = survival_rounds(rounds.plan)
    if rule == "last" or not candidates:
        return

    def best_before(index: int) -> tuple[int, ...]:
        earlier = [round_ for round_ in candidates if round_ < index]
        return (chosen_round(read_events(rounds.events.path), rule, earlier).round,) if earlier else ()

    rounds.spared = best_before
    done = {event["round"] for event in read_events(rounds.events.path) if event["kind"] == "validation"}
    if start in candidates and start not in done:
        rounds.validate(rounds.plan.rounds[start - 1], rounds.checkpoints.load(start).weights)


def choose(rounds: Rounds, rule: SelectionRule) -> Choice | None:
    """The round of a run that is over whose model is taken; None where that is the last without any choice.

    Sites keep their own parts of the last rounds only, so that a model with such parts is that of the last round. The
    best round's checkpoint is there, unless it was removed by hand: then the best of those that are there is taken.
    """
    candidates = survival_rounds(rounds.plan)
    if rule == "last" or not candidates:
        return None
    if any(group.name == LOCAL for group in rounds.settings.groups.values()):
        return Choice(max(candidates), "the last round, as parts of the model stay at the sites")
    choice = chosen_round(read_events(rounds.events.path), rule, candidates)
    kept = set(candidates) & set(rounds.checkpoints.rounds())
    return choice if choice.round in kept else chosen_round(read_events(rounds.events.path), rule, kept)
