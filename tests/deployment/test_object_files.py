"""Objects in files: what Flower's own stores answer, with the content elsewhere."""

import errno
import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adamss_fl.cli.flower_objects import check_object
from adamss_fl.deployment import object_files
from adamss_fl.deployment.object_files import LEAST_BYTES, ObjectFiles, from_files, into_files, read

RUN = 7
WORD = bytes(range(32))
REFUSED = "not what its ID says|unexpected structure"


def an_object(size: int, fill: bytes = b"x") -> tuple[str, bytes]:
    """ID and content of an object of Flower's."""
    flower: Any = importlib.import_module("flwr.supercore.inflatable.inflatable_object")
    chunk: Any = importlib.import_module("flwr.app.message.arraychunk").ArrayChunk
    content: bytes = chunk(memoryview(fill * size)).deflate()
    return flower.get_object_id(content), content


def tree(*ids: str) -> Any:
    """A message that refers to objects of these IDs."""
    kind: Any = importlib.import_module("flwr.proto.message_pb2").ObjectTree
    root = hashlib.sha256("".join(ids).encode()).hexdigest()
    return kind(object_id=root, children=[kind(object_id=each) for each in ids])


Stores = Callable[[], ObjectFiles]


@pytest.fixture(params=["sql", "memory"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Opens a store over files in ``tmp_path / "objects"``; that over SQLite finds what another has left."""

    def opened() -> ObjectFiles:
        store: Any
        if request.param == "sql":
            module: Any = importlib.import_module("flwr.supercore.object_store.sql_object_store")
            store = module.SqlObjectStore(str(tmp_path / "state.db"), verify=False)
            store.initialize()
        else:
            module = importlib.import_module("flwr.supercore.object_store.in_memory_object_store")
            store = module.InMemoryObjectStore(verify=False)
        return ObjectFiles(store, tmp_path / "objects", check_object, WORD)

    return opened


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "objects").iterdir()}


def test_a_large_object_is_in_a_file_and_a_small_one_is_not(stores: Stores, tmp_path: Path) -> None:
    store = stores()
    (large, content), (small, little) = an_object(LEAST_BYTES), an_object(10)
    assert store.get(large) is None
    assert set(store.preregister(RUN, tree(large, small))) == {large, small, tree(large, small).object_id}
    assert store.get(large) == b""
    store.put(large, content)
    store.put(small, little)
    assert (store.get(large), store.get(small)) == (content, little)
    assert files(tmp_path) == {large}
    assert large in store
    assert len(store) == 3
    assert store.preregister(RUN, tree(large, small)) == [tree(large, small).object_id]


def test_the_file_goes_when_the_next_objects_are_announced(stores: Stores, tmp_path: Path) -> None:
    store = stores()
    (first, content), (second, other) = an_object(LEAST_BYTES), an_object(LEAST_BYTES, b"y")
    store.preregister(RUN, tree(first))
    store.put(first, content)
    store.delete(tree(first).object_id)
    store.preregister(RUN, tree(second))
    assert files(tmp_path) == set()
    store.put(second, other)
    store.preregister(RUN, tree(second, first))
    assert files(tmp_path) == {second}


def test_an_object_that_is_not_what_its_id_says_is_refused(stores: Stores, tmp_path: Path) -> None:
    store = stores()
    (object_id, _), (_, other) = an_object(LEAST_BYTES), an_object(LEAST_BYTES, b"y")
    formless = b"no object at all" * LEAST_BYTES
    shapeless_id = hashlib.sha256(formless).hexdigest()
    store.preregister(RUN, tree(object_id, shapeless_id))
    for wanted, content in ((object_id, other), (shapeless_id, formless), (object_id, object_files._IN_FILE)):
        with pytest.raises(ValueError, match=REFUSED):
            store.put(wanted, content)
    assert (store.get(object_id), store.get(shapeless_id)) == (b"", b"")
    assert files(tmp_path) == set()


def test_a_file_that_was_not_handed_over_is_not_taken_on_a_word(stores: Stores, tmp_path: Path) -> None:
    """A site may not say to a SuperLink that what it sends is there already."""
    store = stores()
    object_id, content = an_object(LEAST_BYTES)
    store.preregister(RUN, tree(object_id))
    object_files.write(tmp_path / "objects", object_id, content)
    for said in (object_files._IN_FILE, b"", WORD[:-1], b"w" * 32):
        with pytest.raises(ValueError, match="not what its ID says"):
            store.put(object_id, said)
    assert store.get(object_id) == b""


def test_an_object_may_be_handed_over_in_its_file(stores: Stores, tmp_path: Path) -> None:
    store = stores()
    (object_id, content), (small, little), (missing, _) = an_object(LEAST_BYTES), an_object(1), an_object(2**17)
    store.preregister(RUN, tree(object_id, small, missing))
    push = into_files(tmp_path / "objects", store.put, WORD)
    push(object_id, content)
    push(small, little)
    assert (store.get(object_id), store.get(small)) == (content, little)
    with pytest.raises(ValueError, match=REFUSED):
        store.put(missing, WORD)
    object_files.write(tmp_path / "objects", missing, content)
    with pytest.raises(ValueError, match=REFUSED):
        store.put(missing, WORD)


def test_a_damaged_file_is_as_if_it_were_not_there(stores: Stores, tmp_path: Path) -> None:
    store = stores()
    object_id, content = an_object(LEAST_BYTES)
    store.preregister(RUN, tree(object_id))
    store.put(object_id, content)
    path = tmp_path / "objects" / object_id
    path.write_bytes(content[:-1])
    assert store.get(object_id) is None
    path.unlink()
    assert store.get(object_id) is None


def test_a_full_disk_leaves_nothing_behind(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores()
    object_id, content = an_object(LEAST_BYTES)
    store.preregister(RUN, tree(object_id))

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            store.put(object_id, content)
    assert files(tmp_path) == set()
    assert store.get(object_id) == b""
    store.put(object_id, content)
    assert store.get(object_id) == content


@pytest.mark.parametrize("stores", ["sql"], indirect=True)
def test_a_superlink_that_was_killed_finds_its_objects_again(stores: Stores, tmp_path: Path) -> None:
    object_id, content = an_object(LEAST_BYTES)
    store = stores()
    store.preregister(RUN, tree(object_id))
    store.put(object_id, content)
    for name in (".half", ".being-written"):
        (tmp_path / "objects" / name).write_bytes(b"half")
    os.utime(tmp_path / "objects" / ".half", (0, 0))
    again = stores()
    assert again.get(object_id) == content
    again.preregister(RUN, tree(object_id))
    assert files(tmp_path) == {object_id, ".being-written"}


def test_what_is_in_a_file_is_not_asked_for(tmp_path: Path) -> None:
    object_id, content = an_object(LEAST_BYTES)
    asked: list[str] = []

    def pull(wanted: str) -> bytes:
        asked.append(wanted)
        return b"from the other end"

    pulled = from_files(tmp_path, pull)
    assert pulled(object_id) == b"from the other end"
    object_files.write(tmp_path, object_id, content)
    assert pulled(object_id) == content
    assert asked == [object_id]


def test_no_other_file_can_be_read_by_an_id(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "objects").mkdir()
    for object_id in ("../secret", str(tmp_path / "secret"), "", ".", "A" * 64):
        assert read(tmp_path / "objects", object_id) is None
