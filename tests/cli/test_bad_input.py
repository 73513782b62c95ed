"""Bad input through the command line: one clear line, exit code 2, and nothing written or lost."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from adamss_fl.cli.main import main
from adamss_fl.cohort import make_phantom

SETTINGS: dict[str, Any] = {
    "name": "bad input",
    "cache": "cache",
    "split": {"test": 0.34},
    "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
    "augmentation": [],
    "model": {"width": 1, "bins": 2},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1},
    "stages": {stage: {"batch_size": 2} for stage in ("segmentation", "survival")},
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5},
}


@dataclass
class Workplace:
    """A hospital, a configuration and a place for a run, all for one test to spoil."""

    folder: Path
    hospital: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def configure(self, **changed: Any) -> None:
        site = {"name": "hospital", "path": str(self.hospital)}
        self.config.write_text(yaml.safe_dump({**SETTINGS, "sites": [site], **changed}))

    @property
    def patient(self) -> str:
        """The first patient in the order of names."""
        return min(path.name for path in (self.hospital / "imagesTr").iterdir()).split("__")[0]

    def image(self, kind: str) -> Path:
        return self.hospital / "imagesTr" / f"{self.patient}__{kind}.nii.gz"

    def rewrite(self, kind: str, change: Callable[[np.ndarray], np.ndarray], shift_mm: float = 0.0) -> None:
        image = sitk.ReadImage(str(self.image(kind)), sitk.sitkFloat32)
        changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        changed.SetSpacing(image.GetSpacing())
        changed.SetOrigin([origin + shift_mm for origin in image.GetOrigin()])
        sitk.WriteImage(changed, str(self.image(kind)))

    def endpoint(self, relapse: str | None = None, rfs: str | None = None, everyone: bool = False) -> None:
        """Overwrite the first patient's endpoint, or everyone's."""
        path = self.hospital / "hecktor2022_endpoint_training.csv"
        header, *rows = path.read_text().splitlines()
        assert header == "PatientID,Relapse,RFS"
        changed = []
        for row in rows:
            patient, event, time = row.split(",")
            if everyone or patient == self.patient:
                event, time = relapse or event, rfs or time
            changed.append(f"{patient},{event},{time}")
        path.write_text("\n".join([header, *changed]) + "\n")

    def contents(self) -> Mapping[str, str]:
        """Every file but prepared images, with its digest."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and "cache" not in path.parts)
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "hospitals"
    return make_phantom(out, sites=1, patients=6, size=16, seed=1, workers=1).folders[0]


