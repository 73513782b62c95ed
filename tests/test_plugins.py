"""The registry of extension points, and the contract that every registered plugin keeps."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, Literal

import pytest

from adamss_fl import plugins
from adamss_fl.errors import InputError
from adamss_fl.plugins import POINTS, PluginInfo, create, installed

BUILT_IN = {
    "cohort_layout": {"hecktor2022", "npz"},
    "aggregator": {"average", "momentum", "moments", "flower"},
    "tracker": {"csv", "mlflow"},
    "augmentation": {"affine", "flip", "crop"},
    "feature_extractor": {"pyradiomics"},
}
VERBS = {
    "cohort_layout": (),
    "aggregator": ("aggregate", "state", "load_state"),
    "tracker": ("start", "log", "finish"),
    "augmentation": ("__call__",),
    "feature_extractor": ("names", "__call__"),
}
"""What an object made at each point can do."""
WITH_ARGUMENT = {"flower": "flower:FedAvg"}
"""Plugins that are made by a name after a colon."""
NEEDS: dict[str, dict[str, Any]] = {"crop": {"size": [16, 32, 16]}}
"""Settings that have no default."""

EVERY = [pytest.param(point, info, id=f"{point}-{info.name}") for point in POINTS for info in installed(point)]


@pytest.mark.parametrize("point", POINTS)
def test_the_built_in_plugins_are_registered_like_any_other(point: str) -> None:
    assert {info.name for info in installed(point)} >= BUILT_IN[point]


@pytest.mark.parametrize(("point", "info"), EVERY)
def test_a_plugin_describes_itself_in_one_line(point: str, info: PluginInfo) -> None:
    assert 10 <= len(info.description) <= 160
    assert "does not load" not in info.description
    assert info.point == point
    assert info.distribution.split()[0]


@pytest.mark.parametrize(("point", "info"), EVERY)
def test_a_plugin_can_be_made_and_has_the_verbs_of_its_point(point: str, info: PluginInfo) -> None:
    made = create(point, WITH_ARGUMENT.get(info.name, info.name), NEEDS.get(info.name, {}))
    assert all(callable(getattr(made, verb, None)) for verb in VERBS[point])


@pytest.mark.parametrize(("point", "info"), EVERY)
def test_a_plugin_refuses_a_setting_it_has_not(point: str, info: PluginInfo) -> None:
    with pytest.raises(InputError, match="no_such_setting"):
        create(point, WITH_ARGUMENT.get(info.name, info.name), {"no_such_setting": 1})


# --- the registry itself, over plugins of our own -------------------------------------------------


@dataclass(frozen=True)
class Wobble:
    """Wobbles the weights.

    More about wobbling.
    """

    amount: float = 0.5
    axes: tuple[int, ...] = (0, 1)
    mode: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ValueError("amount must be 0 or more")


def named(strategy: str, **settings: float) -> tuple[str, dict[str, float]]:
    """Takes a name after the colon."""
    return strategy, settings


def needy(folder: str) -> str:
    """Refuses every folder."""
    raise InputError(f"{folder} is no folder; name another")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plugins above are installed."""
    group = "adamss_fl.aggregator"
    entries = [
        EntryPoint("wobble", f"{__name__}:Wobble", group),
        EntryPoint("named", f"{__name__}:named", group),
        EntryPoint("needy", f"{__name__}:needy", group),
        EntryPoint("gone", "no_such_module_anywhere:Gone", group),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(entries).select(group=group))


@pytest.mark.usefixtures("ours")
def test_settings_reach_the_plugin_with_their_declared_types() -> None:
    made = create("aggregator", "wobble", {"amount": 1, "axes": [2], "mode": "hard"})
    assert made == Wobble(1.0, (2,), "hard")
    assert isinstance(made.amount, float)


@pytest.mark.usefixtures("ours")
def test_what_follows_the_colon_is_the_first_argument() -> None:
    assert create("aggregator", "named:FedAdam", {"eta": 0.1}) == ("FedAdam", {"eta": 0.1})


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("wobbel", {}, "here: unknown aggregator 'wobbel'; did you mean 'wobble'?"),
        ("zzz", {}, "here: unknown aggregator 'zzz'; known aggregator plugins: gone, named, needy, wobble"),
        ("wobble", {"amuont": 1.0}, "here: aggregator 'wobble' has no setting 'amuont'; did you mean 'amount'?"),
        ("wobble", {"amount": "1"}, "here: wobble.amount: must be a valid number, not '1'"),
        ("wobble", {"amount": True}, "here: wobble.amount: must be a valid number, not True"),
        ("wobble", {"axes": [1.5]}, "here: wobble.axes: must be a valid integer"),
        ("wobble", {"mode": "loud"}, "here: wobble.mode: must be 'soft' or 'hard', not 'loud'"),
        ("wobble", {"amount": -1}, "here: aggregator 'wobble': amount must be 0 or more"),
        ("named", {}, "here: aggregator 'named' needs 'strategy'; write it as 'named:<strategy>'"),
        ("named:", {}, "here: aggregator 'named' takes a name after the colon"),
        ("needy:/tmp", {}, "here: /tmp is no folder; name another"),
        ("gone", {}, "here: the aggregator 'gone' of an unnamed distribution does not load"),
    ],
)
def test_a_mistake_names_its_place_and_the_way_out(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        create("aggregator", name, settings, where="here")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("ours")
def test_the_listing_tells_settings_types_and_defaults() -> None:
    found = {info.name: info for info in installed("aggregator")}
    assert list(found) == ["gone", "named", "needy", "wobble"]
    assert found["wobble"].description == "Wobbles the weights."
    assert found["wobble"].settings["amount"] == "float = 0.5"
    assert found["named"].settings == {"strategy": "str", "...": "passed on"}


@pytest.mark.usefixtures("ours")
def test_a_plugin_that_does_not_load_hides_no_other() -> None:
    assert "no_such_module_anywhere" in installed("aggregator")[0].description


def test_two_plugins_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("x", f"{__name__}:{target}", "adamss_fl.tracker") for target in ("Wobble", "named")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(entries))
    with pytest.raises(InputError, match="registered twice"):
        installed("tracker")


def test_an_unknown_point_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'tracker'"):
        installed("trakcer")
