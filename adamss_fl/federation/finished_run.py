"""A run that is over: its metrics, and the models that it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.best_round import segmentation_round
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.federation.machines import machines_of
from adamss_fl.federation.merging import merge_evaluations
from adamss_fl.federation.messages import Reply, Weights
from adamss_fl.federation.outcome.figures import outcome_figures
from adamss_fl.federation.rounds import QuorumLost, Rounds
from adamss_fl.federation.selection import Choice
from adamss_fl.federation.task import Task
from adamss_fl.federation.uniform_batches import uniform_lines


def base_metrics(task: Task, rounds: Rounds, choice: Choice | None) -> dict[str, Any]:
    """What the metrics of every run hold. choice : of the round whose model is taken, None for the last."""
    taken = len(task.plan.rounds) if choice is None else choice.round
    return {
        "name": task.name,
        "run": rounds.identity.run,
        "version": __version__,
        "seed": task.seed,
        "plan": task.plan.describe(),
        "rounds": len(task.plan.rounds),
        "sites": list(rounds.sites.names),
        "machines": machines_of(rounds.events.path),
        "segmentation_round": segmentation_round(task.plan, taken),
        **({} if choice is None else {"selected": {"rule": task.select, **asdict(choice)}}),
        "edges_days": list(rounds.identity.edges_days),
        "tabular": rounds.identity.tabular,
        **({"uniform_batches": lines} if (lines := uniform_lines(read_events(rounds.events.path))) else {}),
    }


def test_metrics(task: Task, rounds: Rounds, weights: Weights, base: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the final model on the sites' test patients; DSC is that of the last model trained to segment."""
    settings = {"split": "test", **rounds.identity.settings()}
    last, segmenting = taken_round(base), int(base["segmentation_round"])

    def evaluate(model: Weights, round: int) -> dict[str, Any]:
        replies = rounds.ask("evaluate", round, settings, model)
        return merge_evaluations({reply.site: reply.figures for reply in replies})

    test = evaluate(weights, last) if segmenting in (0, last) else None
    if test is None:
        segmented = evaluate(rounds.checkpoints.load(segmenting).weights, segmenting)
        test = evaluate(weights, last)
        if test["patients"]:
            test["dsc_after_survival_stage"] = test["dsc"]
            for figures, before in (
                (test, segmented),
                *((test["sites"][s], segmented["sites"][s]) for s in test["sites"]),
            ):
                figures.update({name: before[name] for name in ("dsc", "masks_by_patient") if name in before})
    metrics = dict(base)
    metrics["test"] = test
    metrics["federated"] = _over_all_sites(task, rounds, last) if test["patients"] else None
    metrics["c_index"] = test.get("c_index")
    metrics["c_index_pairs"] = "within sites"
    metrics["comparable_pairs"] = test.get("comparable_pairs", 0)
    metrics["dsc"] = test.get("dsc", {})
    return metrics


def _over_all_sites(task: Task, rounds: Rounds, round: int) -> dict[str, Any]:
    """Figures of the model last evaluated over all sites' test patients; the reason where too few sites answer.

    A hospital may forbid these queries, which is no reason to lose a trained model.
    """

    def ask(query: Mapping[str, Any]) -> list[Reply]:
        return rounds.ask("statistics", round, query)

    try:
        return outcome_figures(ask, rounds.identity.edges_days[-1], task.seed)
    except QuorumLost as error:
        return {"reason": str(error)}


def final_weights(out: Path) -> tuple[Weights, Weights, Mapping[str, Any]]:
    """(final weights, weights of the last round that trained segmentation, state) of a finished run.

    Final is the last round, or the one that the run's ``select`` took.

    Raises InputError where ``out`` holds no finished run, or a file of it is torn or altered.
    """
    last, segmenting = final_rounds(out)
    checkpoints = Checkpoints(out / "checkpoints")
    final = checkpoints.load(last)
    segmentation = final if segmenting == last else checkpoints.load(segmenting)
    return final.weights, segmentation.weights, final.state


def final_rounds(out: Path) -> tuple[int, int]:
    """(round whose model is taken, last round up to it that trained segmentation, or it where none did).

    Raises InputError where ``out`` holds no finished run.
    """
    path = out / "metrics.json"
    if not path.exists():
        raise InputError(f"{out}: holds no finished run (metrics.json is missing); finish it or give another folder")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        last, segmenting = taken_round(metrics), int(metrics["segmentation_round"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: does not read as a run's figures; restore it or finish the run again") from error
    return last, segmenting or last


def taken_round(metrics: Mapping[str, Any]) -> int:
    """The round whose model a run gives: the last, where its metrics name no other."""
    return int(metrics["selected"]["round"] if "selected" in metrics else metrics["rounds"])