@pytest.fixture
def work(phantom: Path, tmp_path: Path) -> Workplace:
    place = Workplace(tmp_path, tmp_path / "hospital")
    shutil.copytree(phantom, place.hospital)
    place.configure()
    return place


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; returns its one line. Lines of progress and of the machine may come first."""
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    progress, line = err.splitlines()[:-1], err.splitlines()[-1]
    assert (code, out) == (2, ""), err
    assert line.startswith("error: ")
    machine = "device cpu, precision fp32"
    assert all(each == machine or (each.startswith(f"{arguments[0]}: ") and " of " in each) for each in progress), err
    assert err.endswith("\n")
    return line


def train(work: Workplace, *more: str) -> list[str]:
    return ["train", str(work.config), "--out", str(work.run), *more]


Spoil = Callable[[Workplace], object]

MISTAKES: dict[str, tuple[Spoil, str]] = {
    "missing configuration": (lambda w: w.config.unlink(), "config.yaml: there is no such file"),
    "unknown key": (lambda w: w.configure(modle={}), "modle: unknown key 'modle'; did you mean 'model'?"),
    "unknown nested key": (lambda w: w.configure(split={"tset": 0.2}), "split.tset: unknown key 'tset'"),
    "grid not divisible by 16": (
        lambda w: w.configure(imaging={"grid": [16, 20, 16]}),
        "imaging.grid: grid is [16, 20, 16]; each side must be a positive multiple of 16",
    ),
    "unknown aggregator": (
        lambda w: w.configure(federation={"aggregator": "flower:FedAdm"}),
        "federation.aggregator: flower:FedAdm is not one of Flower's strategies",
    ),
    "missing hospital": (lambda w: shutil.rmtree(w.hospital), "hospital: there is no such folder"),
    "missing endpoints": (
        lambda w: (w.hospital / "hecktor2022_endpoint_training.csv").unlink(),
        "there is no hecktor2022_endpoint_training.csv",
    ),
    "negative time": (lambda w: w.endpoint(rfs="-3"), "RFS is '-3'; it must be a time in days, 0 or more"),
    "time that is no number": (lambda w: w.endpoint(rfs="soon"), "RFS is 'soon'"),
    "event 2": (lambda w: w.endpoint(relapse="2"), "Relapse is '2'; it must be 1 (event) or 0 (censored)"),
    "event 0.5": (lambda w: w.endpoint(relapse="0.5"), "Relapse is '0.5'"),
    "no events": (
        lambda w: w.endpoint(relapse="0", everyone=True),
        "hospital: the train part would have 4 patients and none with an event",
    ),
}
"""What is wrong, and words of the line that says so; all found before an image is read."""

BAD_IMAGES: dict[str, tuple[Spoil, str]] = {
    "empty file": (lambda w: w.image("PT").write_bytes(b""), "cannot be read as an image"),
    "constant PET": (lambda w: w.rewrite("PT", np.zeros_like), "PET is constant (0 in every voxel)"),
    "constant CT": (
        lambda w: w.rewrite("CT", lambda v: np.full_like(v, -1000)),
        "CT is constant (-1000 in every voxel)",
    ),
    "one voxel NaN": (
        lambda w: w.rewrite("CT", lambda v: np.where(v == v.max(), np.float32(np.nan), v)),
        "has voxels that are NaN or infinite",
    ),
    "no overlap": (lambda w: w.rewrite("PT", lambda v: v, shift_mm=900.0), "PET and CT do not overlap in space"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", ["train", "compare", "simulate"])
def test_a_mistake_is_told_in_one_line_before_anything_is_written(
    command: str, mistake: str, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, words = MISTAKES[mistake]
    spoil(work)
    before = work.contents()
    line = refused([command, str(work.config), "--out", str(work.run)], capfd)
    assert words in line
    assert work.contents() == before
    assert not work.run.exists()
    assert not (work.folder / "cache").exists()


@pytest.mark.parametrize("mistake", BAD_IMAGES)
def test_a_volume_that_cannot_be_used_is_refused_with_its_patient(
    mistake: str, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BAD_IMAGES[mistake]
    spoil(work)
    before = work.contents()
    line = refused(train(work), capfd)
    assert words in line
    assert f"patient {work.patient}" in line
    assert work.contents() == before
    assert not work.run.exists()


@pytest.mark.parametrize("mistake", BAD_IMAGES)
def test_check_leaves_that_patient_out_by_name_and_goes_on(
    mistake: str, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BAD_IMAGES[mistake]
    spoil(work)
    assert main(["check", str(work.hospital), "--json"]) == 0
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert err == ""
    assert (said["patients"], said["usable"]) == (6, 5)
    (problem,) = said["problems"]
    assert problem["patient"] == work.patient
    assert words in problem["message"]


def test_a_missing_image_and_an_unknown_patient_are_named_by_check(
    work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    patient = work.patient
    work.image("CT").unlink()
    with (work.hospital / "hecktor2022_endpoint_training.csv").open("a") as file:
        file.write("NOBODY-1,1,100\n")
    assert main(["check", str(work.hospital), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert {(problem["patient"], problem["code"]) for problem in said["problems"]} == {
        (patient, "no_ct"),
        ("NOBODY-1", "no_images"),
    }
    assert (said["patients"], said["usable"]) == (7, 5)


def test_an_unknown_site_is_refused_with_the_known_ones(work: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    line = refused(train(work, "--site", "hospitl"), capfd)
    assert "there is no site 'hospitl' in the configuration; it has hospital" in line
    assert not work.run.exists()


def test_an_override_that_is_wrong_is_named(work: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    line = refused(train(work, "--set", "model.widht=2"), capfd)
    assert "model.widht: unknown key 'widht'; did you mean 'width'?" in line
    assert not work.run.exists()


@pytest.fixture(scope="module")
def finished(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A finished run, that was first refused for its batches and then mended in the same folder."""
    work = Workplace(tmp_path_factory.mktemp("finished"), phantom)
    work.configure(stages={stage: {"batch_size": 5} for stage in ("segmentation", "survival")})
    assert main(train(work)) == 2
    assert not (work.run / "checkpoints").exists()
    work.configure()
    assert main(train(work)) == 0
    return work


