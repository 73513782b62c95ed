"""The audit log: its chain recomputed by hand with hashlib, and every way of altering it found."""

import hashlib
import json
import multiprocessing
import shutil
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.guard.audit import AuditLog, last_entries, verify


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def note(log: AuditLog, count: int = 1, first: int = 0) -> None:
    for number in range(first, first + count):
        log.append("in", "train", "run", number, 1, sha(b"message"), 100, "allowed")


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_each_line_holds_the_hash_of_the_line_before_and_the_head_that_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 3)
    AuditLog(path).append("out", "train", "run", 3, 2, "d", 7, "refused", "paused")
    lines = lines_of(path)
    previous = "0" * 64
    for number, line in enumerate(lines, 1):
        entry = json.loads(line)
        assert (entry["n"], entry["previous"]) == (number, previous)
        previous = sha(line)
    assert json.loads((tmp_path / "audit.head").read_text()) == {"n": 4, "hash": previous}
    last = json.loads(lines[-1])
    assert last.pop("time").endswith("+00:00")
    assert last == {
        "n": 4,
        "previous": sha(lines[2]),
        "direction": "out",
        "kind": "train",
        "run": "run",
        "round": 3,
        "attempt": 2,
        "digest": "d",
        "size": 7,
        "decision": "refused",
        "code": "paused",
    }
    assert (verify(path).entries, verify(path).files, verify(path).problems) == (4, 1, ())
    assert verify(path).first == json.loads(lines[0])["time"]
    assert verify(path).last == json.loads(lines[-1])["time"]


def test_only_the_owner_may_read_the_log(tmp_path: Path) -> None:
    note(AuditLog(tmp_path / "audit.jsonl"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"audit.jsonl": 0o600, "audit.head": 0o600, "audit.lock": 0o600}


def test_the_chain_goes_through_rotated_files(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, rotate_bytes=900)
    note(log, 12)
    files = [*sorted(tmp_path.glob("audit-*.jsonl")), path]
    assert [file.name for file in files[:2]] == ["audit-000001.jsonl", "audit-000002.jsonl"]
    assert len(files) > 3
    for older, newer in pairwise(files):
        assert json.loads(lines_of(newer)[0])["previous"] == sha(lines_of(older)[-1])
    report = verify(path)
    assert (report.entries, report.files, report.problems) == (12, len(files), ())
    assert [entry.n for entry in last_entries(path, 7)] == [6, 7, 8, 9, 10, 11, 12]
    assert last_entries(path, 0) == []
    assert len(last_entries(path, 99)) == 12


def test_what_a_server_wrote_cannot_break_a_line_or_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    run = 'a\n{"n": 9}\x1b[2J\u2028\ud800' + "x" * 1000
    AuditLog(path).append("in", "train", run, 10**30, 1, "", 0, "allowed")
    (line,) = lines_of(path)
    assert json.loads(line)["run"] == 'a?{"n": 9}?[2J??' + "x" * 112
    assert verify(path).problems == ()


def appended(path: Path, number: int) -> None:
    note(AuditLog(path, rotate_bytes=4000), 15, number * 100)


def test_processes_may_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=appended, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    report = verify(path)
    assert (report.entries, report.problems) == (60, ())
    rounds = sorted(entry.round for entry in last_entries(path, 100))
    assert rounds == sorted(number * 100 + each for number in range(4) for each in range(15))


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_torn_line_is_set_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 3)
    torn = b'{"n": 4, "time": "2026'
    with path.open("ab") as file:
        file.write(torn)
    before = verify(path)
    assert before.problems == ()
    assert before.notes == ("audit.jsonl:4: a crash tore this line; the next entry will set it aside",)
    note(AuditLog(path))
    assert (tmp_path / "audit.torn-000004").read_bytes() == torn
    told = last_entries(path, 2)
    assert (told[0].direction, told[0].code, told[0].digest, told[0].size) == ("note", "torn_line", sha(torn), 22)
    assert (verify(path).entries, verify(path).problems, verify(path).notes) == (5, (), ())


def test_a_first_line_that_was_torn_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"n"')
    note(AuditLog(path))
    assert [entry.n for entry in last_entries(path, 9)] == [1, 2]
    assert verify(path).problems == ()


def test_a_crash_between_the_line_and_the_head_loses_nothing(tmp_path: Path) -> None:
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.head"
    note(AuditLog(path), 2)
    older = head.read_bytes()
    note(AuditLog(path))
    head.write_bytes(older)
    assert verify(path).problems == ()
    assert len(verify(path).notes) == 1
    note(AuditLog(path))
    assert (verify(path).entries, verify(path).problems, verify(path).notes) == (4, (), ())


def test_a_crash_between_putting_a_file_aside_and_the_first_line_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 2)
    path.rename(tmp_path / "audit-000001.jsonl")
    assert verify(path).problems == ()
    note(AuditLog(path))
    assert (verify(path).entries, verify(path).files, verify(path).problems) == (3, 2, ())


# --- altering ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    note(AuditLog(folder / "audit.jsonl", rotate_bytes=900), 10)
    return folder


@pytest.fixture
def altered(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "log")
    return tmp_path / "log"


