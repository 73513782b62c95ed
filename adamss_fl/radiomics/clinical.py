"""Clinical columns: what training patients of all sites teach about them, and how a value becomes numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import numpy as np

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.radiomics.moments import LEAST_PATIENTS, Moments
from adamss_fl.radiomics.settings import ClinicalColumn

Values = Mapping[str, str | float | None]
KINDS: tuple[str, ...] = get_args(get_type_hints(ClinicalColumn)["kind"])
MOST_LEVELS = 20
"""More levels than that are free text or identifiers, which must not leave a site."""


@dataclass(frozen=True)
class ColumnSums:
    """One column over the patients of a site, or of several.

    present, missing : patients with and without a value.
    moments : of a continuous column, one variable. levels : of another, level -> patients.
    """

    kind: str
    present: int
    missing: int
    moments: Moments
    levels: Mapping[str, int]

    def __add__(self, other: "ColumnSums") -> "ColumnSums":
        names = sorted({*self.levels, *other.levels}, key=_level_order)
        return ColumnSums(
            self.kind,
            self.present + other.present,
            self.missing + other.missing,
            self.moments + other.moments,
            {level: self.levels.get(level, 0) + other.levels.get(level, 0) for level in names},
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "kind": self.kind,
            "present": self.present,
            "missing": self.missing,
            "moments": self.moments.plain(),
            "levels": dict(self.levels),
        }


@dataclass(frozen=True)
class ClinicalSums:
    """All columns over the patients of a site; ``+`` merges sites.

    What a site's sums tell, per column: how many patients have a value, and mean and spread of the values, or how many
    patients have each level. A column that fewer than LEAST_PATIENTS patients of the site have counts as missing in all
    of them.
    """

    columns: Mapping[str, ColumnSums]

    @classmethod
    def of(cls, columns: Sequence[ClinicalColumn], patients: Sequence[Values]) -> "ClinicalSums":
        """Sums over ``patients``, each a mapping of canonical name -> value, None where it is missing.

        Raises InputError where a column is not in a patient's mapping, holds text where its kind needs numbers, or has
        more levels than MOST_LEVELS. Messages give the position in the sequence and never a patient or a value.
        """
        return cls({column.name: _sums(column, patients) for column in columns})

    def __add__(self, other: "ClinicalSums") -> "ClinicalSums":
        mine, theirs = ({name: sums.kind for name, sums in each.columns.items()} for each in (self, other))
        if mine != theirs:
            raise InputError(
                f"clinical sums: columns {mine} and {theirs} cannot be merged; ask every site for the same"
            )
        return ClinicalSums({name: sums + other.columns[name] for name, sums in self.columns.items()})

    def encodings(self) -> tuple["ColumnEncoding", ...]:
        """How each column is encoded from now on.

        Raises InputError for a column that no patient has, or for a binary one with more than two levels.
        """
        return tuple(_encoding(name, sums) for name, sums in self.columns.items())

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {"columns": [{"name": name, **sums.plain()} for name, sums in self.columns.items()]}

    @classmethod
    def from_plain(cls, given: Any) -> "ClinicalSums":
        """The inverse of ``plain``; raises InputError for other keys, or sums that no patients can have."""
        columns = plain.record(given, ("columns",), "clinical sums")["columns"]
        if not isinstance(columns, list) or not all(isinstance(column, Mapping) for column in columns):
            raise InputError("clinical sums: 'columns' must be a list of mappings")
        names = plain.texts([column.get("name") for column in columns], "clinical sums: the columns' names")
        return cls({name: _column_from_plain(column) for name, column in zip(names, columns, strict=True)})


@dataclass(frozen=True)
class ColumnEncoding:
    """How one column's value becomes numbers, learnt on the training patients.

    continuous : (z, missing) with z = (value - mean) / sd. binary : (0 or 1 by the order of ``levels``, missing).
    categorical : (1 at the value's level, 0 at the others, missing). Levels are in order, numbers before text. A
    missing value is all 0 with missing = 1; so is a level that no training patient had, of which nothing was learnt.
    """

    name: str
    kind: str
    mean: float = 0.0
    sd: float = 1.0
    levels: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """One name per number, for example ``age_years, age_years.missing`` or ``hpv=1, hpv.missing``."""
        shown = {"continuous": (self.name,), "binary": tuple(f"{self.name}={level}" for level in self.levels[-1:])}
        one_hot = tuple(f"{self.name}={level}" for level in self.levels)
        return (*shown.get(self.kind, one_hot), f"{self.name}.missing")

    def encode(self, value: str | float | None) -> tuple[float, ...]:
        """The numbers of one value, as many as ``names``; raises InputError for text in a continuous column."""
        if self.kind == "continuous":
            number = _number(value, self.name, "")
            return (0.0, 1.0) if number is None else ((number - self.mean) / self.sd, 0.0)
        level = _level(value)
        known = level in self.levels
        places = self.levels if self.kind == "categorical" else self.levels[-1:]
        ones = [float(known and level == each and self._tells(each)) for each in places]
        return (*ones, float(not known))

    def _tells(self, level: str) -> bool:
        """A binary column with one level has nothing to tell apart."""
        return self.kind == "categorical" or self.levels.index(level) == 1

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.name, "kind": self.kind, "mean": self.mean, "sd": self.sd, "levels": list(self.levels)}

    @classmethod
    def from_plain(cls, given: Any) -> "ColumnEncoding":
        """The inverse of ``plain``; raises InputError for other keys or values."""
        found = plain.record(given, ("name", "kind", "mean", "sd", "levels"), "clinical encoding")
        if not isinstance(found["name"], str) or found["kind"] not in KINDS:
            raise InputError(f"clinical encoding: a column needs a name and a kind, one of {', '.join(KINDS)}")
        what = f"clinical encoding of {found['name']!r}"
        mean, sd = (float(plain.floats(found[key], (), what)) for key in ("mean", "sd"))
        levels = plain.texts(found["levels"], what)
        most = {"continuous": 0, "binary": 2}.get(found["kind"], len(levels))
        if sd <= 0 or len(levels) > most or (found["kind"] != "continuous" and not levels):
            raise InputError(f"{what}: sd must be above 0, and levels fit the kind {found['kind']}")
        return cls(found["name"], found["kind"], mean, sd, levels)


def _sums(column: ClinicalColumn, patients: Sequence[Values]) -> ColumnSums:
    for position, patient in enumerate(patients):
        if column.name not in patient:
            raise InputError(
                f"clinical column {column.name!r}: the patient at position {position} has no such column; known are "
                f"{', '.join(sorted(patient)) or 'none'}"
            )
    values = [patient[column.name] for patient in patients]
    numbers, levels = [math.nan] * len(values), {}
    if column.kind == "continuous":
        found = [_number(value, column.name, f" at position {at}") for at, value in enumerate(values)]
        numbers = [math.nan if number is None else number for number in found]
        present = sum(number is not None for number in found)
    else:
        named = [level for level in map(_level, values) if level is not None]
        present = len(named)
        levels = {level: named.count(level) for level in sorted(set(named), key=_level_order)}
    if len(levels) > MOST_LEVELS:
        raise InputError(
            f"clinical column {column.name!r}: {len(levels)} different values where {MOST_LEVELS} levels are the most; "
            "make it continuous, or leave it out if it is free text"
        )
    if present < LEAST_PATIENTS:
        present, levels = 0, {}
    moments = Moments.of(np.array(numbers, dtype=np.float64).reshape(-1, 1))
    return ColumnSums(column.kind, present, len(values) - present, moments, levels)


def _encoding(name: str, sums: ColumnSums) -> ColumnEncoding:
    if sums.present == 0:
        raise InputError(
            f"clinical column {name!r}: no site has {LEAST_PATIENTS} training patients with a value; take it out of "
            "tabular.clinical, or mend the tables"
        )
    if sums.kind == "binary" and len(sums.levels) > 2:
        raise InputError(
            f"clinical column {name!r}: is binary, but has the levels {', '.join(sums.levels)}; make it categorical, "
            "or mend the tables"
        )
    if sums.kind == "continuous":
        return ColumnEncoding(name, sums.kind, float(sums.moments.mean[0]), float(sums.moments.sd[0]))
    return ColumnEncoding(name, sums.kind, levels=tuple(sums.levels))


def _column_from_plain(given: Mapping[str, Any]) -> ColumnSums:
    what = f"clinical sums of {given['name']!r}"
    found = plain.record(given, ("name", "kind", "present", "missing", "moments", "levels"), what)
    present, missing = (int(plain.counts(found[key], (), what)) for key in ("present", "missing"))
    if found["kind"] not in KINDS or not isinstance(found["levels"], Mapping):
        raise InputError(f"{what}: kind must be one of {', '.join(KINDS)}, and levels a mapping")
    names = plain.texts(list(found["levels"]), what)
    levels = {level: int(plain.counts(found["levels"][level], (), what)) for level in sorted(names, key=_level_order)}
    moments = Moments.from_plain(found["moments"], variables=1)
    if present != (int(moments.n[0]) if found["kind"] == "continuous" else sum(levels.values())):
        raise InputError(f"{what}: the patients with a value do not add up")
    return ColumnSums(found["kind"], present, missing, moments, levels)


def _number(value: str | float | None, column: str, where: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str) or not math.isfinite(value):
        raise InputError(
            f"clinical column {column!r}: the value{where} is not a finite number; mend it, leave it blank, or make "
            "the column categorical"
        )
    return float(value)


def _level(value: str | float | None) -> str | None:
    """A value as a level: numbers without needless decimals, text without blanks around it; None where missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.strip() or None
    number = float(value)
    return str(int(number)) if math.isfinite(number) and number == int(number) else repr(number)


def _level_order(level: str) -> tuple[bool, float, str]:
    try:
        number = float(level)
    except ValueError:
        number = math.nan
    return (False, number, level) if math.isfinite(number) else (True, 0.0, level)
