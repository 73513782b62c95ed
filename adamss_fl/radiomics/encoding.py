"""The tabular vector: what a saved model carries, so that inference encodes a patient as training did."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.radiomics.clinical import ColumnEncoding

FORMAT = 1
MISSING = "radiomics.missing"


@dataclass(frozen=True)
class FeatureScale:
    """A selected feature and its mean and standard deviation over the training patients that have it."""

    name: str
    mean: float
    sd: float


@dataclass(frozen=True)
class TabularEncoding:
    """Clinical columns, then the selected radiomics features, then a flag for missing ones; one float32 each.

    clinical : the columns' encodings in order.
    places : numbers kept for radiomics features; 0 where a run uses none, and then there is no flag either.
    selected : the features in their places, at most ``places``; places beyond them stay 0. None until they are
        selected: the vector then has its full length, and 0 in every place and in the flag, so that the network's size
        is fixed from the start and nothing is learnt of what is not known yet.
    """

    clinical: tuple[ColumnEncoding, ...] = ()
    places: int = 0
    selected: tuple[FeatureScale, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse more features than places, a feature that is there twice, and scales that divide by nothing."""
        chosen = self.selected or ()
        if self.places < 0 or len(chosen) > self.places:
            raise InputError(f"tabular encoding: {len(chosen)} features for {self.places} places; select fewer")
        if len({scale.name for scale in chosen}) != len(chosen):
            raise InputError("tabular encoding: a feature is selected twice; select it once")
        if not all(math.isfinite(each.mean) and math.isfinite(each.sd) and each.sd > 0 for each in chosen):
            raise InputError("tabular encoding: a feature's mean or sd is not finite, or its sd not above 0")

    @property
    def names(self) -> tuple[str, ...]:
        """One name per number."""
        chosen = [scale.name for scale in self.selected or ()]
        unused = [f"radiomics.place-{place + 1}" for place in range(len(chosen), self.places)]
        columns = [name for column in self.clinical for name in column.names]
        return (*columns, *chosen, *unused, *([MISSING] if self.places else []))

    @property
    def length(self) -> int:
        """r, the same before and after the selection."""
        return len(self.names)

    def with_selected(self, names: Sequence[str], mean: Sequence[float], sd: Sequence[float]) -> "TabularEncoding":
        """The same encoding with its features selected; raises InputError for more than there are places."""
        scales = (FeatureScale(n, float(m), float(s)) for n, m, s in zip(names, mean, sd, strict=True))
        return replace(self, selected=tuple(scales))

    def encode(
        self, clinical: Mapping[str, str | float | None], features: Mapping[str, float] | None
    ) -> NDArray[np.float32]:
        """One patient's vector (r,).

        clinical : canonical name -> value, None where it is missing. features : name -> value, NaN where it does not
        exist; None where the patient has no features at all. A feature that does not exist counts as the training mean
        (0), and the flag is then 1.
        Raises InputError where a column or a selected feature is not in its mapping, or a value is of the wrong kind.
        """
        numbers: list[float] = []
        for column in self.clinical:
            if column.name not in clinical:
                raise InputError(
                    f"clinical column {column.name!r}: the model was trained with it, and the patient has no such "
                    f"column; known are {', '.join(sorted(clinical)) or 'none'}"
                )
            numbers += column.encode(clinical[column.name])
        if self.places:
            numbers += self._radiomics(features)
        return np.array(numbers, dtype=np.float32)

    def _radiomics(self, features: Mapping[str, float] | None) -> list[float]:
        if self.selected is None:
            return [0.0] * (self.places + 1)
        values = [0.0] * (self.places + 1)
        for place, scale in enumerate(self.selected):
            value = math.nan if features is None else features.get(scale.name)
            if value is None:
                raise InputError(
                    f"radiomics feature {scale.name!r}: the model was trained with it, and the extractor does not give "
                    "it; use the extractor and settings of the run"
                )
            if math.isfinite(value):
                values[place] = (value - scale.mean) / scale.sd
            else:
                values[-1] = 1.0
        if features is None:
            values[-1] = 1.0
        return values

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        chosen = self.selected
        return {
            "format": FORMAT,
            "clinical": [column.plain() for column in self.clinical],
            "places": self.places,
            "selected": None if chosen is None else [{"name": f.name, "mean": f.mean, "sd": f.sd} for f in chosen],
        }

    @classmethod
    def from_plain(cls, given: Any) -> "TabularEncoding":
        """The inverse of ``plain``, exactly; raises InputError for an unknown or missing key, or another format."""
        what = "tabular encoding"
        found = plain.record(given, ("format", "clinical", "places", "selected"), what)
        if found["format"] != FORMAT:
            raise InputError(f"{what}: format {found['format']!r} is not {FORMAT}; use the version that wrote it")
        columns, chosen = found["clinical"], found["selected"]
        if not isinstance(columns, list) or not isinstance(chosen, (list, type(None))):
            raise InputError(f"{what}: 'clinical' must be a list, and 'selected' a list or null")
        places = int(plain.counts(found["places"], (), f"{what}: places"))
        selected = None if chosen is None else tuple(_scale(each) for each in chosen)
        return cls(tuple(ColumnEncoding.from_plain(each) for each in columns), places, selected)


def _scale(given: Any) -> FeatureScale:
    found = plain.record(given, ("name", "mean", "sd"), "tabular encoding: a feature")
    if not isinstance(found["name"], str):
        raise InputError("tabular encoding: a feature needs a name")
    what = f"tabular encoding: feature {found['name']!r}"
    return FeatureScale(found["name"], *(float(plain.floats(found[key], (), what)) for key in ("mean", "sd")))
