"""Clinical columns: sums that merge exactly, and encodings that say what is missing."""

import json
import math
from functools import reduce
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.radiomics import ClinicalColumn, ClinicalSums, ColumnEncoding
from adamss_fl.radiomics.clinical import MOST_LEVELS

COLUMNS = (
    ClinicalColumn("weight_kg"),
    ClinicalColumn("hpv", "binary"),
    ClinicalColumn("tobacco", "categorical"),
    ClinicalColumn("age_years"),
)


def patients(seed: int, count: int = 40) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)

    def some(value: Any) -> Any:
        return value if rng.random() > 0.2 else None

    return [
        {
            "age_years": some(float(rng.normal(60, 10))),
            "hpv": some(float(rng.integers(0, 2))),
            "tobacco": some(str(rng.choice(["never", "former", "current"]))),
            "weight_kg": some(float(rng.normal(1e6, 1e-2))),
            "unused": "x",
        }
        for _ in range(count)
    ]


def one(
    kind: Literal["continuous", "binary", "categorical"], values: list[Any], name: str = "x"
) -> tuple[ColumnEncoding, ClinicalSums]:
    sums = ClinicalSums.of((ClinicalColumn(name, kind),), [{name: value} for value in values])
    return sums.encodings()[0], sums


def test_sums_of_sites_merge_to_those_of_all_patients_and_equal_numpy() -> None:
    """Also where the mean is huge beside the spread, which sums of squares lose in float64."""
    sites = [patients(seed, count) for seed, count in enumerate((40, 7, 90))]
    merged = reduce(ClinicalSums.__add__, [ClinicalSums.of(COLUMNS, site) for site in sites])
    everyone = [patient for site in sites for patient in site]
    pooled = ClinicalSums.of(COLUMNS, everyone)
    for name in ("age_years", "weight_kg"):
        values = np.array([p[name] for p in everyone if p[name] is not None])
        for found in (merged.columns[name], pooled.columns[name]):
            assert (found.present, found.missing) == (len(values), len(everyone) - len(values))
            assert found.moments.mean[0] == pytest.approx(values.mean(), rel=1e-12)
            assert found.moments.sd[0] == pytest.approx(values.std(), rel=1e-6 if name == "weight_kg" else 1e-12)
        assert merged.columns[name].moments.mean[0] == pytest.approx(pooled.columns[name].moments.mean[0], rel=1e-12)
    for name, levels in (("hpv", ["0", "1"]), ("tobacco", ["current", "former", "never"])):
        texts = [str(p[name]).removesuffix(".0") for p in everyone if p[name] is not None]
        expected = {level: texts.count(level) for level in levels}
        assert list(merged.columns[name].levels.items()) == list(pooled.columns[name].levels.items())
        assert list(merged.columns[name].levels.items()) == list(expected.items())
    assert list(merged.columns) == [column.name for column in COLUMNS]


def test_sums_hold_counts_means_and_spreads_and_nothing_else() -> None:
    plain = ClinicalSums.of(COLUMNS, patients(0)).plain()
    assert all(set(each) == {"name", "kind", "present", "missing", "moments", "levels"} for each in plain["columns"])
    assert all(np.size(number) == 1 for each in plain["columns"] for number in each["moments"].values())


@pytest.mark.parametrize("kind", ["continuous", "binary", "categorical"])
@pytest.mark.parametrize("present", [0, 1, 2])
def test_a_column_that_fewer_than_three_patients_of_a_site_have_leaves_no_trace(kind: Any, present: int) -> None:
    values = [1.0, 2.0][:present] + [None] * 5
    found = ClinicalSums.of((ClinicalColumn("x", kind),), [{"x": value} for value in values])
    assert found.plain() == ClinicalSums.of((ClinicalColumn("x", kind),), [{"x": None}] * len(values)).plain()
    whole = ClinicalSums.of((ClinicalColumn("x", kind),), [{"x": value} for value in (1.0, 2.0, 2.0)])
    assert (found + whole).encodings() == (whole + found).encodings() == whole.encodings()


def test_a_continuous_value_becomes_its_z_score_beside_a_flag() -> None:
    encoding, _ = one("continuous", [1.0, 2.0, 6.0, None])
    assert encoding.names == ("x", "x.missing")
    assert encoding.encode(5) == pytest.approx(((5 - 3) / np.std([1, 2, 6]), 0.0))
    assert encoding.encode(None) == encoding.encode(math.nan) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.1, 0.0, 1e9 / 3])
def test_a_constant_column_is_zero_and_not_nan(value: float) -> None:
    sites = [ClinicalSums.of((ClinicalColumn("x"),), [{"x": value}] * count) for count in (3, 7, 11)]
    (encoding,) = reduce(ClinicalSums.__add__, sites).encodings()
    assert encoding.sd == 1
    assert encoding.encode(value) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_a_binary_value_is_its_place_in_order_whichever_way_it_is_written() -> None:
    encoding, _ = one("binary", [1.0, 0.0, 1, None])
    assert encoding.names == ("x=1", "x.missing")
    assert [encoding.encode(v) for v in (0.0, 1.0, "1", True, None)] == [(0, 0), (1, 0), (1, 0), (1, 0), (0, 1)]
    named, _ = one("binary", ["M", "F", " M "])
    assert named.levels == ("F", "M")
    assert [named.encode(v) for v in ("F", "M", "")] == [(0, 0), (1, 0), (0, 1)]
    single, _ = one("binary", [1.0, 1.0, 1.0])
    assert [single.encode(v) for v in (1.0, 0.0, None)] == [(0, 0), (0, 1), (0, 1)]


