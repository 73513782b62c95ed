"""Cross-validation of centralized training: every fold a run of its own, resumable, and their figures in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamss_fl import __version__
from adamss_fl.assembly import (
    in_processes,
    keep_config,
    load_all_data,
    refuse_other_run,
    run_centralized,
    workers_of,
)
from adamss_fl.config import task_of
from adamss_fl.errors import InputError
from adamss_fl.evaluation.compare import POOLED, centralized, hash_of_patients, pool
from adamss_fl.evaluation.cross_validation import (
    SUMMARY,
    FoldData,
    describe_scheme,
    fold_folder,
    folds_file,
    held_out_predictions,
    is_cross_validated,
    make_folds,
    members_of_run,
    read_identity,
)
from adamss_fl.evaluation.ensemble import predict_together
from adamss_fl.evaluation.fold_scores import out_of_fold_table, summarize
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.files import write_atomically, write_json
from adamss_fl.federation.site import Progress
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import fingerprint
from adamss_fl.imaging import Sample
from adamss_fl.run_config import RunConfig


def run_cross_validation(
    config: RunConfig,
    data: Mapping[str, SiteData],
    out: Path,
    scheme: int | str,
    progress: Progress | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train a model per fold on the other folds' patients, and judge them; returns ``cross_validation.json``'s content.

    data : patients of each site by name, pooled here. Their training and validation patients are divided into folds
    (nothing is chosen by validation figures, so none are needed); their test patients stay out of all of them and are
    judged by each fold's model and by the ensemble.
    scheme : a number of folds, stratified by event and centre, or ``centre``. jobs : folds trained at once (0: as many
    as fit the machine's cores); the bits do not depend on it.

    A finished fold is kept and an unfinished one continued. Raises InputError where the patients do not allow the
    scheme, or ``out`` holds another run, other settings or other folds.
    """
    config = _without_validation(config)
    name, own = _patients(data)
    folds = make_folds(own, scheme, config.split.seed)
    _refuse_other_folds(config, out, name, scheme, folds, own.test)
    keep_config(config, out)
    write_json(folds_file(out), _identity(config, name, scheme, folds, own.test))
    missing = [fold for fold in folds if not _is_finished(fold_folder(out, fold.number))]
    workers = workers_of(config, jobs)
    if min(workers, len(missing)) > 1:
        only = None if name == POOLED else name
        todo = [(config, out, scheme, only, fold.number) for fold in missing]
        in_processes(_train_alone, todo, workers, "folds", progress)
    else:
        for fold in missing:
            _train_fold(config, name, fold, out, progress)
    plain = [fold.plain for fold in folds]
    held_out = held_out_predictions(out, plain)
    test, together = _predict_test(config, out, own.test, progress)
    evaluation = config.evaluation
    judged = summarize(plain, held_out, test, together, evaluation.risk_groups, evaluation.bootstrap, config.seed)
    result = {
        "config_name": config.name,
        "version": __version__,
        "plan": task_of(config).plan.describe(),
        "scheme": describe_scheme(scheme, len(folds)),
        "seed": config.seed,
        "split_seed": config.split.seed,
        "bootstrap": evaluation.bootstrap,
        **judged,
    }
    write_atomically(out / "out_of_fold.csv", out_of_fold_table(held_out, evaluation.risk_groups).encode())
    write_json(out / SUMMARY, result)
    write_json(out / "metrics.json", _metrics(config, name, result))
    return result


def _without_validation(config: RunConfig) -> RunConfig:
    """The configuration without a validation part, so that its patients are divided into folds like all others."""
    return replace(config, split=replace(config.split, validation=0.0))


def _patients(data: Mapping[str, SiteData]) -> tuple[str, SiteData]:
    """The one site's patients, or all sites' pooled, under the name they are trained by."""
    return next(iter(data.items())) if len(data) == 1 else (POOLED, pool(data))


