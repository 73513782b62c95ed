"""Explaining a run: maps lie where the patient lies, figures rest on all test patients, and nobody is named."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from synthetic_run import write_comparison

from adamss_fl.cli.main import main
from adamss_fl.cohort import load_cohort, make_phantom, split_cohort
from adamss_fl.cohort.settings import SplitSettings
from adamss_fl.errors import InputError
from adamss_fl.evaluation.explain import same_weights, to_full_grid, write_map
from adamss_fl.evaluation.report import build_report
from adamss_fl.evaluation.report_focus import read_focus
from adamss_fl.evaluation.report_inputs import read_run
from adamss_fl.imaging import ImagingSettings, prepare_arrays
from adamss_fl.imaging.volumes import target_grid
from adamss_fl.model import focus_maps
from adamss_fl.prediction import load_run

SPLIT = {"test": 0.4}
IMAGING = {"grid": [32, 16, 16], "spacing_mm": [4.0, 6.0, 7.0]}


def settings(hospitals, preset="sequential"):
    return {
        "name": "explained",
        "sites": [{"name": f"hospital-{n}", "path": str(path)} for n, path in enumerate(hospitals, 1)],
        "cache": "cache",
        "split": SPLIT,
        "imaging": IMAGING,
        "augmentation": [],
        "model": {"width": 1, "bins": 2},
        "plan": {"preset": preset, "segmentation_rounds": 1, "survival_rounds": 1},
        "stages": {stage: {"batch_size": 2, "learning_rate": 1e-2} for stage in ("segmentation", "survival")},
        "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
        "evaluation": {"bootstrap": 50},
    }


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "hospitals"
    return make_phantom(out, sites=2, patients=6, size=16, seed=1, workers=1).folders


@pytest.fixture(scope="module")
def run(hospitals, tmp_path_factory):
    """A finished run of both stages on the pooled patients of two hospitals, explained with two patients drawn."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(hospitals)))
    assert main(["train", str(folder / "config.yaml"), "--out", str(folder / "run")]) == 0
    assert main(["explain", str(folder / "run"), "--patients", "2", "--json"]) == 0
    return folder / "run"


def held_out(hospitals):
    return [
        patient.id
        for n, path in enumerate(hospitals, 1)
        for patient in split_cohort(load_cohort(path, name=f"hospital-{n}"), SplitSettings(**SPLIT)).test.patients
    ]


def test_a_level_is_brought_to_the_full_grid_linearly_and_in_place():
    full = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in (16, 8, 32)], indexing="ij"))
    ramp = full[0] + 3 * full[1] - 2 * full[2]
    coarse = ramp.reshape(4, 4, 2, 4, 8, 4).mean(axis=(1, 3, 5))
    found = to_full_grid(coarse, ramp.shape)
    inner = (slice(2, -2), slice(2, -2), slice(2, -2))
    assert np.allclose(found[inner], ramp[inner], atol=1e-4)
    assert np.array_equal(to_full_grid(ramp, ramp.shape), ramp.astype(np.float32))


