"""A reply too many does not push every later reply one message behind."""

import importlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adamss_fl.cli import supernode
from adamss_fl.deployment.lean_requests import WholeRequests
from adamss_fl.deployment.long_polls import LongPolls
from adamss_fl.deployment.object_files import LOOKS, ObjectFiles
from adamss_fl.deployment.site_node import KIT_VARIABLE


class State:
    """The part of a node's state that pulling and pushing use."""

    def __init__(self) -> None:
        self.replies: list[Any] = []

    def store_message(self, message: Any) -> str:
        return str(message.metadata.message_id)

    def create_task(self, *, run_id: int) -> int:
        return 17

    def get_messages_legacy(self, is_reply: bool) -> list[Any]:
        found, self.replies = self.replies, []
        return found

    def get_message_processing_duration(self, message_id: str) -> float:
        return 0.0

    def delete_messages(self, *, message_ids: Any) -> None:
        pass


class Store:
    def get_object_tree(self, message_id: str) -> Any:
        return None

    def delete(self, message_id: str) -> None:
        pass


def message(message_id: str, reply_to: str = "") -> Any:
    metadata = SimpleNamespace(
        message_id=message_id, reply_to_message_id=reply_to, group_id="", run_id=1, message_type="train"
    )
    return SimpleNamespace(metadata=metadata)


@pytest.fixture
def internal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's module of a SuperNode, of whose functions those that are replaced are put back afterwards."""
    found: Any = importlib.import_module("flwr.supernode.start_client_internal")
    served: Any = importlib.import_module("flwr.supernode.main")
    stores: Any = importlib.import_module("flwr.supercore.object_store.object_store_factory")
    replaced = [(found, name) for name in ("_pull_and_store_message", "_push_messages", "time", "pull_objects")]
    for module, name in (*replaced, (served, "create_app"), (stores, "InMemoryObjectStore")):
        monkeypatch.setattr(module, name, getattr(module, name))
    command = importlib.import_module("flwr.supernode.cli.flower_supernode")
    monkeypatch.setattr(command, "flower_supernode", lambda: None)
    (tmp_path / "data").mkdir()
    (tmp_path / "site.yaml").write_text("path: data\nstate: state\n")
    monkeypatch.setenv(KIT_VARIABLE, str(tmp_path))
    return found


def test_what_is_sent_goes_on_until_the_message_taken_is_answered(
    internal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_push = internal._push_messages
    monkeypatch.setattr(internal, "_pull_and_store_message", lambda state, **_: pulled(state))
    supernode.main()
    state, sent, coming = State(), [], ["of a run that is over", "m2"]

    def pulled(state: Any) -> str | None:
        """As Flower does: a message of a run that is over is stored, and then not said to have been taken."""
        found: str = state.store_message(message(coming.pop(0)))
        return found if found == "m2" else None

    def send(reply: Any, *_: Any) -> tuple[set[str], str]:
        sent.append(reply.metadata.message_id)
        return set(), ""

    state.replies = [message("left over", reply_to="m1")]
    assert internal._pull_and_store_message(state=state) is None
    assert internal._pull_and_store_message(state=state) == "m2"
    late = threading.Timer(0.3, lambda: state.replies.append(message("answer", reply_to="m2")))
    late.start()
    internal._push_messages(state=state, object_store=Store(), send=send, push_object=lambda *_: None)
    late.join()
    assert sent == ["left over", "answer"]
    # As Flower does it, the left-over reply is taken for the answer.
    state.replies, sent[:] = [message("left over", reply_to="m1")], []
    original_push(state=state, object_store=Store(), send=send, push_object=lambda *_: None)
    assert sent == ["left over"]


def test_a_nodes_objects_are_in_the_sites_folder_and_its_requests_whole(internal: Any, tmp_path: Path) -> None:
    supernode.main()
    factory: Any = importlib.import_module("flwr.supercore.object_store").ObjectStoreFactory
    assert isinstance(factory().store(), ObjectFiles)
    assert (tmp_path / "state/objects").stat().st_mode & 0o777 == 0o700
    app = importlib.import_module("flwr.supernode.main").create_app()
    assert [each.cls for each in app.user_middleware[:2]] == [WholeRequests, LongPolls]


def test_a_new_task_wakes_who_asks_for_one(internal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal, "_pull_and_store_message", lambda state, **_: state.create_task(run_id=1))
    supernode.main()
    app = importlib.import_module("flwr.supernode.main").create_app()
    (bell,) = app.user_middleware[1].kwargs["held"].values()
    assert bell.rung == 0
    assert internal._pull_and_store_message(state=State()) == 17
    assert bell.rung == 1


def test_a_part_that_is_still_to_come_is_looked_for_soon(internal: Any) -> None:
    supernode.main()
    assert internal.pull_objects.keywords == LOOKS


def test_pauses_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("adamss_fl.cli.supernode.time.sleep", slept.append)
    clock = supernode._Impatient()
    clock.sleep(3)
    clock.sleep(0.6)
    assert slept == pytest.approx([0.5, 0.1])
    assert clock.monotonic() > 0
