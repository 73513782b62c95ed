"""``adamss-fl predict``: one patient's risk, survival curve and masks, or those of a folder of patients."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adamss_fl.cli.shell import JsonOption, console, emit, following
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.prediction import Scan, TrainedRun

_FILE_ENDINGS = re.compile(r"(_*(PT|PET))?(\.nii(\.gz)?|\.\w+)$", re.IGNORECASE)


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished or cross-validated run.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; results of the same name are replaced.")],
    pet: Annotated[Path | None, typer.Option(help="The patient's PET in SUV (NIfTI).")] = None,
    ct: Annotated[Path | None, typer.Option(help="The patient's CT in HU (NIfTI).")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A mask of the tumour to centre the box on, where the run's box is centred so.")
    ] = None,
    clinical: Annotated[
        list[str],
        typer.Option(metavar="FILE|NAME=VALUE", help="A CSV file with the patient's row, or one value; repeatable."),
    ] = [],  # noqa: B006 - typer reads the default, nothing changes it
    patient: Annotated[
        str | None, typer.Option(help="The patient's identifier; by default the name of the PET's file.")
    ] = None,
    cohort: Annotated[Path | None, typer.Option(help="A folder of patients, instead of --pet and --ct.")] = None,
    layout: Annotated[str, typer.Option(help="Layout of the folder and of the clinical file.")] = "hecktor2022",
    quick: Annotated[
        bool, typer.Option("--quick", help="Segment the box once, not eight times: masks are a little coarser.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Predict risk, survival curve and masks of one patient, or of a folder of patients. For research only.

    Example: adamss-fl predict runs/pooled --pet P-1__PT.nii.gz --ct P-1__CT.nii.gz --out predictions/P-1
    """
    single = {"--pet": pet, "--ct": ct, "--mask": mask, "--patient": patient, "--clinical": clinical or None}
    if cohort is not None:
        given = [name for name, value in single.items() if value is not None]
        if given:
            raise InputError(f"{given[0]}: cannot be given with --cohort; leave one of them out")
    elif pet is None or ct is None:
        missing = "--pet" if pet is None else "--ct"
        raise InputError(f"{missing}: is missing; give --pet and --ct of one patient, or --cohort")
    from adamss_fl.prediction import load_folds, predict_cohort
    from adamss_fl.prediction.outputs import RESEARCH_USE_ONLY, describe_model, write_prediction
    from adamss_fl.prediction.patient import Predictor

    members = load_folds(run)
    if cohort is not None:
        with following("predict", one_task=True) as report:
            emit(predict_cohort(run, members, cohort, layout, out, report, not quick), json)
    elif pet is not None and ct is not None:
        scan = _read_scan(members[0], pet, ct, mask, clinical, patient, layout)
        with following("predict") as report:
            prediction = Predictor(members, not quick)(scan, report)
        emit(write_prediction(prediction, describe_model(run, members), out), json)
    console.print(RESEARCH_USE_ONLY, markup=False, soft_wrap=True)


def _read_scan(
    run: "TrainedRun", pet: Path, ct: Path, mask: Path | None, clinical: list[str], patient: str | None, layout: str
) -> "Scan":
    from adamss_fl.cohort import read_clinical, registered_layout
    from adamss_fl.imaging.volumes import read_volume
    from adamss_fl.prediction import Scan
    from adamss_fl.prediction.tabular import read_pairs, refuse_clinical_for_images

    name = patient or _FILE_ENDINGS.sub("", pet.name) or pet.name
    chosen = registered_layout(layout)
    values: dict[str, str | float | None] = {}
    files = [text for text in clinical if "=" not in text]
    if len(files) > 1:
        raise InputError(f"--clinical: two files, {files[0]} and {files[1]}; give one")
    if files:
        refuse_clinical_for_images(run)
        values |= read_clinical(Path(files[0]), chosen, name)
    pairs = dict(text.split("=", 1) for text in clinical if "=" in text)
    if pairs:
        values |= read_pairs(run, pairs, chosen)
    return Scan(
        patient=name,
        pet=read_volume(pet, name, "PET"),
        ct=read_volume(ct, name, "CT"),
        mask=None if mask is None else read_volume(mask, name, "mask"),
        clinical=values,
    )
