"""The ClientApp of a site with a policy, over a Grid in this process: codes go out, reasons stay, all is audited."""

from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from in_process_grid import InProcessGrid
from synthetic import make_data, make_task

from adamss_fl.errors import AdamssError
from adamss_fl.federation.guard.audit import last_entries, verify
from adamss_fl.federation.guard.guarded_site import GuardedSite, guarded
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.messages import Instruction, Reply
from adamss_fl.federation.run import initial_weights
from adamss_fl.federation.site import Site
from adamss_fl.training import stage as stage_module
from client import records
from client.app import client_app, configured_site
from client.paths import RunFiles
from server.grid_sites import GridSites

ROOT = Path(__file__).parents[2]
NAMES = ("north", "south")
TRAIN = Instruction("train", "run-1", 4, 2, {"epochs": 1}, {"w": np.arange(5, dtype=np.float32)})


class Trained:
    """A site that answers every training with the weights that it got, under the name of a real tensor."""

    local_names: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self.name = name
        self.task = make_task()
        self.data = make_data(name)

    def handle(self, told: Instruction) -> Reply:
        weights = {"segmentation_head.weight": told.weights["w"]} if told.weights else None
        return Reply(told.kind, self.name, told.run, told.round, told.attempt, {"patients": 6}, weights)


@pytest.fixture
def south(tmp_path: Path) -> SiteFolder:
    home = SiteFolder(tmp_path / "out" / "sites" / "south")
    home.folder.mkdir(parents=True)
    home.policy_path.write_text("runs: [test]\n")
    return home


def federation(tmp_path: Path) -> tuple[GridSites, InProcessGrid]:
    (tmp_path / "c.yaml").touch()

    def build(files: RunFiles, name: str) -> GuardedSite:
        return guarded(Trained(name), SiteFolder(files.state_dir(name)))  # type: ignore[arg-type, return-value]

    app = client_app(
        str(tmp_path / "c.yaml"),
        str(tmp_path / "out"),
        build,
        lambda _, node: NAMES[node["partition-id"]],  # type: ignore[index]
    )
    grid = InProcessGrid(app, len(NAMES))
    return GridSites(grid, NAMES, join_seconds=0.2), grid


def test_a_site_with_a_policy_answers_as_one_without(tmp_path: Path, south: SiteFolder) -> None:
    collected = federation(tmp_path)[0].broadcast(TRAIN, 5.0)
    assert [reply.site for reply in collected.replies] == ["north", "south"]
    first, second = (reply.weights or {} for reply in collected.replies)
    assert first["segmentation_head.weight"].tobytes() == second["segmentation_head.weight"].tobytes()
    entries = last_entries(south.audit_path, 9)
    assert [(entry.direction, entry.kind) for entry in entries] == [
        ("in", "hello"),
        ("out", "hello"),
        ("in", "train"),
        ("out", "train"),
    ]
    assert not SiteFolder(tmp_path / "out" / "sites" / "north").folder.exists()


def test_a_refused_task_tells_the_server_a_code_and_the_log_the_reason_once(tmp_path: Path, south: SiteFolder) -> None:
    sites, grid = federation(tmp_path)
    south.policy_path.write_text("runs: [SECRET-PATTERN]\n")
    collected = sites.broadcast(TRAIN, 5.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("south", "run_not_allowed")]
    lines = (south.folder / "site.log").read_text().splitlines()
    assert len(lines) == 1
    assert "with code run_not_allowed: no pattern under 'runs' matches the task 'test'" in lines[0]
    for message in grid.sent:
        wire = message.deflate() + b"".join(part.deflate() for part in message.content.children.values())
        assert b"pattern" not in wire
        assert b"SECRET" not in wire


def test_pause_works_at_once_and_so_does_resume(tmp_path: Path, south: SiteFolder) -> None:
    sites, _ = federation(tmp_path)
    causes = []
    for standing in ("paused", "running", "left", "running"):
        south.stand(standing)  # type: ignore[arg-type]
        absences = sites.broadcast(TRAIN, 5.0).absences
        causes.append([(absence.site, absence.cause) for absence in absences])
    assert causes == [[("south", "paused")], [], [("south", "left")], []]


