"""The phantom hospitals: same bytes from a seed, a survival law that is the written one, and a usable cohort."""

import csv
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage, stats

from adamss_fl.cohort import (
    Hazard,
    PhantomSummary,
    Traits,
    check_cohort,
    hecktor2022,
    load_cohort,
    make_phantom,
    read_truth,
    true_pet_label,
)
from adamss_fl.cohort.phantom_anatomy import Grid, make_anatomy, smooth_noise
from adamss_fl.cohort.phantom_hazard import censor, draw_traits
from adamss_fl.errors import InputError

Made = tuple[Path, PhantomSummary]


def digests(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def truth_rows(out: Path) -> list[dict[str, str]]:
    with (out / "truth/patients.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for name, workers, seed in (("one", 1, 3), ("four", 4, 3), ("other", 1, 4)):
        make_phantom(tmp_path / name, sites=2, patients=4, size=16, seed=seed, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "four")
    assert digests(tmp_path / "one") != digests(tmp_path / "other")


def test_every_hospital_is_a_sound_cohort_and_identifiers_are_unique_across_them(phantom: Made) -> None:
    out, summary = phantom
    cohorts = [load_cohort(folder, hecktor2022()) for folder in summary.folders]
    everyone = [patient.id for cohort in cohorts for patient in cohort.patients]
    assert len(set(everyone)) == len(everyone) == summary.patients == 36
    assert len({len(cohort) for cohort in cohorts}) == 3
    assert sum(p.event or 0 for cohort in cohorts for p in cohort.patients) == summary.events
    assert check_cohort(cohorts[0]).problems == ()
    assert set(everyone) == read_truth(out).keys()


def test_the_truth_lies_beside_the_hospitals_and_never_inside(phantom: Made) -> None:
    out, summary = phantom
    for folder in summary.folders:
        assert {path.name for path in folder.iterdir()} == {
            "imagesTr",
            "labelsTr",
            "hecktor2022_clinical_info_training.csv",
            "hecktor2022_endpoint_training.csv",
        }
    assert (
        json.loads((out / "truth/hazard.json").read_text())["hazard"]["nodes"]["coefficient"]
        == Hazard().nodes.coefficient
    )


@pytest.mark.parametrize(("sites", "patients"), [(1, 4), (2, 5), (3, 8), (5, 13)])
def test_between_40_and_60_percent_are_censored(tmp_path: Path, sites: int, patients: int) -> None:
    summary = make_phantom(tmp_path / "out", sites=sites, patients=patients, size=16, seed=sites)
    assert summary.patients == sites * patients
    assert 0.4 <= summary.censored_fraction <= 0.6


def test_the_log_hazard_is_the_sum_of_its_written_terms(phantom: Made) -> None:
    out, _ = phantom
    hazard, truth = json.loads((out / "truth/hazard.json").read_text())["hazard"], read_truth(out)
    for row in truth_rows(out):
        values = {name: float(row[name]) for name in ("heterogeneity", "peak_suv", "nodes", "age_years", "hpv")}
        values["log_volume"] = math.log(float(row["volume_ml"]))
        by_hand = sum(hazard[k]["coefficient"] * (v - hazard[k]["mean"]) / hazard[k]["sd"] for k, v in values.items())
        assert truth[row["PatientID"]] == pytest.approx(by_hand, abs=1e-3)


def test_survival_times_follow_the_weibull_law_of_scipy() -> None:
    hazard, rng, eta = Hazard(), np.random.default_rng(0), 0.7
    times = [hazard.survival_days(eta, 1.0 - rng.random()) for _ in range(4000)]
    law = stats.weibull_min(hazard.shape, scale=hazard.scale_days * math.exp(-eta / hazard.shape))
    assert stats.kstest(times, law.cdf).pvalue > 0.01


def test_the_terms_are_standardised_over_the_population() -> None:
    rng, hazard = np.random.default_rng(0), Hazard()
    terms = [hazard.terms(draw_traits(rng)) for _ in range(4000)]
    for name in terms[0]:
        scaled = np.array([term[name] for term in terms]) / getattr(hazard, name).coefficient
        assert abs(scaled.mean()) < 0.08, name
        assert scaled.std() == pytest.approx(1.0, abs=0.08), name


def test_censoring_reaches_the_asked_share_and_never_outlives_the_event() -> None:
    rng = np.random.default_rng(1)
    survival, entry = rng.exponential(1000, 50), rng.uniform(0.5, 1.5, 50)
    days, events = censor(survival.tolist(), entry.tolist(), 0.42)
    assert events.sum() == 21
    assert (days[events == 1] == np.ceil(survival[events == 1])).all()
    assert (days[events == 0] <= np.ceil(survival[events == 0])).all()


@pytest.mark.parametrize("nodes", [0, 1, 2, 3])
def test_the_anatomy_has_the_tumour_volume_and_the_nodes_that_the_truth_says(nodes: int) -> None:
    grid = Grid((48, 48, 48), (128 / 48,) * 3)
    traits = Traits(radius_mm=16.0, heterogeneity=0.5, peak_suv=9.0, nodes=nodes, age_years=60, hpv=1)
    anatomy = make_anatomy(np.random.default_rng(nodes), traits, grid)
    assert (anatomy.label == 1).sum() * grid.voxel_ml == pytest.approx(traits.volume_ml, rel=0.01)
    assert ndimage.label(anatomy.label == 2, np.ones((3, 3, 3)))[1] == nodes
    assert anatomy.suv[anatomy.label == 1].max() == pytest.approx(traits.peak_suv, rel=0.1)
    assert anatomy.suv.min() >= 0


def test_heterogeneity_shows_as_variation_inside_the_tumour() -> None:
    grid = Grid((32, 32, 32), (4.0,) * 3)
    spread = []
    for heterogeneity in (0.1, 0.4, 0.8):
        traits = Traits(radius_mm=18.0, heterogeneity=heterogeneity, peak_suv=9.0, nodes=0, age_years=60, hpv=1)
        anatomy = make_anatomy(np.random.default_rng(0), traits, grid)
        inside = anatomy.suv[anatomy.label == 1]
        spread.append(float(inside.std() / inside.mean()))
    assert spread[0] < spread[1] < spread[2]


def test_a_patient_keeps_its_tumour_whatever_the_voxel_size() -> None:
    traits = Traits(radius_mm=18.0, heterogeneity=0.5, peak_suv=9.0, nodes=1, age_years=60, hpv=1)
    fine = make_anatomy(np.random.default_rng(5), traits, Grid((64, 64, 64), (2.0,) * 3)).label == 1
    coarse = make_anatomy(np.random.default_rng(5), traits, Grid((32, 32, 32), (4.0,) * 3)).label == 1
    pooled = fine.reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5)) >= 0.5
    assert 2 * (pooled & coarse).sum() / (pooled.sum() + coarse.sum()) > 0.9