@given(data=st.data())
@settings(max_examples=300)
def test_any_one_changed_byte_is_found(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "one-byte"
    if not folder.exists():
        shutil.copytree(original, folder)
    assert verify(folder / "audit.jsonl").problems == ()
    path = data.draw(st.sampled_from(sorted(folder.glob("*.jsonl"))))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != before[place]))
    path.write_bytes(before[:place] + bytes([byte]) + before[place + 1 :])
    try:
        assert verify(folder / "audit.jsonl").problems != ()
    finally:
        path.write_bytes(before)


def test_any_changed_last_byte_of_the_log_is_found(altered: Path) -> None:
    path = altered / "audit.jsonl"
    before = path.read_bytes()
    for byte in range(256):
        path.write_bytes(before[:-1] + bytes([byte]))
        report = verify(path)
        assert (report.problems == ()) is (byte == ord("\n"))
        assert report.notes == ()


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in change(lines_of(path))))


def test_any_removed_line_is_found_and_named(original: Path, tmp_path: Path) -> None:
    number = 0
    for file in sorted(original.glob("*.jsonl"), key=lambda path: (path.name == "audit.jsonl", path.name)):
        for place in range(len(lines_of(file))):
            number += 1
            folder = tmp_path / str(number)
            shutil.copytree(original, folder)
            edit(folder / file.name, lambda lines, place=place: lines[:place] + lines[place + 1 :])
            (problem,) = verify(folder / "audit.jsonl").problems
            missing = "entry 10 is missing at the end" if number == 10 else f"entry {number} is missing"
            assert missing in problem
    assert number == 10


def test_any_two_lines_that_changed_places_are_found(original: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    note(AuditLog(flat / "audit.jsonl"), 5)
    path = flat / "audit.jsonl"
    before = lines_of(path)
    for first in range(5):
        for second in range(first):
            lines = list(before)
            lines[first], lines[second] = lines[second], lines[first]
            edit(path, lambda _, lines=lines: lines)
            assert verify(path).problems != ()


@pytest.mark.parametrize("line", [b"", b"{}", b"null", b"not json", b"\xff", b"[" * 100_000])
def test_an_inserted_line_is_found(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 4)
    before = lines_of(path)
    for place in range(5):
        edit(path, lambda _, place=place: [*before[:place], line, *before[place:]])
        assert any(problem.startswith(f"audit.jsonl:{place + 1}: ") for problem in verify(path).problems)


def test_an_inserted_entry_with_the_right_hash_is_found(tmp_path: Path) -> None:
    """Whoever knows the rule can write an entry that follows; the next one, or the head, does not know it."""
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 4)
    before = lines_of(path)
    for place in range(1, 5):
        entry = {**json.loads(before[place - 1]), "n": place + 1, "previous": sha(before[place - 1])}
        forged = json.dumps(entry).encode()
        forged_too = json.dumps({**entry, "n": place + 2, "previous": sha(forged)}).encode()
        edit(path, lambda _, place=place, forged=forged: [*before[:place], forged, *before[place:]])
        assert (verify(path).problems == ()) is (place == 4)  # one whole entry more than the head: as after a crash
        edit(path, lambda _, place=place, two=(forged, forged_too): [*before[:place], *two, *before[place:]])
        assert verify(path).problems != ()


def test_a_log_that_was_rewritten_from_a_changed_entry_on_is_found_by_its_head(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 4)

    def rewritten(lines: list[bytes]) -> list[bytes]:
        entries = [json.loads(line) for line in lines]
        entries[1]["decision"] = "refused"
        for number in (2, 3):
            entries[number]["previous"] = sha(json.dumps(entries[number - 1]).encode())
        return [json.dumps(entry).encode() for entry in entries]

    edit(path, rewritten)
    (problem,) = verify(path).problems
    assert "the last entry, 4, is not the one that audit.head holds" in problem


def test_a_removed_file_is_found_and_named(original: Path, tmp_path: Path) -> None:
    archives = sorted(path.name for path in original.glob("audit-*.jsonl"))
    assert len(archives) >= 3
    for name in (*archives, "audit.jsonl", "audit.head"):
        folder = tmp_path / name
        shutil.copytree(original, folder)
        (folder / name).unlink()
        problems = verify(folder / "audit.jsonl").problems
        assert problems != ()
        if name in archives[:-1]:
            assert f"{name}: the file is missing" in problems
        if name == archives[-1]:
            assert "is missing before" in problems[0] or "are missing before" in problems[0]
        if name == "audit.jsonl":
            assert "missing at the end" in problems[0]
        if name == "audit.head":
            assert problems[0].startswith("audit.head: is missing")


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_a_log_cut_short_stays_cut_whatever_is_written_afterwards(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 10)
    edit(path, lambda lines: lines[:-cut])
    (problem,) = verify(path).problems
    assert f"{11 - cut}" in problem
    assert "missing at the end" in problem
    note(AuditLog(path), 2)
    (problem,) = verify(path).problems
    assert "missing before entry 11" in problem


def test_a_log_whose_head_was_taken_away_says_so_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    note(AuditLog(path), 3)
    (tmp_path / "audit.head").unlink()
    note(AuditLog(path))
    assert [entry.code for entry in last_entries(path, 2)] == ["head_missing", ""]
    assert verify(path).problems == ()


def test_where_nothing_was_written_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no audit log"):
        verify(tmp_path / "audit.jsonl")
