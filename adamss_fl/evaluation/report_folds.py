"""The report of a cross-validated run: per fold, out of fold, and the ensemble on the test patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation.cross_validation import SUMMARY, fold_folder, held_out_predictions, is_cross_validated
from adamss_fl.evaluation.figures import kaplan_meier_figure
from adamss_fl.evaluation.fold_scores import fold_risk_groups, out_of_fold
from adamss_fl.evaluation.report_answers import UNDEFINED, Answer, Gap, number, overlap_text, with_interval
from adamss_fl.evaluation.report_inputs import RunRecord, Scores, finite, read_json
from adamss_fl.evaluation.report_methods import beside_the_images
from adamss_fl.evaluation.report_tables import ScoreTable
from adamss_fl.federation.events import read_events


@dataclass(frozen=True)
class FoldsSection:
    """What the page shows of a cross-validation.

    rows : a row a fold, as text; summary : the rows below them; curves : Kaplan-Meier curves of the out-of-fold risk
    groups as SVG text.
    """

    scheme: str
    rows: list[list[str]]
    summary: list[list[str]]
    curves: str
    curves_caption: str


def cross_validated(record: RunRecord, page: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the page that a cross-validated run has in place of ``page``'s; empty for any other run.

    Raises InputError where the cross-validation is not finished or a file of it is broken.
    """
    if not is_cross_validated(record.folder):
        return {}
    path = record.folder / SUMMARY
    if not path.exists():
        raise InputError(f"{record.folder}: its cross-validation is not finished; give `train --folds` the same again")
    found = read_json(path)
    try:
        return {
            "title": "A cross-validated model",
            "tiles": fold_tiles(found),
            "answers": fold_answers(found),
            "folds": _section(record.folder, found),
            "tables": _with_fold_models(page["tables"], found),
            "methods": [*page["methods"], *fold_methods(found), *_beside(record.folder, found)],
        }
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: lacks figures ({type(error).__name__}: {error}); cross-validate again") from error


