"""Real processes on loopback, from kits: a run over TLS with registered keys, killed in every phase, and refusals."""

import csv
import http.client
import json
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from killing import Blow, kill
from processes import Federation, eventually
from recorder import Recorder

from adamss_fl.assembly import build_site, run_federation
from adamss_fl.cli.flower_control import FlowerControl
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config
from adamss_fl.deployment.site_node import programs, read_site_settings
from adamss_fl.errors import AdamssError
from adamss_fl.federation.guard.audit import verify
from adamss_fl.federation.local_sites import LocalSites

pytestmark = [pytest.mark.slow, pytest.mark.network]

SITES = ("hospital-1", "hospital-2", "hospital-3")
TASK = """
name: tiny
sites: [{sites}]
split: {{test: 0.3}}
imaging: {{grid: [16, 16, 16], spacing_mm: [8.0, 8.0, 8.0]}}
augmentation: [flip]
model: {{width: 1, bins: 4}}
stages:
  segmentation: {{learning_rate: 1.0e-2, batch_size: 2}}
  survival: {{learning_rate: 1.0e-2, batch_size: 2}}
plan: {{preset: per-round, segmentation_rounds: {rounds}, survival_rounds: {rounds}, epochs: null, steps: 2}}
federation: {{min_sites: 3, deadline_seconds: 120, attempts: 6}}
runtime: {{device: cpu, precision: fp32, threads: 1}}
"""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals") / "phantom"
    make_phantom(folder, sites=3, patients=12, size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> Federation:
    """The server is at another loopback address than sites know."""
    return Federation(tmp_path_factory.mktemp("federation"), {name: phantom / name for name in SITES}, "127.0.0.2")


@pytest.fixture(scope="module")
def recorder(kits: Federation) -> Iterator[Recorder]:
    """Between the sites and the server, it reads all that they send."""
    port = kits.consortium.port
    found = Recorder(kits.server, ("127.0.0.1", port), ("127.0.0.2", port))
    yield found
    found.close()


@pytest.fixture(scope="module")
def federation(kits: Federation, recorder: Recorder) -> Iterator[Federation]:
    found = kits
    found.start("server", *SITES)
    try:
        eventually(lambda: set(found.connected().values()) == {"online"}, 120, found.logs())
        yield found
    finally:
        found.close()


def task(folder: Path, phantom: Path, rounds: int) -> Path:
    path = folder / f"rounds-{rounds}.yaml"
    path.write_text(
        TASK.format(rounds=rounds, sites=", ".join(f"{{name: {name}, path: {phantom / name}}}" for name in SITES))
    )
    return path


def weights(out: Path, round: int) -> bytes:
    return (out / "checkpoints" / f"round-{round:04d}" / "model.safetensors").read_bytes()


def numbers_of_patients(federation: Federation) -> list[bytes]:
    """What a site knows of single patients and looks like nothing else: predicted days as text and binary, voxels."""
    found = []
    for site in SITES:
        state = federation.site(site) / "state"
        rows = list(csv.DictReader((state / "risks.csv").read_text().splitlines()))
        assert rows
        for row in rows:
            value = float(row["expected_survival_days"])
            assert len(repr(value)) > 8
            found += [repr(value).encode(), struct.pack("<d", value)]
        images = sorted(state.rglob("*.image.npy"))
        assert images
        for path in images:
            for line in np.load(path)[:, 8, 8]:
                if line.std() > 0:
                    found.append(line.tobytes())
    return found


def expected(config: Path, out: Path) -> Path:
    """The same run in this process."""
    settings = load_config(config)
    sites = [build_site(settings, site.name, out / "sites" / site.name) for site in settings.sites]
    run_federation(settings, LocalSites(sites), out)
    return out


def test_killed_in_every_phase_a_run_ends_with_the_weights_of_an_undisturbed_one(
    federation: Federation, phantom: Path, tmp_path: Path
) -> None:
    """One SIGKILL each while sending, training, replying, aggregating and saving, and to every kind of process."""
    run = "chaos"
    config = task(tmp_path, phantom, 3)
    federation.submit(config, run)

    for round, blow in (
        (1, Blow("send", "server", "flwr-serverapp")),
        (1, Blow("train", "hospital-1", "knock.py")),
        (1, Blow("reply", "hospital-2", "supernode")),
        (1, Blow("save", "server", "superlink")),
        (2, Blow("train", "hospital-1", "clients")),
        (2, Blow("aggregate", "server", "superexec")),
        (2, Blow("save", "hospital-3", "superexec")),
    ):
        kill(blow, federation, run, round)
    federation.wait_until_finished(run)

    undisturbed = expected(config, tmp_path / "local")
    assert weights(federation.run(run), 3) == weights(undisturbed, 3)
    figures = [
        json.loads((folder / "metrics.json").read_text())["test"] for folder in (federation.run(run), undisturbed)
    ]
    assert figures[0] == figures[1]
    aggregated = [(event["round"], event["sites"]) for event in federation.events(run, "aggregate")]
    assert {sites for _, each in aggregated for sites in each} == set(SITES)
    for site in SITES:
        report = verify(federation.site(site) / "state/audit.jsonl")
        assert not report.problems
        assert report.entries > 0


def test_a_stranger_can_neither_start_a_run_nor_name_a_site_nor_carry_a_submission(
    federation: Federation, phantom: Path
) -> None:
    """Someone on the network who trusts the server's certificate, but has not its secret."""
    address, ca = f"127.0.0.1:{federation.consortium.port}", federation.server / "ca.crt"
    stranger = FlowerControl(address, ca, None)
    events = federation.run("chaos") / "events.jsonl"
    before = federation.outcome("chaos"), events.read_bytes(), [federation.audit(site) for site in SITES]
    for asked in (stranger.nodes, lambda: stranger.register({}), lambda: stranger.start("name: x", "chaos")):
        with pytest.raises(AdamssError, match="refuses"):
            asked()
    assert set(federation.connected().values()) == {"online"}
    # And who has it, but does not use `submit`, starts a Flower run that does nothing.
    insider = FlowerControl(address, ca, (federation.server / "state/coordinator.secret").read_bytes())
    flower_run = insider.start("name: another\n", "chaos")
    eventually(lambda: not insider.active(flower_run), 120, federation.logs())
    assert (
        federation.outcome("chaos"),
        events.read_bytes(),
        [federation.audit(site) for site in SITES],
    ) == before


def test_nothing_about_one_patient_leaves_a_site(federation: Federation, recorder: Recorder, phantom: Path) -> None:
    """Neither the bytes that sites have sent nor what the server has kept hold a patient's name, file, or number."""
    if not federation.is_finished("chaos"):
        pytest.fail("the run before did not finish")
    patients = {path.name.split("__")[0] for path in phantom.glob("*/imagesTr/*.nii.gz")}
    assert patients
    secrets = [*patients, str(phantom), "imagesTr", *(str(federation.site(name)) for name in SITES)]
    sent = recorder.sent_by_sites()
    for seen in (b'"site": "hospital-1"', b"segmentation_head.conv.weight", b'"patients"', b'"concordance"'):
        assert seen in sent, f"the recorder does not see {seen!r}, so it would not see a secret either"
    assert len(sent) > 3 * 4 * len(weights(federation.run("chaos"), 3)) // 2
    assert not [secret for secret in secrets if secret.encode() in sent]
    assert not [number for number in numbers_of_patients(federation) if number in sent]
    kept = [path for path in (federation.server / "state").rglob("*") if path.is_file()]
    assert any(path.name == "superlink.db" for path in kept)
    for path in kept:
        content = path.read_bytes()
        found = [secret for secret in secrets if secret.encode() in content]
        assert not found, f"{path}: {found}"


def test_a_bundle_that_the_hospital_has_not_approved_is_refused_before_it_runs(
    federation: Federation, phantom: Path, tmp_path: Path
) -> None:
    site = "hospital-1"
    state = federation.site(site) / "state"
    (digest,) = (each["digest"] for each in json.loads((state / "approvals.json").read_text())["bundles"])
    done = federation.command("site", "withdraw", str(state), digest)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(state / "flwr/apps", ignore_errors=True)
    run = "unapproved"
    config = task(tmp_path, phantom, 1)
    federation.submit(config, run)

    def refused() -> bool:
        return any(e["site"] == site and e["cause"] == "bundle_not_approved" for e in federation.events(run, "absence"))

    eventually(refused, 180, federation.logs())
    assert not (state / "flwr/apps").exists()
    assert any((e["kind"], e["code"]) == ("bundle", "bundle_not_approved") for e in federation.audit(site))
    assert federation.outcome(run)["state"] == "paused"

    done = federation.command("site", "approve", str(state), digest)
    assert done.returncode == 0, done.stderr
    again = ("submit", str(config), "--federation", str(federation.server), "--name", run, "--json")
    done = federation.command(*again, seconds=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "finished"
    assert json.loads(done.stdout)["rounds"] == 1


def test_a_site_with_a_key_that_is_not_registered_never_connects(
    federation: Federation, phantom: Path, tmp_path: Path
) -> None:
    """A kit of its own making, down to a consortium with the same name: TLS refuses the server it meets."""
    other = Federation(tmp_path, {"hospital-4": phantom / "hospital-1"})
    kit = other.site("hospital-4")
    # The right server's certificate authority and port, so that only the key is wrong; then the key alone is missing.
    address = f"127.0.0.1:{federation.consortium.port}"
    for ca, key in (
        (federation.server / "ca.crt", "another"),
        (federation.server / "ca.crt", ""),
        (kit / "ca.crt", "another"),
    ):
        node, *_ = programs(kit, read_site_settings(kit), address, ca, kit / "site.key")
        command = list(node.command)
        if not key:
            place = command.index("--auth-supernode-private-key")
            del command[place : place + 2]
        code, log = ended([*command, "--max-retries", "1"], node.environment, tmp_path / "supernode.log")
        assert code not in (0, None), log
        assert "hospital-4" not in federation.connected()


def ended(command: list[str], environment: Mapping[str, str], log: Path) -> tuple[int | None, str]:
    """How a process ends within a minute (None: not), and what it said."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        try:
            code: int | None = process.wait(60)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
    return code, log.read_text(errors="replace")


def test_there_is_no_way_in_without_tls(federation: Federation) -> None:
    plain = http.client.HTTPConnection("127.0.0.2", federation.consortium.port, timeout=30)
    plain.request("POST", "/v1/fleet/activate-node", b"")
    with pytest.raises((OSError, http.client.HTTPException)):
        plain.getresponse()


def test_a_revoked_site_is_shut_out_while_the_others_go_on(federation: Federation) -> None:
    """The last test: the site does not come back."""
    secret = (federation.server / "state/coordinator.secret").read_bytes()
    control = FlowerControl(f"127.0.0.1:{federation.consortium.port}", federation.server / "ca.crt", secret)
    keys = {
        name: key.encode()
        for name, key in json.loads((federation.server / "state/registered.json").read_text()).items()
    }
    del keys["hospital-3"]
    control.register(keys)
    eventually(lambda: federation.connected()["hospital-3"] == "unregistered", 60, federation.logs())
    for _ in range(5):  # its SuperNode goes on asking
        time.sleep(3)
        assert federation.connected() == {"hospital-1": "online", "hospital-2": "online", "hospital-3": "unregistered"}
