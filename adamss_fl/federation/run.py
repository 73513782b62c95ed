"""A whole run over any sites: describe, agree on time bins, train every round, evaluate, record; resumable."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.agreement import agree_on_edges, check_sites
from adamss_fl.federation.best_round import choose, follow
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.cohort.figures import cohort_figures, error_lines
from adamss_fl.federation.events import EventLog, Tracker
from adamss_fl.federation.features import agree_on_clinical, agree_on_radiomics, keep_radiomics
from adamss_fl.federation.files import write_json
from adamss_fl.federation.finished_run import base_metrics, test_metrics
from adamss_fl.federation.inputs import merge_trained_on
from adamss_fl.federation.machines import machine_lines, machines_of
from adamss_fl.federation.messages import Sites, Weights
from adamss_fl.federation.questions import Ask
from adamss_fl.federation.rounds import Rounds, RunIdentity
from adamss_fl.federation.stage_one import inherit_stage_one, stage_one_fingerprint
from adamss_fl.federation.task import Task, fingerprint
from adamss_fl.model import AdaMSS, tensor_groups, to_weights
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.training.seeds import derive_seed

_LOG = logging.getLogger(__name__)


def run_federation(
    task: Task,
    sites: Sites,
    out: Path,
    *,
    trackers: Sequence[Tracker] = (),
    evaluate_test: bool = True,
    stage_one: Path | None = None,
) -> dict[str, Any]:
    """Train ``task`` over ``sites`` and keep everything under ``out``; returns what ``metrics.json`` then holds.

    A folder that holds the same task unfinished is continued from its newest checkpoint, a finished one is returned as
    it is. ``evaluate_test`` : compare the sites before training, which writes the event ``preflight``, and ask them for
    figures on their test patients at the end. ``stage_one`` : folder of a run whose stage I a new run begins with, see
    ``federation.stage_one``; one that goes on has its own by then.

    Raises InputError where the folder holds another task, a site has too few patients or another architecture, the time
    bins cannot be made, or ``stage_one`` holds another stage I; :class:`~adamss_fl.federation.rounds.QuorumLost` where
    too few sites answer.
    """
    metrics_path = out / "metrics.json"
    checkpoints = Checkpoints(out / "checkpoints")
    start = checkpoints.newest()
    _refuse_other_task(out, start, task, sites.names)
    if metrics_path.exists() and start is not None:
        finished: dict[str, Any] = json.loads(metrics_path.read_text())
        return finished
    events = EventLog(out / "events.jsonl", trackers)
    for tracker in trackers:
        tracker.start(out, asdict(task))
    if start is None:
        start = _begin(task, sites, checkpoints, events, stage_one, compared=evaluate_test)
    else:
        events.write("resume", start.round)
    rounds, begun = _rounds(task, sites, checkpoints, events, start), start.round
    del start  # a model is large, and each round has its own
    follow(rounds, task.select, begun)
    weights = _train(task, rounds, begun)
    choice = choose(rounds, task.select)
    if choice is not None and choice.round != len(task.plan.rounds):
        weights = checkpoints.load(choice.round).weights
    metrics = base_metrics(task, rounds, choice)
    if evaluate_test:
        metrics = test_metrics(task, rounds, weights, metrics)
    write_json(metrics_path, metrics)
    events.write("run_end", len(task.plan.rounds), figures={"c_index": metrics.get("c_index")})
    for tracker in trackers:
        tracker.finish()
    return metrics


def initial_weights(task: Task, tabular: Mapping[str, Any] | None = None) -> Weights:
    """The weights every run of this seed, model and tabular encoding starts from."""
    torch.manual_seed(derive_seed(task.seed, "initial weights"))
    return to_weights(AdaMSS(task.network(tabular)))


def refuse_other_task(out: Path, task: Task, sites: Sequence[str]) -> None:
    """Raise InputError where ``out`` holds a run of another task or of other sites; nothing is written."""
    _refuse_other_task(out, Checkpoints(out / "checkpoints").newest(), task, sites)


def _refuse_other_task(out: Path, start: Checkpoint | None, task: Task, sites: Sequence[str]) -> None:
    if start is not None and start.state.get("fingerprint") != fingerprint(task, sites):
        raise InputError(f"{out}: holds a run of other settings or sites; give another --out or the same configuration")


def _rounds(task: Task, sites: Sites, checkpoints: Checkpoints, events: EventLog, start: Checkpoint) -> Rounds:
    groups = tensor_groups(task.model)
    return Rounds(
        sites,
        task.plan,
        task.federation,
        GroupedAggregation(task.federation, groups, not task.plan.trains_both_in_a_round),
        checkpoints,
        events,
        RunIdentity(
            start.state["run"],
            tuple(start.state["edges_days"]),
            fingerprint(task, sites.names),
            start.state["tabular"],
            start.state.get("trained_on", {}),
            start.state.get("stage_one"),
        ),
        task.validate_every,
        task.stages.transfer,
    )


def preflight(task: Task, sites: Sites, folder: Path) -> dict[str, Any]:
    """What a run of ``task`` would write as its event ``preflight``, see ``federation.cohort.figures``; no training.

    folder : takes the events. Where sites cannot agree on time bins or clinical columns, which ends a run, the figures
    that need them hold the reason. Raises QuorumLost.
    """
    events = EventLog(folder / "events.jsonl")
    start = Checkpoint(0, {}, {}, _new_identity(task, sites))
    rounds = _rounds(task, sites, Checkpoints(folder / "checkpoints"), events, start)
    edges, tabular, reasons = None, None, {}
    try:
        edges = agree_on_edges(task, rounds)
    except InputError as error:
        reasons["follow_up"] = {"reason": str(error)}
    try:
        tabular = agree_on_clinical(task.tabular, rounds)
    except InputError as error:
        reasons |= {part: {"reason": str(error)} for part in ("columns", "cox", "cox_one_baseline")}
    return {**cohort_figures(_asking(rounds), task, sites.names, edges, tabular), **reasons}


def _asking(rounds: Rounds) -> Ask:
    return lambda query: rounds.ask("statistics", 0, query)


def _new_identity(task: Task, sites: Sites) -> dict[str, Any]:
    return {
        "run": uuid.uuid4().hex,
        "edges_days": [],
        "tabular": None,
        "fingerprint": fingerprint(task, sites.names),
        "stage_one": stage_one_fingerprint(task, sites.names),
        "stages": [],
    }


def _begin(
    task: Task, sites: Sites, checkpoints: Checkpoints, events: EventLog, stage_one: Path | None, compared: bool
) -> Checkpoint:
    """compared : compare the sites first; what is found there is told and changes nothing."""
    identity = _new_identity(task, sites)
    rounds = _rounds(task, sites, checkpoints, events, Checkpoint(0, {}, {}, identity))
    events.write(
        "run_start",
        task=task.name,
        plan=task.plan.describe(),
        sites=list(sites.names),
        version=__version__,
        megabytes=round(sum(array.nbytes for array in initial_weights(task).values()) / 1e6, 3),
    )
    described = rounds.ask("describe", 0, {"version": __version__})
    check_sites(task, described)
    for reply in described:
        events.write("site", 0, reply.site, figures=dict(reply.figures))
    for line in machine_lines(machines_of(events.path)):
        _LOG.info("%s", line)
    edges = agree_on_edges(task, rounds)
    events.write("time_bins", edges_days=list(edges))
    trained_on = merge_trained_on([reply.figures for reply in described])
    tabular = agree_on_clinical(task.tabular, rounds)
    if tabular is not None:
        events.write("tabular", 0, figures={"places": list(tabular.names)})
    if compared:
        figures = cohort_figures(_asking(rounds), task, sites.names, edges, tabular)
        events.write("preflight", 0, figures=figures)
        for line in error_lines(figures):
            _LOG.warning("preflight: %s", line)
    plain = None if tabular is None else tabular.plain()
    state = {**identity, "edges_days": list(edges), "tabular": plain, "trained_on": trained_on}
    start = Checkpoint(0, initial_weights(task, plain), {}, state)
    inherited = None if stage_one is None else inherit_stage_one(stage_one, task, sites.names, start)
    checkpoints.save(start, pin=True)
    if inherited is None:
        return start
    checkpoints.save(inherited, pin=True)
    events.write("stage_one", inherited.round, run=inherited.state["stage_one_of"])
    return inherited


def _train(task: Task, rounds: Rounds, start: int) -> Weights:
    """All rounds after ``start``; where radiomics features join stage II, they are agreed on when stage I is over."""
    last = task.plan.last_round_of("segmentation")
    if task.tabular.radiomics is None:
        return rounds.run(start)
    rounds.remedies = {"no_radiomics": lambda: keep_radiomics(rounds, last, rounds.checkpoints.load(last).weights)}
    if start > last:
        return rounds.run(start)
    rounds.run(start, stop=last)
    known = TabularEncoding.from_plain(rounds.identity.tabular or {})
    tabular = agree_on_radiomics(task.tabular.radiomics, known, rounds, last, rounds.checkpoints.load(last).weights)
    rounds.events.write("radiomics", last, figures={"selected": [each.name for each in tabular.selected or ()]})
    rounds.identity = replace(rounds.identity, tabular=tabular.plain())
    return rounds.run(last)
