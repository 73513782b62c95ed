"""From a folder to a ``Cohort``: the one reader behind every layout."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamss_fl.cohort.layouts import Column, Endpoint, Layout, Table
from adamss_fl.cohort.records import Cohort, Patient, Problem
from adamss_fl.errors import InputError

DAYS_PER = {"days": 1.0, "months": 365.25 / 12, "years": 365.25}

Row = Mapping[str, str]


def load_cohort(
    path: Path | str, layout: str | Layout = "hecktor2022", name: str | None = None, *, endpoints: bool = True
) -> Cohort:
    """The patients with PET and CT below ``path``, sorted by identifier; image files are not opened.

    layout : name of a registered ``cohort_layout``, or a ``Layout``.
    name : the cohort's name, by default the folder's.
    endpoints : False leaves every endpoint unread (None), for patients whose outcome is to be predicted.

    Whoever lacks PET, CT or both is left out and named in ``Cohort.problems``. A patient with a blank endpoint stays,
    with time and event None.

    Raises ``InputError`` where the folder or its endpoint table is missing, there is no patient with images, an
    identifier occurs twice, or an endpoint cannot be read: a time that is negative or no number, an event not 0 or 1.
    """
    root = Path(path)
    if isinstance(layout, str):
        layout = registered_layout(layout)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; give the folder of a cohort in the layout {layout.name!r}")
    pet, ct, mask = (_find(root, patterns) for patterns in (layout.pet, layout.ct, layout.mask))
    endpoint_file, endpoint_rows = _read_table(root, layout.endpoint.table if endpoints else None, required=True)
    clinical_file, clinical_rows = _read_table(root, layout.clinical_table, required=False)
    complete = sorted(pet.keys() & ct.keys())
    if not complete:
        raise InputError(f"{root}: no patient with PET ({layout.pet[0]}) and CT ({layout.ct[0]}); mend path or layout")
    patients = []
    for patient_id in complete:
        outcome = layout.endpoint, endpoint_file, endpoint_rows.get(patient_id), pet[patient_id]
        time_days, event = _endpoint(*outcome) if endpoints else (None, None)
        patients.append(
            Patient(
                id=patient_id,
                site=name or root.resolve().name,
                pet=pet[patient_id],
                ct=ct[patient_id],
                mask=mask.get(patient_id),
                time_days=time_days,
                event=event,
                clinical=_clinical(layout, clinical_file, patient_id, clinical_rows.get(patient_id, {})),
            )
        )
    problems = _left_out(pet, ct, endpoint_rows.keys() | clinical_rows.keys())
    return Cohort(name or root.resolve().name, root, layout, tuple(patients), problems)


def read_clinical(path: Path, layout: Layout, patient_id: str) -> dict[str, str | float | None]:
    """Clinical values of one patient by canonical name, from any CSV file with the layout's columns.

    A column may also go by its canonical name. Raises ``InputError`` where the file is missing or unreadable, does not
    hold the patient, or holds a value that is no number where it must be one.
    """
    table = layout.clinical_table or Table(files=())
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a CSV file of clinical values")
    _, rows = _read_table(path.parent, replace(table, files=(path.name,)), required=True)
    if patient_id not in rows:
        some = ", ".join(list(rows)[:5]) + (", ..." if len(rows) > 5 else "")
        raise InputError(f"{path}: there is no patient {patient_id!r} (it has {some or 'nobody'}); give --patient")
    named = {name: replace(column, names=(*column.names, name)) for name, column in layout.clinical.items()}
    return _clinical(replace(layout, clinical=named), path, patient_id, rows[patient_id])


def parse_clinical(text: str, name: str, layout: Layout) -> str | float | None:
    """One clinical value as written by a user; None where it means that it is not known.

    Raises ``InputError`` where the layout says that it is a number and it is none.
    """
    missing = (layout.clinical_table or Table(files=())).missing
    column = layout.clinical.get(name, Column((name,)))
    if text.strip().lower() in missing:
        return None
    if column.kind == "text":
        return text.strip()
    number = _number(text)
    if number is None and name in layout.clinical:
        raise InputError(f"{name} is {text!r}; it must be a number")
    return text.strip() if number is None else number


def registered_layout(name: str) -> Layout:
    """The layout registered as ``name``. Raises ``InputError`` where there is none."""
    from adamss_fl import plugins

    layout = plugins.create("cohort_layout", name, where="layout")
    if not isinstance(layout, Layout):
        raise InputError(f"layout {name!r}: the plugin returned {type(layout).__name__}, not a Layout")
    return layout


def _find(root: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Path by identifier of the files below ``root`` that match a pattern; earlier patterns win."""
    found: dict[str, Path] = {}
    taken: set[Path] = set()
    for pattern in patterns:
        regex = re.compile(re.escape(pattern).replace(r"\{id\}", r"(?P<id>[^/]+?)"))
        for path in sorted(root.glob(pattern.replace("{id}", "*"))):
            match = regex.fullmatch(path.relative_to(root).as_posix())
            if match and path not in taken:
                taken.add(path)
                found.setdefault(match["id"], path)
    return found