def test_a_map_has_the_geometry_of_the_models_grid(tmp_path):
    grid = target_grid(ImagingSettings(grid=(32, 16, 48), spacing_mm=(4.0, 2.0, 3.0)), (10.0, -20.0, 30.0))
    values = np.random.default_rng(0).random((32, 16, 48), dtype=np.float32)
    write_map(tmp_path / "a" / "map.nii.gz", values, grid)
    found = sitk.ReadImage(str(tmp_path / "a" / "map.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(found), values)
    assert np.allclose(found.GetOrigin(), grid.GetOrigin(), atol=1e-5)
    assert np.allclose(found.GetSpacing(), (3.0, 2.0, 4.0))
    assert np.allclose(found.GetDirection(), np.eye(3).ravel())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["map.nii.gz"]


def test_every_drawn_patient_has_maps_of_both_stages_on_the_grid_of_its_own_images(run, hospitals):
    folders = sorted((run / "focus" / "patients").iterdir())
    assert len(folders) == 2
    names = {f"attention-{n}-stage-{s}.nii.gz" for n in range(1, 5) for s in (1, 2)}
    names |= {f"opening-{n}-stage-{s}.nii.gz" for n in range(1, 6) for s in (1, 2)}
    for folder, hospital in zip(folders, hospitals, strict=True):
        assert {path.name for path in folder.iterdir()} == names | {"figure.svg"}
        cohort = load_cohort(hospital)
        patient = cohort.patient(folder.name.removeprefix(f"{hospital.name}-"))
        settings = ImagingSettings(**{k: tuple(v) for k, v in IMAGING.items()})
        mask = prepare_arrays(patient, cohort.layout, settings).mask
        # Bringing the label file to a map's own geometry must give the mask that the network was judged on.
        label, grid = sitk.ReadImage(str(patient.mask)), sitk.ReadImage(str(folder / "attention-3-stage-2.nii.gz"))
        moved = sitk.GetArrayFromImage(sitk.Resample(label, grid, sitk.Transform(), sitk.sitkNearestNeighbor))
        assert mask[0].any()
        assert np.array_equal(moved == 1, mask[0].astype(bool))


def test_maps_on_disk_are_those_of_each_stages_network(run, hospitals):
    trained = load_run(run)
    folder = sorted((run / "focus" / "patients").iterdir())[0]
    cohort = load_cohort(hospitals[0])
    patient = cohort.patient(folder.name.removeprefix("hospital-1-"))
    image = prepare_arrays(patient, cohort.layout, trained.task.imaging).image
    pet, ct = torch.from_numpy(image)[:, None, None]
    found = {}
    for number, stage in enumerate(("segmentation", "survival"), 1):
        maps = focus_maps(trained.model(stage), pet, ct)
        for name, level in (("attention-1", maps.attention[3]), ("opening-1", maps.gate_opening[0])):
            kept = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}-stage-{number}.nii.gz")))
            assert np.allclose(kept, level[0, 0].numpy(), atol=1e-6)
            found[name, number] = kept
    assert not np.allclose(found["attention-1", 1], found["attention-1", 2])


def test_figures_rest_on_all_test_patients_and_agree_with_the_table(run, hospitals):
    found = json.loads((run / "focus" / "focus.json").read_text())
    everyone = held_out(hospitals)
    assert found["patients"] == len(everyone) > 2
    assert found["stages"] == ["Stage I", "Stage II"]
    assert found["focus"]["verdict"] == "too few"  # under ten patients nothing is claimed
    with (run / "focus" / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(everyone) * 2 * (4 + 5)
    assert {row["patient"] for row in rows} == set(everyone)
    for level in found["attention"]:
        for stage in found["stages"]:
            own = [r for r in rows if (r["map"], r["stage"], r["level"]) == ("attention", stage, str(level["level"]))]
            assert level[stage]["spread"]["mean"] == pytest.approx(np.mean([float(r["spread"]) for r in own]), rel=1e-4)
            for row in own:
                shares = [float(value) for name, value in row.items() if name.startswith("share_")]
                assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_what_may_be_shown_to_others_names_no_patient_and_says_what_the_gate_means(run, hospitals):
    for name in ("focus.json", "example.svg"):
        text = (run / "focus" / name).read_text()
        assert not any(patient in text for patient in held_out(hospitals))
    assert "does not weigh PET against CT" in (run / "focus" / "focus.json").read_text()


def test_the_report_has_the_section_where_there_is_a_focus_file(run, tmp_path):
    plain = tmp_path / "run"
    shutil.copytree(run, plain, ignore=shutil.ignore_patterns("focus"))
    assert read_focus(read_run(plain)) is None
    page = build_report(run).read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    found = json.loads((run / "focus" / "focus.json").read_text())
    assert "What the network looks at" in text
    for level in found["gates"]:
        assert f"{level['Stage I']['whole']['mean']:.3f}" in text
    assert "does not weigh PET against CT" in text
    assert 'id="focus-example"' in page


def test_a_comparisons_report_shows_the_focus_of_its_federated_arm(run, tmp_path):
    write_comparison(tmp_path, patients=30, bootstrap=10)
    assert read_focus(read_run(tmp_path)) is None
    shutil.copytree(run / "focus", tmp_path / "arms" / "federated" / "focus")
    assert read_focus(read_run(tmp_path)) == read_focus(read_run(run))


def test_one_patient_by_name(run, hospitals, tmp_path, capsys):
    chosen = held_out(hospitals)[-1]
    assert main(["explain", str(run), "--patient", chosen, "--out", str(tmp_path / "one"), "--json"]) == 0
    assert [path.name for path in (tmp_path / "one" / "patients").iterdir()] == [f"hospital-2-{chosen}"]
    assert json.loads(capsys.readouterr().out)["patients"] == len(held_out(hospitals))


def test_a_patient_that_is_not_for_testing_is_refused_and_nothing_is_written(run, hospitals, tmp_path, capsys):
    trained_on = next(p.id for p in load_cohort(hospitals[0]).patients if p.id not in held_out(hospitals))
    assert main(["explain", str(run), "--patient", trained_on, "--out", str(tmp_path / "one")]) == 2
    assert f"patient {trained_on!r} is none of the" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


def test_a_cohort_of_the_run_is_cut_to_its_test_patients_and_another_is_not(run, hospitals, tmp_path, capsys):
    drawing_one = ["explain", str(run), "--patients", "1", "--json", "--cohort"]
    own = main([*drawing_one, str(hospitals[0]), "--out", str(tmp_path / "own")])
    said = json.loads(capsys.readouterr().out)
    assert own == 0
    assert said["patients"] == len([p for p in held_out(hospitals) if p.startswith("H1")])
    shutil.copytree(hospitals[0], tmp_path / "elsewhere")
    assert main([*drawing_one, str(tmp_path / "elsewhere"), "--out", str(tmp_path / "x")]) == 0
    found = json.loads((tmp_path / "x" / "focus.json").read_text())
    assert found["patients"] == len(load_cohort(hospitals[0]))


def test_a_run_with_one_model_for_both_stages_compares_nothing(hospitals, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings(hospitals, "per-round")))
    assert main(["train", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), "--patients", "1", "--json"]) == 0
    assert "no two stages to compare" in json.loads(capsys.readouterr().out)["focus"]
    found = json.loads((tmp_path / "run" / "focus" / "focus.json").read_text())
    assert found["stages"] == ["Model"]
    assert not {"focus", "fusion"} & set(found)
    section = read_focus(read_run(tmp_path / "run"))
    assert "there are no two stages to compare" in section.answers[0]
    assert all("Difference" not in table.columns for table in section.tables)


def test_weights_are_the_same_only_where_every_tensor_is():
    first = {"a": np.arange(3.0), "b": np.ones((2, 2))}
    assert same_weights(first, {name: value.copy() for name, value in first.items()})
    assert not same_weights(first, first | {"b": np.zeros((2, 2))})
    assert not same_weights(first, {"a": np.arange(3.0)})


def test_a_broken_focus_file_is_refused_by_its_name(run, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / "focus" / "focus.json").write_text('{"stages": []}')
    with pytest.raises(InputError, match=r"focus.json: is not what `adamss-fl explain` writes"):
        read_focus(read_run(broken))


def test_a_run_whose_parts_stay_at_the_sites_is_refused(run, tmp_path, capsys):
    split = tmp_path / "run"
    shutil.copytree(run, split, ignore=shutil.ignore_patterns("focus"))
    config = yaml.safe_load((split / "config.yaml").read_text())
    config["federation"]["groups"] = {"norm_statistics": "local"}
    (split / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["explain", str(split)]) == 2
    assert "parts of this model stay at its sites" in capsys.readouterr().err
    assert not (split / "focus").exists()