def _train_fold(config: RunConfig, name: str, fold: FoldData, out: Path, progress: Progress | None) -> None:
    """Both stages on the other folds' patients, and predictions of the fold's own, as a centralized run."""
    report = None
    if progress is not None:

        def report(what: str, done: int, total: int) -> None:
            progress(f"fold {fold.number}: {what}", done, total)

    run_centralized(config, {name: fold.data}, fold_folder(out, fold.number), report)


def _train_alone(job: tuple[RunConfig, Path, int | str, str | None, int]) -> str:
    """Train one fold in a process of its own, which loads the prepared patients by itself."""
    config, out, scheme, only, number = job
    name, own = _patients(load_all_data(config, out, only=only))
    fold = make_folds(own, scheme, config.split.seed)[number - 1]
    _train_fold(config, name, fold, out, None)
    return fold.label


def _is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").exists() and (folder / "predictions.npz").exists()


def _predict_test(
    config: RunConfig, out: Path, samples: Sequence[Sample], progress: Progress | None
) -> tuple[list[Predictions], Predictions | None]:
    """Every fold's model on the test patients, kept with the fold, and the ensemble's, kept with the run."""
    if not samples:
        return [], None
    found, together = predict_together(members_of_run(centralized(task_of(config)), out), samples, progress)
    for number, model in enumerate(found, start=1):
        model.save(fold_folder(out, number) / "test_predictions.npz")
    together.save(out / "predictions.npz")
    return found, together


def _identity(
    config: RunConfig, name: str, scheme: int | str, folds: Sequence[FoldData], test: Sequence[Sample]
) -> dict[str, Any]:
    """All that decides a cross-validation: task, site, folds with the hashes of their patients, and test patients."""
    return {
        "scheme": scheme,
        "site": name,
        "fingerprint": fingerprint(centralized(task_of(config)), (name,)),
        "test_patients": len(test),
        "test_patients_sha256": hash_of_patients(test),
        "folds": [fold.plain for fold in folds],
    }


def _refuse_other_folds(
    config: RunConfig,
    out: Path,
    name: str,
    scheme: int | str,
    folds: Sequence[FoldData],
    test: Sequence[Sample],
) -> None:
    """Raise InputError, before anything is written, where ``out`` holds something else than this cross-validation."""
    if not is_cross_validated(out):
        if (out / "arms").exists() or (out / "checkpoints").exists():
            raise InputError(f"{out}: holds a run that is no cross-validation; give another --out")
        return
    kept = read_identity(out)
    asked = _identity(config, name, scheme, folds, test)
    for key, what in (("scheme", "folds"), ("site", "patients"), ("fingerprint", "settings")):
        if kept.get(key) != asked[key]:
            raise InputError(f"{out}: holds a cross-validation of other {what}; give another --out or the same {what}")
    if kept != asked:
        raise InputError(f"{out}: holds a cross-validation of other patients; give another --out or the same patients")
    for fold in folds:
        refuse_other_run(fold_folder(out, fold.number), centralized(task_of(config)), (name,), config)


def _metrics(config: RunConfig, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What a script reads of any run, for the cross-validation as a whole."""
    within, test = result["out_of_fold"]["within_folds"], result["test"]
    return {
        "name": config.name,
        "version": __version__,
        "seed": config.seed,
        "plan": result["plan"],
        "rounds": len(task_of(config).plan.rounds),
        "sites": [name],
        "folds": len(result["folds"]),
        "scheme": result["scheme"],
        "c_index": within["c_index"],
        "c_index_pairs": "out of fold, within folds",
        "comparable_pairs": within["comparable_pairs"],
        "c_index_over_folds": result["over_folds"]["c_index"],
        "c_index_all_out_of_fold_pairs": result["out_of_fold"]["all_pairs"],
        "dsc": result["out_of_fold"]["dsc"],
        "test": {"patients": 0} if test is None else test["ensemble"],
    }
