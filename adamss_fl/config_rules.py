"""What a configuration must hold beyond its types: ranges, and keys that depend on each other."""

import re
import typing
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from adamss_fl import plugins
from adamss_fl.federation.aggregation import LOCAL
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import PluginSettings, StageName
from adamss_fl.federation.transfer import reset_groups
from adamss_fl.model import GROUPS
from adamss_fl.run_config import RunConfig
from adamss_fl.yaml_source import Document, Key

STRIDE = 16
"""The network halves each side four times."""

STAGES = typing.get_args(StageName)

SITE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _at_least(least: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= least, f"must be {least} or more"


_POSITIVE = (lambda value: value > 0, "must be more than 0")
_FRACTION = (lambda value: 0 <= value < 1, "must be 0 or more and less than 1")
_NOT_EMPTY = (lambda value: bool(value.strip()), "must not be empty")

RANGES: tuple[tuple[str, tuple[Callable[[Any], bool], str]], ...] = (
    ("name", _NOT_EMPTY),
    ("seed", _at_least(0)),
    ("split.seed", _at_least(0)),
    ("model.width", _at_least(1)),
    ("model.norm_groups", _at_least(1)),
    ("model.bins", _at_least(1)),
    ("model.tabular", (lambda length: length == 0, "must be 0: the run sets it from the keys under `tabular`")),
    ("model.dropout", _FRACTION),
    *(
        (f"stages.{stage}.{key}", rule)
        for stage in STAGES
        for key, rule in (
            ("learning_rate", _POSITIVE),
            ("drops", (lambda factors: min(factors) > 0, "must be two factors of more than 0")),
            ("batch_size", _at_least(1)),
            ("weight_decay", _at_least(0)),
            ("l2", _at_least(0)),
            ("clip_norm", _at_least(0)),
            ("proximal_mu", _at_least(0)),
        )
    ),
    ("plan.segmentation_rounds", _at_least(0)),
    ("plan.survival_rounds", _at_least(0)),
    ("federation.min_sites", _at_least(1)),
    ("federation.deadline_seconds", _at_least(0)),
    ("federation.attempts", _at_least(1)),
    ("federation.max_change", _at_least(0)),
    ("federation.min_cell", _at_least(1)),
    ("runtime.threads", _at_least(1)),
    ("evaluation.bootstrap", _at_least(1)),
    ("evaluation.every", _at_least(0)),
    ("evaluation.risk_groups", _at_least(2)),
)
"""Each key with its test and what a value that fails it should be; imaging and split settings check themselves."""


def check(config: "RunConfig", document: Document) -> None:
    """Raise InputError for the first rule that ``config`` breaks, naming the place in ``document``."""
    for dotted, (holds, rule) in RANGES:
        key = tuple(dotted.split("."))
        value: Any = config
        for part in key:
            value = getattr(value, part)
        if not holds(value):
            raise document.error(key, f"{rule}, not {value!r}")
    _check_sites(config, document)
    _check_time_bins(config, document)
    _check_norm(config, document)
    _check_plan(config, document)
    _check_selection(config, document)
    _check_plugins(config, document)
    _check_tabular(config, document)


def _check_sites(config: "RunConfig", document: Document) -> None:
    if not config.sites:
        raise document.error(("sites",), "name at least one site with its 'name' and 'path'")
    seen: set[str] = set()
    for number, site in enumerate(config.sites):
        key: Key = ("sites", number, "name")
        if not SITE_NAME.fullmatch(site.name):
            raise document.error(key, f"use 1 to 64 letters, digits, '.', '_' and '-', not {site.name!r}")
        if site.name in seen or site.name in (".", ".."):
            raise document.error(key, f"{site.name!r} cannot be used here; every site needs a name of its own")
        seen.add(site.name)
        if not document.data["sites"][number]["path"]:
            raise document.error(("sites", number, "path"), "give the folder of the site's patients")
    if config.federation.min_sites > len(config.sites):
        raise document.error(
            ("federation", "min_sites"),
            f"a quorum of {config.federation.min_sites} cannot be reached by {len(config.sites)} site(s)",
        )


def _check_time_bins(config: "RunConfig", document: Document) -> None:
    edges, bins = config.stages.edges_days, config.model.bins
    if not edges:
        return
    key: Key = ("stages", "edges_days")
    if len(edges) != bins + 1:
        raise document.error(key, f"{bins} bins (model.bins) have {bins + 1} edges, not {len(edges)}")
    if edges[0] != 0 or any(high <= low for low, high in pairwise(edges)):
        raise document.error(key, f"must begin with 0 and grow from edge to edge, not {list(edges)}")


def _check_norm(config: "RunConfig", document: Document) -> None:
    """A norm needs two values or more per channel on the deepest map, whose sides are those of the grid over 16.

    In training they are those of the smallest crop.
    """
    crops = [list(plugin.settings.get("size", ())) for plugin in config.augmentation if plugin.name == "crop"]
    smallest = [STRIDE] * 3
    if list(config.imaging.grid) != smallest and smallest not in crops:
        return
    where = "a grid" if list(config.imaging.grid) == smallest else "a crop"
    if config.model.norm != "batch":
        raise document.error(("model", "norm"), f"{config.model.norm} norm needs {where} of more than 16 x 16 x 16")
    for stage in STAGES:
        if getattr(config.stages, stage).batch_size == 1:
            raise document.error(
                ("stages", stage, "batch_size"), f"batch norm on {where} of 16 x 16 x 16 needs batches of 2 or more"
            )


def _check_plan(config: "RunConfig", document: Document) -> None:
    plan = config.plan
    if plan.blocks and plan.preset is not None:
        raise document.error(("plan", "preset"), f"write 'preset: null' beside blocks, not {plan.preset!r}")
    if plan.preset is not None and (plan.epochs is None) == (plan.steps is None):
        raise document.error(
            ("plan", "steps" if plan.steps is not None else "epochs"),
            "give either epochs or steps, and null for the other",
        )
    if plan.preset == "per-round" and plan.segmentation_rounds != plan.survival_rounds:
        raise document.error(
            ("plan", "survival_rounds"),
            f"under 'per-round' both stages have the same rounds: {plan.survival_rounds} is not "
            f"segmentation_rounds {plan.segmentation_rounds}",
        )
    try:
        rounds = RoundPlan(plan.resolved())
        rounds.stage_lengths()
    except ValueError as error:
        raise document.error(("plan",), str(error)) from error
    _check_transfer(config, rounds, document)


def _check_transfer(config: "RunConfig", plan: RoundPlan, document: Document) -> None:
    """What stage II is not to inherit must pass through the server between the stages."""
    transfer, key = config.stages.transfer, ("stages", "transfer")
    if transfer == "full":
        return
    if not plan.first_survival_round():
        raise document.error(
            key, f"{transfer!r} needs a plan whose stage II begins in a round of its own after stage I; use 'full'"
        )
    kept = [group for group in reset_groups(transfer) if config.federation.groups.get(group, _SHARED).name == LOCAL]
    if kept:
        raise document.error(key, f"{transfer!r} cannot set {kept[0]} back while federation.groups.{kept[0]} is local")


_SHARED = PluginSettings("average")


def _check_selection(config: "RunConfig", document: Document) -> None:
    """A round is chosen by what validation patients say of its whole model, which must be at the server."""
    if config.evaluation.select == "last":
        return
    key: Key = ("evaluation", "select")
    for needed, value in (("split.validation", config.split.validation), ("evaluation.every", config.evaluation.every)):
        if not value:
            raise document.error(key, f"'best_validation' needs validation figures; set {needed} above 0")
    if not RoundPlan(config.plan.resolved()).last_round_of("survival"):
        raise document.error(key, "'best_validation' needs a plan that trains survival; use 'last'")
    kept = [group for group, rule in config.federation.groups.items() if rule.name == LOCAL]
    if kept:
        raise document.error(
            key, f"'best_validation' cannot be while federation.groups.{kept[0]} is local: sites keep their last parts"
        )


def _check_plugins(config: "RunConfig", document: Document) -> None:
    """Build every plugin once, so that a wrong name or setting shows now and not in the middle of a run."""
    for number, site in enumerate(config.sites):
        _create("cohort_layout", PluginSettings(site.layout), document, ("sites", number, "layout"))
    for number, plugin in enumerate(config.augmentation):
        _create("augmentation", plugin, document, ("augmentation", number))
    for number, plugin in enumerate(config.trackers):
        _create("tracker", plugin, document, ("trackers", number))
    if (radiomics := config.tabular.radiomics) is not None:
        extractor = PluginSettings(radiomics.extractor, radiomics.settings)
        _create("feature_extractor", extractor, document, ("tabular", "radiomics", "extractor"))
    _create("aggregator", config.federation.aggregator, document, ("federation", "aggregator"))
    for group, plugin in config.federation.groups.items():
        key: Key = ("federation", "groups", group)
        if group not in GROUPS:
            raise document.error(key, f"unknown parameter group; {plugins.suggest(group, GROUPS, 'groups')}")
        if plugin.name != LOCAL:
            _create("aggregator", plugin, document, key)
        elif plugin.settings:
            raise document.error(key, f"'{LOCAL}' has no settings")


def _check_tabular(config: "RunConfig", document: Document) -> None:
    """Every site's layout has the clinical columns, and radiomics have a finished stage I to take their masks from."""
    for number, column in enumerate(config.tabular.clinical):
        for site in config.sites:
            known = plugins.create("cohort_layout", site.layout).clinical
            if column.name not in known:
                raise document.error(
                    ("tabular", "clinical", number, "name"),
                    f"the layout {site.layout} has no column {column.name!r}; "
                    f"{plugins.suggest(column.name, known, 'columns')}",
                )
    radiomics = config.tabular.radiomics
    if radiomics is None:
        return
    key: Key = ("tabular", "radiomics")
    plan = RoundPlan(config.plan.resolved())
    if not plan.first_survival_round() == plan.last_round_of("segmentation") + 1 > 1:
        raise document.error(
            key,
            "features come from the masks of a finished stage I: let segmentation rounds precede survival rounds",
        )


def _create(point: str, plugin: PluginSettings, document: Document, key: Key) -> None:
    plugins.create(point, plugin.name, plugin.settings, document.where(key))
