"""A run that was killed and started again ends with the bits of one that was not; other folders are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_process import assert_equal_bits, site, train
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.federation.site import Site


class Killed(Exception):
    """Stands for a process that dies."""


class Dying:
    """A site that dies in the middle of training a given round, once, after its weights have changed."""

    def __init__(self, inner: Site, round: int) -> None:
        self.name = inner.name
        self.inner = inner
        self.round = round

    def handle(self, instruction: Instruction) -> Reply:
        if instruction.kind == "train" and instruction.round == self.round:
            self.inner._on_step = lambda what: die  # type: ignore[method-assign]
        return self.inner.handle(instruction)


def die(done: int, total: int) -> None:
    raise Killed


@pytest.mark.parametrize("round_", [1, 3, 4])
def test_killed_while_training_and_resumed_equals_uninterrupted(round_: int, tmp_path: Path) -> None:
    """Invariant 3 in one process: the site dies between two steps; the run is started again on the same folder."""
    task = make_task((2, 2), validate_every=1)
    data = {name: make_data(name, seed=seed, validation=3) for seed, name in enumerate(("a", "b"))}
    whole = train(task, data, tmp_path / "whole")
    out = tmp_path / "killed"
    sites: list[Any] = [site(name, own, task, out) for name, own in data.items()]
    with pytest.raises(Killed):
        run_federation(task, LocalSites([sites[0], Dying(sites[1], round_)]), out)
    assert Checkpoints(out / "checkpoints").rounds()[-1] == round_ - 1
    assert_equal_bits(train(task, data, out), whole)


@pytest.mark.parametrize("moment", ["aggregate", "save"])
def test_server_killed_and_resumed_equals_uninterrupted(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies after the sites have trained: their later state must not leak into the repeated round."""
    task = make_task((2, 2), federation=FederationSettings(aggregator=PluginSettings("momentum", {"momentum": 0.5})))
    data = {name: make_data(name, seed=seed) for seed, name in enumerate(("a", "b"))}
    whole = train(task, data, tmp_path / "whole")
    place = {
        "aggregate": "adamss_fl.federation.rounds.GroupedAggregation.aggregate",
        "save": "adamss_fl.federation.checkpoint.Path.rename",
    }[moment]
    with monkeypatch.context() as patch:
        calls = 0
        module, _, name = place.rpartition(".")
        owner, _, attribute = module.rpartition(".")
        target = getattr(__import__(owner, fromlist=[attribute]), attribute)
        original = getattr(target, name)

        def dying(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Killed
            return original(*arguments, **keywords)

        patch.setattr(target, name, dying)
        with pytest.raises(Killed):
            train(task, data, tmp_path / "killed")
    assert_equal_bits(train(task, data, tmp_path / "killed"), whole)


def test_a_folder_of_another_run_is_refused_and_a_finished_one_returned(tmp_path: Path) -> None:
    task, data = make_task((1, 1)), {"a": make_data("a")}
    sites = LocalSites([site("a", data["a"], task, tmp_path)])
    first = run_federation(task, sites, tmp_path)
    assert run_federation(task, sites, tmp_path) == first
    with pytest.raises(InputError, match="other settings"):
        run_federation(replace(task, seed=9), sites, tmp_path)


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The run goes on from the newest whole one, and ends with the same bits."""
    task, data = make_task((2, 1)), {"a": make_data("a")}
    whole = train(task, data, tmp_path)
    (tmp_path / "metrics.json").unlink()
    model = tmp_path / "checkpoints" / "round-0003" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    assert_equal_bits(train(task, data, tmp_path), whole)