def test_a_categorical_value_is_one_hot_and_an_unseen_level_counts_as_missing() -> None:
    encoding, _ = one("categorical", [10.0, 2.0, 2.0, "high", None])
    assert encoding.names == ("x=2", "x=10", "x=high", "x.missing")
    assert encoding.encode(10) == (0, 1, 0, 0)
    assert encoding.encode("high") == (0, 0, 1, 0)
    assert encoding.encode("low") == encoding.encode(None) == (0, 0, 0, 1)


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3), st.sampled_from(["a", "b", "nan", "inf", ""])), max_size=30))
def test_levels_do_not_depend_on_the_order_of_patients_or_sites(values: list[Any]) -> None:
    def sums(part: list[Any]) -> ClinicalSums:
        return ClinicalSums.of((ClinicalColumn("x", "categorical"),), [{"x": value} for value in part])

    assert sums(values).plain() == sums(values[::-1]).plain()
    half = len(values) // 2
    one, two = sums(values[:half]), sums(values[half:])
    assert list((one + two).columns["x"].levels) == list((two + one).columns["x"].levels)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_mistakes_name_the_column_and_never_a_value_of_a_patient() -> None:
    def message(kind: Any, values: list[Any]) -> str:
        with pytest.raises(InputError) as caught:
            one(kind, values, "hpv")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    text = message("continuous", [1.0, 2.0, "secret", 3.0])
    assert text.startswith("clinical column 'hpv': the value at position 2 is not a finite number")
    assert "secret" not in text
    assert "not a finite number" in message("continuous", [1.0, 2.0, math.inf, 3.0])
    assert "is binary, but has the levels 0, 1, 2" in message("binary", [0, 1, 2])
    assert "no site has" in message("categorical", [None, None, None])
    names = [f"secret {number}" for number in range(MOST_LEVELS + 1)]
    text = message("categorical", names)
    assert f"{MOST_LEVELS + 1} different values" in text
    assert "secret" not in text
    with pytest.raises(InputError, match=r"'age'.*position 0 has no such column; known are hpv"):
        ClinicalSums.of((ClinicalColumn("age"),), [{"hpv": 1.0}])
    with pytest.raises(InputError, match=r"'hpv'.*not a finite number"):
        one("continuous", [1.0, 2.0, 3.0], "hpv")[0].encode("text")


def test_a_third_level_at_another_site_is_found_when_sums_are_merged() -> None:
    sites = [one("categorical", levels)[1] for levels in (["0", "1", "1"], ["1", "2", "2"])]
    binary = [
        ClinicalSums.from_plain(json.loads(json.dumps(s.plain()).replace("categorical", "binary"))) for s in sites
    ]
    with pytest.raises(InputError, match="levels 0, 1, 2"):
        (binary[0] + binary[1]).encodings()


# --- on the wire ------------------------------------------------------------------------------------------------------


def test_sums_and_encodings_travel_as_json_without_loss() -> None:
    sums = ClinicalSums.of(COLUMNS, patients(3))
    back = ClinicalSums.from_plain(json.loads(json.dumps(sums.plain(), sort_keys=True)))
    assert back.plain() == sums.plain()
    assert back.encodings() == sums.encodings()
    assert list(back.columns) == list(sums.columns)
    for encoding in sums.encodings():
        assert ColumnEncoding.from_plain(json.loads(json.dumps(encoding.plain()))) == encoding


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"present": 41}, "do not add up"),
        ({"present": -1}, "count"),
        ({"missing": 0.5}, "count"),
        ({"kind": "odd"}, "kind must be one of continuous, binary, categorical"),
        ({"levels": ["0"]}, "levels a mapping"),
        ({"extra": 1}, "'extra' is unknown"),
        ({"moments": {"n": [40], "mean": [math.nan], "m2": [1.0]}}, "not finite"),
        ({"moments": {"n": [40], "mean": [1.0], "m2": [-1.0]}}, "negative"),
        ({"moments": {"n": [0], "mean": [1.0], "m2": [0.0]}}, "no patient has"),
        ({"moments": {"n": [1, 2], "mean": [1.0, 1.0], "m2": [0.0, 0.0]}}, "shape"),
    ],
)
def test_sums_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    plain = ClinicalSums.of(COLUMNS[:1], patients(0)).plain()
    with pytest.raises(InputError, match=message):
        ClinicalSums.from_plain({"columns": [plain["columns"][0] | change]})


def test_sums_of_other_columns_are_not_merged() -> None:
    with pytest.raises(InputError, match="ask every site for the same"):
        ClinicalSums.of(COLUMNS[:2], patients(0)) + ClinicalSums.of(COLUMNS[1:3], patients(0))
    for bad in ({"columns": {}}, {"columns": [{"kind": "binary"}]}, {"columns": [1]}, []):
        with pytest.raises(InputError):
            ClinicalSums.from_plain(bad)
