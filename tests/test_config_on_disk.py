"""Any configuration that can be made comes back from the disk as it was."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adamss_fl.cohort.settings import CohortSettings, SplitSettings
from adamss_fl.config import dump_config, load_config
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PlanSettings, PluginSettings
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.model.settings import ModelSettings
from adamss_fl.run_config import RunConfig
from adamss_fl.training.settings import RuntimeSettings, StageSettings, StagesSettings

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
