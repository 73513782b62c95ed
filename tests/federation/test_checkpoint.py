"""Checkpoints are whole or absent, whatever moment the process dies at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.federation import checkpoint as module
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.files import write_atomically, write_json


def made(round_: int, value: float | None = None) -> Checkpoint:
    weights = {
        "a": np.full((2, 3), round_ if value is None else value, dtype=np.float32),
        "count": np.array([round_], dtype=np.int64),
    }
    return Checkpoint(round_, weights, {"default/a": np.full(3, 1 / 3)}, {"run": "r", "edges_days": [0.0, 0.1]})


class Killed(BaseException):
    """Stands for a process that dies: nothing catches it."""


def die(*_: Any, **__: Any) -> None:
    raise Killed


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(made(3))
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert (found.round, found.state) == (3, made(3).state)
    for left, right in ((found.weights, made(3).weights), (found.aggregator, made(3).aggregator)):
        assert left.keys() == right.keys()
        assert all(left[name].dtype == right[name].dtype and (left[name] == right[name]).all() for name in left)


def test_a_scalar_is_kept_as_one_number_and_no_state_as_none(tmp_path: Path) -> None:
    scalar = Checkpoint(0, {"s": np.array(2.5, dtype=np.float32)}, {}, {})
    folder = Checkpoints(tmp_path).save(scalar)
    found = Checkpoints(tmp_path).load(0)
    assert found.weights["s"].shape == (1,)
    assert found.aggregator == {}
    assert not (folder / "aggregator.safetensors").exists()


@pytest.mark.parametrize("moment", ["write_atomically", "Path.rename", "sync_folder"])
def test_killed_while_saving_leaves_the_old_checkpoint_or_the_whole_new_one(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between writing and renaming the old one is the truth; after the rename the new one is, and it is whole."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(made(1))
    with monkeypatch.context() as patch:
        target, _, name = moment.rpartition(".")
        patch.setattr(getattr(module, target) if target else module, name, die)
        with pytest.raises(Killed):
            checkpoints.save(made(2))
    found = checkpoints.newest()
    assert found is not None
    assert found.round == (2 if moment == "sync_folder" else 1)
    assert (found.weights["a"] == found.round).all()
    checkpoints.save(made(2))
    assert checkpoints.rounds() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0001", "round-0002"]


@pytest.mark.parametrize("name", ["model.safetensors", "aggregator.safetensors", "state.json"])
@pytest.mark.parametrize("spoil", ["truncate", "alter", "remove", "empty"])
def test_a_torn_checkpoint_is_refused_by_name_and_passed_over(name: str, spoil: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for round_ in (1, 2):
        checkpoints.save(made(round_))
    path = tmp_path / "round-0002" / name
    data = bytearray(path.read_bytes())
    if spoil == "remove":
        path.unlink()
    elif spoil == "alter" and name != "state.json":
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"" if spoil == "empty" else data[:-5])
    with pytest.raises(InputError, match="round-0002"):
        checkpoints.load(2)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.round == 1


@pytest.mark.parametrize("change", [{"sha256": {}}, {"sha256": None}, {"state": None}])
def test_a_state_file_without_its_facts_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(made(1)) / "state.json"
    state = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in state.items() if key != "state" or value is not None}))
    with pytest.raises(InputError, match="round-0001"):
        Checkpoints(tmp_path).load(1)


def test_pruning_keeps_the_newest_and_the_pinned(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for round_ in range(7):
        checkpoints.save(made(round_), pin=round_ in (0, 3))
    assert checkpoints.rounds() == [0, 3, 5, 6]
    assert all((checkpoints.load(round_).weights["a"] == round_).all() for round_ in checkpoints.rounds())


def test_a_round_saved_again_replaces_the_first(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        Checkpoints(tmp_path).save(made(4, value))
    assert (Checkpoints(tmp_path).load(4).weights["a"] == 2.0).all()


def test_an_absent_folder_holds_no_checkpoint_and_is_not_made(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.newest() is None
    assert checkpoints.rounds() == []
    with pytest.raises(InputError, match="no whole checkpoint"):
        checkpoints.load(1)
    assert not (tmp_path / "none").exists()


def test_nan_in_the_facts_is_refused_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(made(1))
    with pytest.raises(ValueError, match="JSON"):
        Checkpoints(tmp_path).save(Checkpoint(2, made(2).weights, {}, {"c": float("nan")}))
    assert Checkpoints(tmp_path).rounds() == [1]


@pytest.mark.parametrize("moment", ["os.fsync", "Path.replace"])
def test_a_file_is_the_old_one_until_the_new_one_is_whole(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync" if moment == "os.fsync" else "pathlib.Path.replace", die)
        with pytest.raises(Killed):
            write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new and longer")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"new and longer")]


def test_json_files_hold_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"c_index": float("nan")})
    assert list(tmp_path.iterdir()) == []