def test_a_site_with_fewer_patients_than_a_batch_is_refused_by_name(
    work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    work.configure(stages={stage: {"batch_size": 5} for stage in ("segmentation", "survival")})
    line = refused(train(work), capfd)
    assert "site hospital: 4 training patients are fewer than a batch" in line
    assert "set stages.segmentation.batch_size to 4 or less (it is 5)" in line
    assert not (work.run / "metrics.json").exists()


def test_a_refused_run_can_be_mended_in_its_own_folder(finished: Workplace) -> None:
    assert (finished.run / "metrics.json").exists()


@pytest.mark.parametrize("override", ["seed=1", "model.dropout=0.1", "plan.survival_rounds=2"])
def test_a_run_of_other_settings_is_refused_and_not_a_byte_of_it_changes(
    override: str, finished: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    before = finished.contents()
    line = refused(train(finished, "--set", override), capfd)
    assert "run: holds a run of other settings or sites; give another --out or the same configuration" in line
    assert finished.contents() == before


def test_a_run_on_another_hospitals_patients_is_refused_though_the_name_is_the_same(
    finished: Workplace, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    """It would otherwise be taken as finished, and its figures as those of the new patients."""
    before = finished.contents()
    line = refused(["train", str(work.config), "--out", str(finished.run)], capfd)
    assert f"holds a run on {finished.hospital}, not {work.hospital} (hospital); give another --out" in line
    assert finished.contents() == before
    assert main(train(finished)) == 0  # its own patients: finished, and said again


def test_a_run_is_no_place_for_a_comparison_nor_a_comparison_for_a_run(
    finished: Workplace, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    before = finished.contents()
    command = ["compare", str(finished.config), "--out", str(finished.run), "--transport", "local"]
    assert "holds a run that is no comparison; give another --out" in refused(command, capfd)
    assert finished.contents() == before
    (work.run / "arms").mkdir(parents=True)
    assert "holds a comparison; give another --out" in refused(train(work), capfd)
    assert not (work.run / "config.yaml").exists()


@pytest.mark.parametrize("command", ["evaluate", "report"])
@pytest.mark.parametrize("what", ["absent", "empty", "a file", "unfinished"])
def test_a_folder_that_is_no_finished_run_is_refused_by_its_path(
    command: str, what: str, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    if what == "a file":
        work.run.write_text("x")
    elif what != "absent":
        work.run.mkdir()
    if what == "unfinished":
        shutil.copy(work.config, work.run / "config.yaml")
    before = work.contents()
    arguments = [command, str(work.run)] + ([str(work.hospital)] if command == "evaluate" else [])
    assert str(work.run) in refused(arguments, capfd)
    assert work.contents() == before


def test_evaluating_on_no_cohort_is_refused_and_leaves_the_run_as_it_is(
    finished: Workplace, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    before = finished.contents()
    missing = work.folder / "nowhere"
    assert f"{missing}: there is no such folder" in refused(["evaluate", str(finished.run), str(missing)], capfd)
    work.endpoint(relapse="7")
    assert "Relapse is '7'" in refused(["evaluate", str(finished.run), str(work.hospital)], capfd)
    assert finished.contents() == before


def test_a_run_whose_model_is_torn_is_refused_by_its_file(
    finished: Workplace, work: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.run, work.run)
    model = work.run / "checkpoints" / "round-0002" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-7])
    line = refused(["evaluate", str(work.run), str(work.hospital)], capfd)
    assert f"{model}: truncated or altered" in line