def fold_tiles(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(caption, figure, small print) of the headline figures."""
    spread, within = found["over_folds"], Scores.read(found["out_of_fold"]["within_folds"])
    c, dsc, test = spread["c_index"], spread["dsc"], found["test"]
    tiles = [
        ("C-index, patients held out in turn", number(within.c_index), _interval(within)),
        ("C-index, mean of the folds", number(c["mean"]), f"standard deviation {number(c['sd'])}"),
    ]
    if test is not None:
        ensemble = Scores.read(test["ensemble"])
        tiles.append(("C-index, test patients, ensemble", number(ensemble.c_index), _interval(ensemble)))
    for mask, caption in (("tumour", "DSC, primary tumour"), ("nodes", "DSC, nodes")):
        if dsc[mask]["mean"] is not None:
            tiles.append((caption, number(dsc[mask]["mean"], 2), "mean of the folds"))
    return tiles


def fold_answers(found: Mapping[str, Any]) -> list[Answer]:
    """What a cross-validation says, in plain language."""
    outside, spread, test = found["out_of_fold"], found["over_folds"]["c_index"], found["test"]
    within = Scores.read(outside["within_folds"])
    folds = len(found["folds"])
    answers = [
        Answer(
            "How well do models of this kind put new patients in order of risk?",
            f"Each of {outside['patients']} patients ({outside['events']} with an event) was judged once, by a model "
            f"that had not seen that patient. Among pairs of patients judged by the same model, the C-index is "
            f"{with_interval(within)}: 0.5 is a coin toss and 1 a perfect order. Over the {folds} folds it is "
            f"{number(spread['mean'])} on average, with a standard deviation of {number(spread['sd'])}. That deviation "
            "says how much single folds differ; it is no interval for the mean, since the folds’ models share most of "
            "their training patients.",
        )
    ]
    if test is None:
        text = (
            "Not tested: no patients were held out of all folds (split.test is 0). The figures above are those of "
            "single models, each trained without its own fold."
        )
    else:
        ensemble, gain = Scores.read(test["ensemble"]), Gap.read(test["ensemble - mean of folds"])
        text = (
            f"On {test['test_patients']} test patients that are in no fold, the average of the {folds} models’ "
            f"survival curves reaches a C-index of {with_interval(ensemble)}; one of the models alone reaches "
            f"{number(test['over_folds']['c_index']['mean'])} on average."
        )
        if gain is not None:
            text += f" The difference is {gain}."
    return [*answers, Answer("How good is the ensemble of all folds’ models?", text)]


def fold_methods(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(term, text) of how the figures came about."""
    outside = found["out_of_fold"]
    horizon = f"{outside['all_pairs']['horizon_days']:,.0f}"
    rows = [
        ("Cross-validation", f"{found['scheme']}; seed of the folds {found['split_seed']}. {_LEARNT}"),
        ("Pairs within folds", _WITHIN),
        (
            "All pairs",
            "Pairs across folds compare the expected days of different models, up to the last day that every model "
            f"reaches ({horizon} days). Models differ in calibration, so this C-index also measures how well they "
            "agree on days.",
        ),
        ("Risk groups", _GROUPS),
        ("DSC of the ensemble", _DSC),
    ]
    return rows if found["test"] is not None else rows[:-1]


_LEARNT = (
    "Stage I, stage II, time bins and everything else that is learnt come from the other folds’ patients alone; "
    "nothing was chosen by the held-out patients."
)
_WITHIN = (
    "Pairs of patients are counted inside each fold, since risks of different models are not on one scale, and the "
    "counts are added. The interval resamples patients inside their folds."
)
_GROUPS = (
    "Held-out patients are cut inside each fold at the quantiles of the risks that its model gives them; no outcome "
    "enters. The models of different folds share training patients, so the log-rank p-value describes the curves and "
    "is no strict test."
)
_DSC = "The masks of the ensemble are where the mean of all folds’ probabilities is above one half."


def _beside(run: Path, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What each fold's survival head saw beside the images; no row where that is nothing."""
    rows = []
    for fold in found["folds"]:
        text = beside_the_images(list(read_events(fold_folder(run, fold["fold"]) / "events.jsonl")))
        rows.append((f"Beside the images, {fold['label']}", text))
    return [(term, text) for term, text in rows if text]


def _section(run: Path, found: Mapping[str, Any]) -> FoldsSection:
    held_out = held_out_predictions(run, found["folds"])
    groups = int(found["risk_groups"]["groups"])
    curves = kaplan_meier_figure([("Out of fold", out_of_fold(held_out))], groups, [fold_risk_groups(held_out, groups)])
    cut = "halves" if groups == 2 else f"{groups} equal groups"
    return FoldsSection(
        scheme=str(found["scheme"]),
        rows=[_fold_row(fold) for fold in found["folds"]],
        summary=_summary_rows(found),
        curves=curves,
        curves_caption=f"Kaplan-Meier curves of all held-out patients, cut inside each fold into {cut} by the risk "
        "that a model which never saw them predicts, with 95 % bands and the patients still followed.",
    )


def _fold_row(fold: Mapping[str, Any]) -> list[str]:
    scores = Scores.read(fold)
    return [
        str(fold["label"]).capitalize(),
        f"{fold['trained_on']:,}",
        f"{fold['patients']:,} ({fold['events']:,})",
        with_interval(scores),
        UNDEFINED if scores.pairs is None else f"{scores.pairs:,}",
        number(scores.dsc.get("tumour")),
        number(scores.dsc.get("nodes")),
    ]


def _summary_rows(found: Mapping[str, Any]) -> list[list[str]]:
    outside, spread = found["out_of_fold"], found["over_folds"]
    held_out = f"{outside['patients']:,} ({outside['events']:,})"
    dsc = [spread["dsc"][mask] for mask in ("tumour", "nodes")]
    within, everyone = (Scores.read(outside[name]) for name in ("within_folds", "all_pairs"))
    overlap = [number(finite(outside["dsc"][mask])) for mask in ("tumour", "nodes")]
    days = "All held out, all pairs, by expected days"
    return [
        ["Mean (standard deviation) of the folds", "", "", _spread(spread["c_index"]), "", *map(_spread, dsc)],
        ["All held out, pairs within folds", "", held_out, with_interval(within), f"{within.pairs:,}", *overlap],
        [days, "", held_out, with_interval(everyone), f"{everyone.pairs:,}", "", ""],
    ]


def _with_fold_models(tables: list[ScoreTable], found: Mapping[str, Any]) -> list[ScoreTable]:
    """The ensemble's tables, with each fold's model below it on all test patients; none without test patients."""
    if found["test"] is None:
        return []
    everyone, *sites = tables
    outside = f"{found['out_of_fold']['patients']:,}"
    ensemble = [replace(row, label="Ensemble of the folds", trained_on=outside, main=True) for row in everyone.rows]
    models = []
    for fold, row in zip(found["folds"], found["test"]["folds"], strict=True):
        scores = Scores.read(row)
        models.append(
            replace(
                ensemble[0],
                label=f"Model of fold {fold['fold']}",
                colour="",
                trained_on=f"{fold['trained_on']:,}",
                c_index=with_interval(scores),
                pairs=f"{row['comparable_pairs']:,}",
                tumour=overlap_text(scores, "tumour"),
                nodes=overlap_text(scores, "nodes"),
                main=False,
            )
        )
    own = [replace(site, rows=[replace(row, trained_on=outside) for row in site.rows]) for site in sites]
    return [replace(everyone, rows=[*ensemble, *models]), *own]


def _spread(figures: Mapping[str, Any]) -> str:
    if figures["mean"] is None:
        return UNDEFINED
    return number(figures["mean"]) + ("" if figures["sd"] is None else f" ({number(figures['sd'])})")


def _interval(scores: Scores) -> str:
    if scores.low is None or scores.high is None:
        return "no interval"
    return f"95 %: {number(scores.low)} to {number(scores.high)}"