def test_the_smooth_field_is_standard_and_correlated_over_its_length() -> None:
    grid = Grid((64, 64, 64), (2.0,) * 3)
    fields = np.stack([smooth_noise(np.random.default_rng(k), grid, 8.0) for k in range(8)])
    assert abs(fields.mean()) < 0.05
    assert fields.std() == pytest.approx(1.0, abs=0.05)
    near = np.corrcoef(fields[..., :-1].ravel(), fields[..., 1:].ravel())[0, 1]
    far = np.corrcoef(fields[..., :-24].ravel(), fields[..., 24:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.1


def test_hospitals_differ_in_geometry_and_pet_and_ct_do_not_share_a_grid(phantom: Made) -> None:
    _, summary = phantom
    spacings = set()
    for folder in summary.folders:
        pet, ct = (
            sitk.ReadImage(str(sorted((folder / "imagesTr").glob(f"*{kind}.nii.gz"))[0])) for kind in ("PT", "CT")
        )
        assert pet.GetSize() != ct.GetSize()
        spacings.add((pet.GetSpacing(), ct.GetSpacing()))
    assert len(spacings) == 3


@pytest.mark.parametrize(("name", "value"), [("sites", 0), ("patients", 3), ("size", 8)])
def test_a_phantom_too_small_to_make_is_refused(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}"):
        make_phantom(tmp_path / "out", **{name: value})


def test_a_folder_that_holds_something_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        make_phantom(tmp_path, sites=1, patients=4, size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "out", sites=1, patients=4, size=16, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_truth_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"patients\.csv"):
        read_truth(tmp_path)


def test_the_label_drawn_in_pet_voxels_is_that_of_the_ct_without_its_voxels(phantom: Made) -> None:
    out, summary = phantom
    volumes = {row["PatientID"]: float(row["volume_ml"]) for row in truth_rows(out)}
    shared = drawn = on_disk = 0
    for path in sorted(path for folder in summary.folders for path in (folder / "labelsTr").iterdir()):
        name = path.name.removesuffix(".nii.gz")
        pet = sitk.ReadImage(str(path.parents[1] / "imagesTr" / f"{name}__PT.nii.gz"))
        label = true_pet_label(out, name)
        assert label.shape == pet.GetSize()[::-1]
        voxel_ml = math.prod(pet.GetSpacing()) / 1000
        assert (label == 1).sum() * voxel_ml == pytest.approx(volumes[name], abs=voxel_ml)
        moved = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(path)), pet, sitk.Transform(), 1, 0))
        shared += int(((moved > 0) & (moved == label)).sum())
        drawn, on_disk = drawn + int((label > 0).sum()), on_disk + int((moved > 0).sum())
    assert 0.85 < 2 * shared / (drawn + on_disk) < 1  # half a voxel of 4 mm between them


def test_a_label_of_nobody_or_of_no_phantom_is_refused(phantom: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no phantom patient H9-001"):
        true_pet_label(phantom[0], "H9-001")
    with pytest.raises(InputError, match=r"hazard\.json"):
        true_pet_label(tmp_path, "H1-001")