def _read_table(root: Path, table: Table | None, *, required: bool) -> tuple[Path, dict[str, dict[str, str]]]:
    """The table's file, and its rows by patient identifier with missing values as empty strings."""
    if table is None:
        return root, {}
    path = next((root / name for name in table.files if (root / name).is_file()), None)
    if path is None:
        if required:
            raise InputError(f"{root}: there is no {' or '.join(table.files)}; put it there or choose another layout")
        return root / table.files[0], {}
    rows: dict[str, dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            column = next((c for c in table.id_columns if c in (reader.fieldnames or ())), None)
            if column is None:
                raise InputError(
                    f"{path}: there is no column {' or '.join(table.id_columns)}; rename the identifiers' column"
                )
            for raw in reader:
                row = {key: _present(value, table) for key, value in raw.items() if isinstance(key, str)}
                if row[column] in rows:
                    raise InputError(f"{path}: patient {row[column]} has more than one row; keep one")
                if row[column]:
                    rows[row[column]] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error}); save it so") from error
    return path, rows


def _present(value: str | None, table: Table) -> str:
    text = (value or "").strip()
    return "" if text.lower() in table.missing else text


def _endpoint(endpoint: Endpoint, file: Path, row: Row | None, archive: Path) -> tuple[float | None, int | None]:
    """Time in days and event of one patient, or None twice where either is blank."""
    if endpoint.table is None:
        file, row = archive, _archive_endpoint(archive, endpoint)
        patient_id = archive.stem
    elif row is None:
        return None, None
    else:
        patient_id = next(row[c] for c in endpoint.table.id_columns if c in row)
    for column in (endpoint.time, endpoint.event):
        if column not in row:
            raise InputError(f"{file}: there is no {column!r} (the endpoint of this layout); it has {', '.join(row)}")
    time_text, event_text = row[endpoint.time], row[endpoint.event]
    if not time_text or not event_text:
        return None, None
    time, event = _number(time_text), _number(event_text)
    where = f"{file}: patient {patient_id}"
    if time is None or time < 0:
        raise InputError(f"{where}: {endpoint.time} is {time_text!r}; it must be a time in {endpoint.unit}, 0 or more")
    if event not in (0.0, 1.0):
        raise InputError(f"{where}: {endpoint.event} is {event_text!r}; it must be 1 (event) or 0 (censored)")
    return time * DAYS_PER[endpoint.unit], int(event)


def _archive_endpoint(archive: Path, endpoint: Endpoint) -> dict[str, str]:
    import zipfile

    import numpy as np

    try:
        with np.load(archive, allow_pickle=False) as arrays:
            return {key: _scalar(arrays[key]) for key in (endpoint.time, endpoint.event) if key in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{archive}: not an .npz archive of plain arrays ({error}); write it anew") from error


def _scalar(array: Any) -> str:
    if array.size != 1:
        return f"an array of {array.size} values"
    text = str(array.reshape(()).item())
    return "" if text.lower() == "nan" else text


def _number(text: str) -> float | None:
    """``text`` as a finite number, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _clinical(layout: Layout, file: Path, patient_id: str, row: Row) -> dict[str, str | float | None]:
    """Clinical values by canonical name; None where the column or the value is missing."""
    values: dict[str, str | float | None] = {}
    for canonical, column in layout.clinical.items():
        text = next((row[name] for name in column.names if row.get(name)), "")
        if not text:
            values[canonical] = None
        elif column.kind == "text":
            values[canonical] = text
        else:
            number = _number(text)
            if number is None:
                raise InputError(f"{file}: patient {patient_id}: {canonical} is {text!r}; it must be a number or blank")
            values[canonical] = number
    return values


def _left_out(pet: Mapping[str, Path], ct: Mapping[str, Path], listed: set[str]) -> tuple[Problem, ...]:
    """One problem for each patient without PET, without CT, or in a table without any image."""
    reasons = (
        (ct.keys() - pet.keys(), "no_pet", "left out: there is a CT but no PET"),
        (pet.keys() - ct.keys(), "no_ct", "left out: there is a PET but no CT"),
        (listed - pet.keys() - ct.keys(), "no_images", "left out: listed in a table, but there is neither PET nor CT"),
    )
    problems = (Problem(patient_id, code, text) for ids, code, text in reasons for patient_id in ids)
    return tuple(sorted(problems, key=lambda problem: problem.patient))
