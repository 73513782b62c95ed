"""Configurations: what loads, what is refused and in which words, and that nothing is lost on the disk."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adamss_fl import yaml_source
from adamss_fl.cohort.settings import CohortSettings, SplitSettings
from adamss_fl.config import RunConfig, dump_config, load_config
from adamss_fl.errors import InputError
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PlanSettings, PluginSettings
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.model.settings import ModelSettings
from adamss_fl.training.settings import RuntimeSettings, StageSettings, StagesSettings

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


positive = st.floats(1e-8, 1e6)
fraction = st.floats(0, 0.49)
whole = st.integers(1, 100)
word = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
stage = st.builds(
    StageSettings,
    learning_rate=positive,
    batch_size=st.integers(2, 64),
    schedule=st.sampled_from(["one_cycle", "steps", "constant"]),
    optimizer=st.sampled_from(["adam", "sgd"]),
    weight_decay=positive,
    balanced=st.booleans(),
)
side = st.integers(2, 12).map(lambda n: 16 * n)
aggregator = st.one_of(
    st.just(PluginSettings("average")),
    st.floats(0, 0.99).map(lambda momentum: PluginSettings("momentum", {"momentum": momentum})),
)
block = st.builds(BlockSettings, stages=st.just(("survival", "segmentation")), rounds=whole, epochs=whole)
plan = st.one_of(
    st.builds(PlanSettings, segmentation_rounds=whole, survival_rounds=whole, epochs=whole),
    whole.map(lambda n: PlanSettings("per-round", n, n, None, 5)),
    st.lists(block, min_size=1, max_size=3).map(lambda blocks: PlanSettings(None, blocks=tuple(blocks))),
)
configuration = st.builds(
    RunConfig,
    name=st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()) and "\r" not in text),
    sites=st.lists(word, min_size=1, max_size=4, unique=True).map(
        lambda names: tuple(CohortSettings(name, f"/cohorts/{name}") for name in names)
    ),
    seed=st.integers(0, 2**40),
    split=st.builds(SplitSettings, test=fraction, validation=fraction, seed=whole),
    imaging=st.builds(
        ImagingSettings,
        grid=st.tuples(side, side, side),
        spacing_mm=st.tuples(positive, positive, positive),
        pet_suv_max=positive,
    ),
    augmentation=st.just(()),
    model=st.builds(ModelSettings, width=whole, norm=st.sampled_from(["batch", "instance", "group"]), dropout=fraction),
    stages=st.builds(StagesSettings, stage, stage),
    plan=plan,
    federation=st.builds(
        FederationSettings,
        deadline_seconds=positive,
        attempts=whole,
        aggregator=aggregator,
        groups=st.dictionaries(
            st.sampled_from(["decoder", "fusion_gates"]), aggregator | st.just(PluginSettings("local"))
        ),
    ),
    runtime=st.builds(RuntimeSettings, device=st.sampled_from(["auto", "cpu", "cuda"]), threads=whole),
    trackers=st.just((PluginSettings("csv"),)),
    cache=st.none() | word.map(lambda name: f"/caches/{name}"),
)


@given(configuration)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_configuration_survives_the_disk(tmp_path: Path, config: RunConfig) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=10),
    st.sampled_from(["1e3", "1_0e5", "2026-01-01", "no", "0x1f", "1:30", "null", "~", "<<", "="]),
)
key = st.text("abcdef", min_size=1, max_size=4)
tree = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=3), max_leaves=6
)
data = st.dictionaries(key, tree, max_size=4)


@given(data)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_data_survives_the_disk(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(yaml_source.dump(data), encoding="utf-8", newline="\n")
    assert yaml_source.read(path).data == data


@given(st.text(max_size=60))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_loads_or_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    error = ""
    try:
        yaml_source.read(path)
    except InputError as refused:
        error = str(refused)
    assert "\n" not in error


@given(data)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_yaml_means_what_pyyaml_says(tmp_path: Path, data: dict[str, Any]) -> None:
    """But for what is meant to differ: dates stay text, and 1e3 is a number."""
    text = yaml.safe_dump(data, allow_unicode=True)
    path = tmp_path / "safe.yaml"
    path.write_text(text, encoding="utf-8", newline="\n")

    def comparable(value: Any) -> bool:
        if isinstance(value, dict):
            return all(map(comparable, value.values()))
        if isinstance(value, list):
            return all(map(comparable, value))
        return not (isinstance(value, str) and value[:1] in tuple("+-0123456789"))

    if comparable(data):
        assert yaml_source.read(path).data == yaml.safe_load(text)
