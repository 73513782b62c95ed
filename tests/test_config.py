"""Configurations: what loads, and what is refused in which words."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from adamss_fl import yaml_source
from adamss_fl.config import load_config, task_of
from adamss_fl.errors import InputError
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PluginSettings
from adamss_fl.model.settings import ModelSettings
from adamss_fl.run_config import RunConfig
from adamss_fl.training.settings import StagesSettings

CONFIGS = Path(__file__).parents[1] / "configs"

BASE = """\
name: trial
sites:
  - {name: a, path: a}
  - {name: b, path: b}
augmentation: []
"""


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def mistake(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/")


def test_what_is_left_out_has_the_default_of_its_room(tmp_path: Path) -> None:
    config = load(tmp_path, BASE)
    assert config.model == ModelSettings()
    assert config.federation == FederationSettings()
    assert config.plan.resolved() == (
        BlockSettings(("segmentation",), 10, epochs=1),
        BlockSettings(("survival",), 10, epochs=1),
    )


def test_one_key_of_a_stage_leaves_the_stages_other_defaults(tmp_path: Path) -> None:
    """Stage II starts from 5e-5 with balanced batches, as configs/hecktor.yaml says, also where its batch is given."""
    written = load(tmp_path, BASE + "stages:\n  survival: {batch_size: 3}\n").stages
    assert written.survival == dataclasses.replace(StagesSettings().survival, batch_size=3)
    override = load(tmp_path, BASE, "stages.survival.batch_size=3", "stages.joint.learning_rate=1e-3").stages
    assert override.survival == written.survival
    assert (override.joint.learning_rate, override.joint.balanced) == (1e-3, True)
    assert (override.survival.learning_rate, override.survival.balanced) == (5e-5, True)
    assert not load(tmp_path, BASE + "stages:\n  survival: {balanced: false}\n").stages.survival.balanced
    assert not written.segmentation.balanced


def test_a_crop_that_is_too_small_for_the_norm_is_refused_before_training(tmp_path: Path) -> None:
    base = BASE.replace("augmentation: []", "augmentation: [affine, {name: crop, size: [16, 16, 16]}]")
    load(tmp_path, base)
    found = mistake(tmp_path, base + "stages: {survival: {batch_size: 1}}\n")
    assert found.startswith("x.yaml:6: stages.survival.batch_size: batch norm on a crop of 16 x 16 x 16 needs batches")
    found = mistake(tmp_path, base + "model: {norm: group}\n")
    assert found.startswith("x.yaml:6: model.norm: group norm needs a crop of more than 16 x 16 x 16")
    wide = base.replace("16, 16, 16", "16, 32, 16")
    assert load(tmp_path, wide + "stages: {survival: {batch_size: 1}}\n").stages.survival.batch_size == 1


def test_folders_are_relative_to_the_configuration_file(tmp_path: Path) -> None:
    config = load(tmp_path, BASE + "cache: ../cache\n", "sites.1.path=/elsewhere")
    assert [site.path for site in config.sites] == [str(tmp_path / "a"), "/elsewhere"]
    assert config.cache == str(tmp_path.parent / "cache")


def test_a_plugin_is_its_name_or_a_mapping_with_its_settings(tmp_path: Path) -> None:
    text = BASE + "federation:\n  aggregator: {name: momentum, momentum: 0.8}\n  groups: {norm_statistics: local}\n"
    federation = load(tmp_path, text).federation
    assert federation.aggregator == PluginSettings("momentum", {"momentum": 0.8})
    assert federation.groups == {"norm_statistics": PluginSettings("local")}


def test_overrides_are_yaml_and_win(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        BASE + "model: {width: 4}\nfederation: {aggregator: momentum}\n",
        "model.width=2",
        "stages.survival.learning_rate=1e-3",
        "imaging.grid=[32, 48, 64]",
        "federation.aggregator.momentum=0.5",
        "sites[0].name=first",
        "cache=null",
    )
    assert config.model.width == 2
    assert config.stages.survival.learning_rate == 1e-3
    assert config.imaging.grid == (32, 48, 64)
    assert config.federation.aggregator == PluginSettings("momentum", {"momentum": 0.5})
    assert config.sites[0].name == "first"


@pytest.mark.parametrize("name", ["demo.yaml", "hecktor.yaml", "reference.yaml"])
def test_the_configurations_that_we_ship_load(name: str) -> None:
    assert load_config(CONFIGS / name).name


def test_the_explained_configuration_has_every_key_there_is() -> None:
    written = yaml_source.read(CONFIGS / "hecktor.yaml").data
    config = load_config(CONFIGS / "hecktor.yaml")

    def keys(value: Any, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if dataclasses.is_dataclass(value) and not isinstance(value, PluginSettings):
            fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
            return {(*at, name) for name, _ in fields} | {k for name, inner in fields for k in keys(inner, (*at, name))}
        return set()

    def has(key: tuple[str, ...]) -> bool:
        inner: Any = written
        for part in key:
            if not isinstance(inner, dict) or part not in inner:
                return False
            inner = inner[part]
        return True

    assert [".".join(key) for key in sorted(keys(config)) if not has(key)] == []


def test_the_chosen_round_reaches_the_task(tmp_path: Path) -> None:
    assert task_of(load(tmp_path, BASE)).select == "last"
    chosen = load(tmp_path, BASE + "split: {validation: 0.2}\nevaluation: {select: best_validation}\n")
    assert task_of(chosen).select == "best_validation"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fedration: {}\n", "x.yaml:6: fedration: unknown key 'fedration'; did you mean 'federation'?"),
        (
            "federation:\n  agregator: average\n",
            "x.yaml:7: federation.agregator: unknown key 'agregator'; did you mean",
        ),
        ("plan:\n  blocks:\n    - {stage: [survival]}\n", "x.yaml:8: plan.blocks[0].stage: unknown key 'stage'; did"),
        ("model:\n  width: '2'\n", "x.yaml:7: model.width: must be a valid integer, not '2'"),
        ("model:\n  width: 2.5\n", "x.yaml:7: model.width: "),
        ("model:\n  width: true\n", "x.yaml:7: model.width: "),
        ("model:\n  width: 0\n", "x.yaml:7: model.width: must be 1 or more, not 0"),
        ("model:\n  norm: layer\n", "x.yaml:7: model.norm: must be 'batch', 'instance' or 'group'"),
        ("model:\n  dropout: 1\n", "x.yaml:7: model.dropout: must be 0 or more and less than 1"),
        ("model:\n  dropout: .nan\n", "x.yaml:7: model.dropout: must be a finite number"),
        ("model:\n  tabular: 3\n", "x.yaml:7: model.tabular: must be 0"),
        ("tabular:\n  radiomics: {extractor: x}\n", "x.yaml:7: tabular.radiomics.extractor: unknown feature_extractor"),
        (
            "tabular:\n  radiomics:\n    settings: {ct_bin_width: 0}\n",
            "x.yaml:7: tabular.radiomics.extractor: feature_extractor 'pyradiomics': ct_bin_width is 0.0",
        ),
        ("model: 3\n", "x.yaml:6: model: must be a mapping of keys to values, not 3"),
        ("imaging:\n  grid: [32, 32]\n", "x.yaml:7: imaging.grid"),
        (
            "imaging:\n  grid: [32, 32, 40]\n",
            "x.yaml:7: imaging.grid: grid is [32, 32, 40]; each side must be a positive",
        ),
        (
            "imaging:\n  grid:\n    - 32\n    - 0\n    - 32\n",
            "x.yaml:7: imaging.grid: grid is [32, 0, 32]; each side must",
        ),
        (
            "imaging:\n  spacing_mm: [1, 0, 1]\n",
            "x.yaml:7: imaging.spacing_mm: spacing_mm is [1.0, 0.0, 1.0]; each must be above 0",
        ),
        (
            "imaging:\n  ct_hu_window: [5, 5]\n",
            "x.yaml:7: imaging.ct_hu_window: ct_hu_window is [5.0, 5.0]; it must be (low, high)",
        ),
        ("imaging: {grid: [16, 16, 16]}\nmodel: {norm: instance}\n", "x.yaml:7: model.norm: instance norm needs"),
        (
            "imaging: {grid: [16, 16, 16]}\nstages: {survival: {batch_size: 1}}\n",
            "x.yaml:7: stages.survival.batch_size: batch norm",
        ),
        ("split: {test: 1.0}\n", "x.yaml:6: split.test: test is 1.0; it must be a fraction in [0, 1)"),
        ("split: {test: 0.5, validation: 0.5}\n", "x.yaml:6: split.test: test + validation is 1.0; it must be below 1"),
        ("stages:\n  survival: {learning_rate: 0}\n", "x.yaml:7: stages.survival.learning_rate: must be more than 0"),
        ("stages: {edges_days: [0, 10]}\n", "x.yaml:6: stages.edges_days: 10 bins (model.bins) have 11 edges, not 2"),
        ("stages: {edges_days: [0, 9, 9]}\nmodel: {bins: 2}\n", "x.yaml:6: stages.edges_days: must begin with 0 and"),
        ("stages:\n  joint: {drops: [0.5, 0]}\n", "x.yaml:7: stages.joint.drops: must be two factors of more than 0"),
        ("stages: {transfer: decoder}\n", "x.yaml:6: stages.transfer: must be 'full', 'encoder' or 'none'"),
        (
            "stages: {transfer: none}\nplan: {segmentation_rounds: 0}\n",
            "x.yaml:6: stages.transfer: 'none' needs a plan",
        ),
        (
            "stages: {transfer: encoder}\nplan: {preset: per-round}\n",
            "x.yaml:6: stages.transfer: 'encoder' needs a plan",
        ),
        (
            "stages: {transfer: encoder}\nfederation: {groups: {norm_statistics: local}}\n",
            "x.yaml:6: stages.transfer: 'encoder' cannot set norm_statistics back while federation.groups",
        ),
        ("plan: {steps: 5}\n", "x.yaml:6: plan.steps: give either epochs or steps"),
        ("plan: {epochs: 0}\n", "x.yaml:6: plan: block 1 of the plan must train for at least one epoch or step"),
        ("plan: {segmentation_rounds: 0, survival_rounds: 0}\n", "x.yaml:6: plan: a plan needs at least one block"),
        ("plan: {preset: per-round, survival_rounds: 3}\n", "x.yaml:6: plan.survival_rounds: under 'per-round' both"),
        (
            "plan: {blocks: [{stages: [survival], rounds: 1, epochs: 1}]}\n",
            "x.yaml:6: plan.preset: write 'preset: null'",
        ),
        (
            "plan: {preset: null, blocks: [{stages: [survival], rounds: 1}]}\n",
            "x.yaml:6: plan: block 1 of the plan must give either epochs or steps",
        ),
        ("plan: {preset: null, blocks: [{stages: [death], rounds: 1}]}\n", "x.yaml:6: plan.blocks[0].stages[0]: must"),
        ("plan: {preset: null, blocks: [{rounds: 1}]}\n", "x.yaml:6: plan.blocks[0].stages: is missing"),
        (
            "federation: {min_sites: 3}\n",
            "x.yaml:6: federation.min_sites: a quorum of 3 cannot be reached by 2 site(s)",
        ),
        ("federation: {deadline_seconds: -1}\n", "x.yaml:6: federation.deadline_seconds: must be 0 or more"),
        (
            "federation:\n  aggregator: avrage\n",
            "x.yaml:7: federation.aggregator: unknown aggregator 'avrage'; did you",
        ),
        (
            "federation:\n  aggregator:\n    name: momentum\n    momentun: 1\n",
            "x.yaml:7: federation.aggregator: aggregator 'momentum' has no setting 'momentun'; did you mean",
        ),
        ("federation:\n  aggregator: {momentum: 1}\n", "x.yaml:7: federation.aggregator: a plugin needs its 'name'"),
        ("federation:\n  aggregator: [average]\n", "x.yaml:7: federation.aggregator: write a plugin's name"),
        ("federation: {groups: {decodr: local}}\n", "x.yaml:6: federation.groups.decodr: unknown parameter group; did"),
        ("federation: {groups: {decoder: {name: local, a: 1}}}\n", "x.yaml:6: federation.groups.decoder: 'local' has"),
        ("evaluation: {risk_groups: 1}\n", "x.yaml:6: evaluation.risk_groups: must be 2 or more"),
        ("evaluation: {select: best}\n", "x.yaml:6: evaluation.select: must be 'last' or 'best_validation'"),
        (
            "evaluation: {select: best_validation}\n",
            "x.yaml:6: evaluation.select: 'best_validation' needs validation figures; set split.validation above 0",
        ),
        (
            "split: {validation: 0.2}\nevaluation: {select: best_validation, every: 0}\n",
            "x.yaml:7: evaluation.select: 'best_validation' needs validation figures; set evaluation.every above 0",
        ),
        (
            "split: {validation: 0.2}\nevaluation: {select: best_validation}\nplan: {survival_rounds: 0}\n",
            "x.yaml:7: evaluation.select: 'best_validation' needs a plan that trains survival",
        ),
        (
            "split: {validation: 0.2}\nevaluation: {select: best_validation}\n"
            "federation: {groups: {norm_statistics: local}}\n",
            "x.yaml:7: evaluation.select: 'best_validation' cannot be while federation.groups.norm_statistics is local",
        ),
        ("seed: -1\n", "x.yaml:6: seed: must be 0 or more"),
        ("trackers: [cvs]\n", "x.yaml:6: trackers[0]: unknown tracker 'cvs'; did you mean 'csv'?"),
        ("trackers: csv\n", "x.yaml:6: trackers: "),
        ("seed: 1\nseed: 2\n", "x.yaml:7: seed: the key is there twice; remove one"),
        ("model: {width: 1, width: 2}\n", "x.yaml:6: model.width: the key is there twice"),
        ("model: {width: 1\n", "x.yaml:7: not valid YAML"),
        ("model:\n  <<: {width: 1}\n", "x.yaml:7: model: merge keys"),
        ("seed: !!python/object:os.system x\n", "x.yaml:6: seed: "),
    ],
)
def test_a_mistake_is_one_line_with_file_line_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert mistake(tmp_path, BASE + text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: name: is missing"),
        ("- 1\n", "x.yaml:1: must be a mapping"),
        ("name: x\n", "x.yaml:1: sites: is missing"),
        ("name: x\nsites: []\n", "x.yaml:2: sites: name at least one site"),
        ("name: ' '\nsites: [{name: a, path: a}]\n", "x.yaml:1: name: must not be empty"),
        ("name: x\nsites:\n  - {name: a}\n", "x.yaml:3: sites[0].path: is missing"),
        ("name: x\nsites:\n  - {name: a, path: ''}\n", "x.yaml:3: sites[0].path: give the folder"),
        ("name: x\nsites:\n  - {name: a/b, path: a}\n", "x.yaml:3: sites[0].name: use 1 to 64 letters"),
        ("name: x\nsites:\n  - {name: '..', path: a}\n", "x.yaml:3: sites[0].name: '..' cannot be used"),
        ("name: x\nsites:\n  - {name: a, path: a}\n  - {name: a, path: b}\n", "x.yaml:4: sites[1].name: 'a' cannot be"),
        (
            "name: x\nsites:\n  - {name: a, path: a, layout: hector}\n",
            "x.yaml:3: sites[0].layout: unknown cohort_layout",
        ),
    ],
)
def test_sites_must_be_named_and_found(tmp_path: Path, text: str, message: str) -> None:
    assert mistake(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width", "--set model.width: write it as KEY=VALUE"),
        ("model..width=1", "--set model..width=1: write it as KEY=VALUE"),
        ("sites.7.path=x", "--set sites.7.path=x: there is no item 7"),
        ("model.wdith=1", "--set: model.wdith: unknown key 'wdith'; did you mean 'width'?"),
        ("model.width=0", "--set: model.width: must be 1 or more"),
        ("model.width={", "--set model.width={: not valid YAML"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(tmp_path: Path, override: str, message: str) -> None:
    assert mistake(tmp_path, BASE, override).startswith(message)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: there is no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)
