"""Sites of a deployed federation: known by registered name and key, coming and going."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.proto.node_pb2 import NodeInfo
from in_process_grid import InProcessGrid

from adamss_fl.errors import AdamssError
from adamss_fl.federation.messages import Absence, Instruction, Reply
from client.app import client_app
from server.grid_sites import GridSites

SITES = ("north", "south", "west")
KEYS = {name: f"key of {name}".encode() for name in SITES}
TRAIN = Instruction("train", "run-1", 1, 1, {}, {"w": np.arange(3, dtype=np.float32)})


class Site:
    def __init__(self, name: str) -> None:
        self.name = name

    def handle(self, told: Instruction) -> Reply:
        return Reply(told.kind, self.name, told.run, told.round, told.attempt, {"patients": 7}, told.weights)


class RegisteredGrid(InProcessGrid):
    """Nodes with the name and key that the SuperLink has on record."""

    registered: dict[int, tuple[str, bytes]]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=name, public_key=key)
            for node, (name, key) in self.registered.items()
            if node not in self.offline
        ]


@pytest.fixture
def grid(tmp_path: Path) -> RegisteredGrid:
    (tmp_path / "c.yaml").touch()
    names = dict(enumerate(SITES))
    app = client_app(
        str(tmp_path / "c.yaml"),
        str(tmp_path / "out"),
        lambda _, name: Site(name),
        lambda _, node: names[node["partition-id"]],  # type: ignore[index]
    )
    found = RegisteredGrid(app, len(SITES))
    found.registered = {number + 1: (name, KEYS[name]) for number, name in enumerate(SITES)}
    return found


def test_sites_are_known_without_asking_them(grid: RegisteredGrid) -> None:
    sites = GridSites(grid, SITES, 0.1, KEYS, quorum=3)
    assert sites.names == SITES
    assert grid.sent == []
    collected = sites.broadcast(TRAIN, 2.0)
    assert [reply.site for reply in collected.replies] == list(SITES)
    assert collected.absences == ()


def test_a_site_that_goes_is_absent_by_name_and_takes_part_again_when_it_is_back(grid: RegisteredGrid) -> None:
    sites = GridSites(grid, SITES, 0.1, KEYS, quorum=2)
    grid.offline = {2}
    collected = sites.broadcast(TRAIN, 2.0)
    assert [reply.site for reply in collected.replies] == ["north", "west"]
    assert collected.absences == (Absence("south", "unreachable"),)
    assert sites.names == SITES
    grid.offline = set()
    assert [reply.site for reply in sites.broadcast(TRAIN, 2.0).replies] == list(SITES)


def test_a_site_that_was_away_at_the_start_joins_later(grid: RegisteredGrid) -> None:
    grid.offline = {3}
    sites = GridSites(grid, SITES, 0.1, KEYS, quorum=2)
    assert len(sites.broadcast(TRAIN, 2.0).replies) == 2
    grid.offline = set()
    assert len(sites.broadcast(TRAIN, 2.0).replies) == 3


@pytest.mark.parametrize(
    "stranger", [("west", b"another key"), ("west", b""), ("east", KEYS["west"]), ("", KEYS["west"])]
)
def test_a_node_with_another_key_or_name_is_no_site(grid: RegisteredGrid, stranger: tuple[str, bytes]) -> None:
    grid.registered[3] = stranger
    sites = GridSites(grid, SITES, 0.1, KEYS, quorum=2)
    collected = sites.broadcast(TRAIN, 2.0)
    assert [reply.site for reply in collected.replies] == ["north", "south"]
    assert collected.absences == (Absence("west", "unreachable"),)
    assert {message.metadata.src_node_id for message in grid.sent} == {1, 2}


def test_a_site_that_answers_under_another_name_is_refused(grid: RegisteredGrid) -> None:
    grid.registered[1], grid.registered[2] = grid.registered[2], grid.registered[1]
    collected = GridSites(grid, SITES, 0.1, KEYS, quorum=3).broadcast(TRAIN, 2.0)
    assert [reply.site for reply in collected.replies] == ["west"]
    assert {absence.cause for absence in collected.absences} == {"refused_reply"}


def test_too_few_sites_are_named(grid: RegisteredGrid) -> None:
    grid.offline = {1, 3}
    with pytest.raises(AdamssError, match="1 of the 2 sites needed are connected; missing: north, west"):
        GridSites(grid, SITES, 0.1, KEYS, quorum=2)
