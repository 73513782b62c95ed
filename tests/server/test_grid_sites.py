"""GridSites and the ClientApp together, over a Grid in this process."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.app.error import Error
from in_process_grid import InProcessGrid

from adamss_fl.errors import AdamssError, InputError
from adamss_fl.federation.messages import Instruction, Reply, SiteFailure
from client import records
from client.app import client_app
from server.grid_sites import GridSites

SITES = ("north", "south", "west")
SECRET = "/data/west/CHUM-001__PT.nii.gz"
TRAIN = Instruction("train", "run-1", 4, 2, {"epochs": 1}, {"w": np.arange(5, dtype=np.float32)})


class EchoSite:
    """Adds its rank to every weight."""

    def __init__(self, name: str) -> None:
        self.name = name

    def handle(self, told: Instruction) -> Reply:
        weights = {key: value + np.float32(SITES.index(self.name)) for key, value in (told.weights or {}).items()}
        return Reply(told.kind, self.name, told.run, told.round, told.attempt, {"patients": 7}, weights or None)


class FailingSite(EchoSite):
    def __init__(self, name: str, failure: Exception) -> None:
        super().__init__(name)
        self.failure = failure

    def handle(self, told: Instruction) -> Reply:
        raise self.failure


def federation(
    tmp_path: Path,
    *,
    failing: dict[str, Exception] | None = None,
    names: tuple[str, ...] = SITES,
    **grid_options: Callable,
) -> tuple[GridSites, InProcessGrid]:
    (tmp_path / "c.yaml").touch()

    def build(_, name):
        return FailingSite(name, failing[name]) if failing and name in failing else EchoSite(name)

    app = client_app(
        str(tmp_path / "c.yaml"), str(tmp_path / "out"), build, lambda _, node: names[node["partition-id"]]
    )
    grid = InProcessGrid(app, len(names), **grid_options)
    return GridSites(grid, SITES, join_seconds=0.2), grid


def test_every_site_gets_the_instruction_and_replies_come_sorted_by_name(tmp_path):
    sites, _ = federation(tmp_path, names=("west", "north", "south"))
    collected = sites.broadcast(TRAIN, 5.0)
    assert sites.names == SITES
    assert [reply.site for reply in collected.replies] == list(SITES)
    assert collected.absences == ()
    for rank, reply in enumerate(collected.replies):
        np.testing.assert_array_equal(reply.weights["w"], np.arange(5, dtype=np.float32) + rank)
        assert reply.weights["w"].dtype == np.float32
        assert reply.figures == {"patients": 7}


@pytest.mark.parametrize("kind", ["describe", "statistics", "train", "evaluate"])
def test_every_kind_of_instruction_has_its_way(tmp_path, kind):
    sites, _ = federation(tmp_path)
    assert len(sites.broadcast(Instruction(kind, "run-1", 0, 1)).replies) == 3


def test_a_silent_site_is_absent_after_the_deadline_and_the_others_count(tmp_path):
    held: list[Message] = []

    def hold(node: int, reply: Message) -> list[Message]:
        if node == 2 and reply.metadata.group_id != "hello":
            held.append(reply)
            return []
        return [reply]

    sites, grid = federation(tmp_path, meddle=hold)
    started = time.monotonic()
    collected = sites.broadcast(TRAIN, 0.3)
    assert 0.3 <= time.monotonic() - started < 2.0
    assert [reply.site for reply in collected.replies] == ["north", "west"]
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("south", "deadline")]

    grid.meddle = lambda _, reply: [reply]
    grid.arrived.append(held[0])  # the late reply comes with the next round
    later = sites.broadcast(Instruction("train", "run-1", 5, 1, {}, TRAIN.weights), 5.0)
    assert {reply.round for reply in later.replies} == {5}
    assert len(later.replies) == 3
    assert grid.arrived == []


@pytest.mark.parametrize("change", [{"run": "run-0"}, {"round": 3}, {"attempt": 1}, {"kind": "evaluate"}])
def test_a_reply_to_another_instruction_is_stale(tmp_path, change):
    def answer_another(node: int, reply: Message) -> list[Message]:
        if node == 3 and reply.metadata.group_id != "hello":
            asked = {"kind": "train", "run": "run-1", "round": 4, "attempt": 2} | change
            reply.content = records.reply_record(Reply(site="west", figures={}, **asked))
        return [reply]

    collected = federation(tmp_path, meddle=answer_another)[0].broadcast(TRAIN, 5.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("west", "stale_reply")]


def test_a_reply_that_comes_twice_counts_once(tmp_path):
    sites, _ = federation(tmp_path, meddle=lambda _, reply: [reply, reply])
    assert [reply.site for reply in sites.broadcast(TRAIN, 5.0).replies] == list(SITES)


def test_a_site_cannot_speak_for_another(tmp_path):
    def pose(node: int, reply: Message) -> list[Message]:
        if node == 1 and reply.metadata.group_id != "hello":
            reply.content = records.reply_record(Reply("train", "south", "run-1", 4, 2))
        return [reply]

    collected = federation(tmp_path, meddle=pose)[0].broadcast(TRAIN, 5.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("north", "refused_reply")]


def test_an_unreadable_reply_and_a_flower_error_are_absences_without_their_text(tmp_path):
    def spoil(node: int, reply: Message) -> list[Message]:
        if reply.metadata.group_id == "hello":
            return [reply]
        if node == 1:
            reply.content = RecordDict()
        if node == 2:
            metadata = reply.metadata
            reply = Message(Error(code=2, reason=SECRET), reply_to=reply)
            reply.metadata.__dict__["_reply_to_message_id"] = metadata.reply_to_message_id
        return [reply]

    collected = federation(tmp_path, meddle=spoil)[0].broadcast(TRAIN, 5.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [
        ("north", "refused_reply"),
        ("south", "site_error"),
    ]
    assert SECRET not in str(collected.absences)


def test_a_site_that_is_offline_is_unreachable_at_once(tmp_path):
    sites, grid = federation(tmp_path)
    grid.offline.add(1)
    collected = sites.broadcast(TRAIN, 5.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("north", "unreachable")]
    assert len(collected.replies) == 2


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (SiteFailure("batch_too_large"), "batch_too_large"),
        (SiteFailure(SECRET), "site_error"),
        (InputError(f"{SECRET}: no such file"), "bad_input"),
        (FileNotFoundError(SECRET), "site_error"),
        (ValueError(f"patient {SECRET} has a NaN"), "site_error"),
    ],
)
def test_a_failing_site_sends_a_code_and_keeps_the_reason(tmp_path, failure, code):
    sites, grid = federation(tmp_path, failing={"west": failure})
    collected = sites.broadcast(TRAIN, 5.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("west", code)]
    for message in grid.sent:
        wire = message.deflate() + b"".join(part.deflate() for part in message.content.children.values())
        assert b"CHUM-001" not in wire
        assert SECRET not in repr(message)
    assert SECRET in (tmp_path / "out/sites/west/site.log").read_text() or isinstance(failure, SiteFailure)


def test_nodes_that_are_not_the_sites_end_the_run_in_one_line(tmp_path):
    with pytest.raises(AdamssError, match="2 nodes for 3 sites"):
        federation(tmp_path, names=("north", "south"))
    with pytest.raises(AdamssError, match="two nodes give the site name north"):
        federation(tmp_path, names=("north", "north", "south"))
    with pytest.raises(AdamssError, match="no node answers for the sites west"):
        federation(tmp_path, names=("north", "south", "east"))