def test_a_site_that_has_left_does_not_even_give_its_name(tmp_path: Path, south: SiteFolder) -> None:
    south.stand("left")
    with pytest.raises(AdamssError, match=r"no node answers for the sites south \(left\)"):
        federation(tmp_path)
    assert [entry.code for entry in last_entries(south.audit_path, 9)] == ["left", "left"]


def test_a_message_that_is_none_is_audited_and_not_kept(tmp_path: Path, south: SiteFolder) -> None:
    _, grid = federation(tmp_path)
    south.audit_path.unlink()
    (south.folder / "audit.head").unlink()
    message = Message(RecordDict(), 2, "train")
    (identity,) = grid.push_messages([message])
    (answer,) = grid.pull_messages([identity])
    refusal = records.read_answer(answer.content)
    assert isinstance(refusal, records.Refusal)
    assert refusal.code == "site_error"
    entries = last_entries(south.audit_path, 9)
    assert [(entry.direction, entry.kind, entry.code) for entry in entries] == [
        ("in", "unreadable", "site_error"),
        ("out", "unreadable", "site_error"),
    ]
    assert verify(south.audit_path).problems == ()


def test_the_configured_site_is_guarded_exactly_where_its_folder_has_a_policy(tmp_path: Path) -> None:
    files = RunFiles(ROOT / "configs" / "demo.yaml", tmp_path)
    open_one = configured_site(files, "hospital-1")
    assert type(open_one) is Site
    assert configured_site(files, "hospital-1") is open_one
    policy = files.state_dir("hospital-2") / "policy.yaml"
    policy.parent.mkdir(parents=True)
    policy.write_text("paused: true\n")
    assert type(configured_site(files, "hospital-2")) is GuardedSite
    (files.state_dir("hospital-1")).mkdir(parents=True)
    (files.state_dir("hospital-1") / "policy.yaml").write_text("")
    assert type(configured_site(files, "hospital-1")) is GuardedSite


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB of SECRET-ward"), "out_of_memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nSECRET-ward"), "device_failed"),
    ],
)
def test_a_machine_that_fails_tells_the_server_a_code_and_the_log_what_to_do(
    raised: Exception, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a training by a real site, that answers the same instruction when it is asked again."""
    (tmp_path / "c.yaml").touch()
    task, data = make_task((1, 0)), make_data("south", test=0)

    def build(files: RunFiles, name: str) -> Site:
        return Site(name, lambda: data, task, files.state_dir(name))

    grid = InProcessGrid(client_app(str(tmp_path / "c.yaml"), str(tmp_path / "out"), build, lambda *_: "south"), 1)
    sites = GridSites(grid, ("south",), join_seconds=0.2)
    order = {"stages": ["segmentation"], "epochs": 1, "steps": None, "progress": {"segmentation": [0.0, 1.0]}}
    told = Instruction("train", "run-1", 1, 1, {**order, "edges_days": [0, 200, 400, 800, 1600]}, initial_weights(task))
    with monkeypatch.context() as broken:
        broken.setattr(stage_module, "dice_focal_loss", MagicMock(side_effect=raised))
        collected = sites.broadcast(told, 30.0)
    assert [(absence.site, absence.cause) for absence in collected.absences] == [("south", code)]
    assert "SECRET" not in str(collected.absences)
    lines = (tmp_path / "out/sites/south/site.log").read_text().splitlines()
    (reason,) = (line for line in lines if line.startswith("adamss_fl.errors.MachineError: "))
    assert "site south, train of round 1" in reason
    assert not list((tmp_path / "out/sites/south").rglob("round-*"))
    again = sites.broadcast(told, 30.0)
    assert [reply.site for reply in again.replies] == ["south"]
    for message in grid.sent:
        assert b"SECRET" not in message.deflate() + b"".join(
            part.deflate() for part in message.content.children.values()
        )
