"""The tabular vector: its order, its length before and after the selection, and its way into a checkpoint and back."""

import json
import math
from typing import Any

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.radiomics import ColumnEncoding, FeatureScale, TabularEncoding

AGE = ColumnEncoding("age_years", "continuous", mean=60.1, sd=1 / 3)
HPV = ColumnEncoding("hpv", "binary", levels=("0", "1"))
TOBACCO = ColumnEncoding("tobacco", "categorical", levels=("0", "1", "2"))
BEFORE = TabularEncoding((TOBACCO, AGE, HPV), places=3)
AFTER = BEFORE.with_selected(["tumour.ct.b", "tumour.pet.a"], [10.0, -1.0], [2.0, 0.1])
PATIENT = {"age_years": 61.1, "hpv": 1.0, "tobacco": 2.0, "sex": None}
FEATURES = {"tumour.pet.a": -0.95, "tumour.ct.b": 4.0, "tumour.pet.unused": math.nan}


def test_clinical_columns_come_first_then_features_in_order_then_the_flag() -> None:
    assert AFTER.names == (
        *("tobacco=0", "tobacco=1", "tobacco=2", "tobacco.missing", "age_years", "age_years.missing"),
        *("hpv=1", "hpv.missing", "tumour.ct.b", "tumour.pet.a", "radiomics.place-3", "radiomics.missing"),
    )
    found = AFTER.encode(PATIENT, FEATURES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, 1, 0, 3, 0, 1, 0, -3, 0.5, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("features", [None, FEATURES, {}])
def test_before_the_selection_the_length_is_the_same_and_all_of_radiomics_is_0(features: Any) -> None:
    assert BEFORE.length == AFTER.length == len(AFTER.encode(PATIENT, FEATURES)) == 12
    found = BEFORE.encode(PATIENT, features)
    assert found.shape == (12,)
    assert not found[8:].any()
    np.testing.assert_array_equal(found[:8], AFTER.encode(PATIENT, FEATURES)[:8])


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (None, [0, 0, 0, 1]),
        (FEATURES | {"tumour.ct.b": math.nan}, [0, 0.5, 0, 1]),
        (FEATURES | {"tumour.pet.a": math.inf}, [-3, 0, 0, 1]),
        (FEATURES, [-3, 0.5, 0, 0]),
    ],
)
def test_a_missing_feature_is_the_mean_and_raises_the_flag(features: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(AFTER.encode(PATIENT, features)[8:], expected, rtol=1e-6)


def test_without_radiomics_there_is_no_flag_and_without_anything_no_vector() -> None:
    assert TabularEncoding((HPV,)).names == ("hpv=1", "hpv.missing")
    assert TabularEncoding((HPV,)).encode({"hpv": None}, None).tolist() == [0.0, 1.0]
    assert TabularEncoding().length == 0
    assert TabularEncoding().encode({}, None).shape == (0,)


@pytest.mark.parametrize("encoding", [BEFORE, AFTER, TabularEncoding(), TabularEncoding((HPV,), 2, ())])
def test_an_encoding_comes_back_from_json_exactly(encoding: TabularEncoding) -> None:
    back = TabularEncoding.from_plain(json.loads(json.dumps(encoding.plain(), sort_keys=True, allow_nan=False)))
    assert back == encoding
    assert back.names == encoding.names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "'more' is unknown"),
        ({"format": 2}, "format 2"),
        ({"places": 1}, "2 features for 1 places"),
        ({"places": 2.5}, "count"),
        ({"clinical": {}}, "must be a list"),
        ({"clinical": [HPV.plain() | {"levels": ["0", "1", "2"]}]}, "levels fit"),
        ({"clinical": [HPV.plain() | {"levels": []}]}, "levels fit"),
        ({"clinical": [HPV.plain() | {"levels": ["0", "0"]}]}, "twice"),
        ({"clinical": [AGE.plain() | {"sd": 0.0}]}, "sd must be above 0"),
        ({"clinical": [AGE.plain() | {"levels": ["a"]}]}, "levels fit"),
        ({"clinical": [AGE.plain() | {"kind": "odd"}]}, "a name and a kind"),
        ({"clinical": [AGE.plain() | {"scale": 2}]}, "'scale' is unknown"),
        ({"selected": [{"name": "a", "mean": 0.0}]}, "'sd' is missing"),
        ({"selected": [{"name": "a", "mean": 0.0, "sd": "1"}]}, "not an array of numbers"),
        ({"selected": [{"name": "a", "mean": math.nan, "sd": 1.0}]}, "not finite"),
        ({"selected": [{"name": "a", "mean": 0.0, "sd": 0.0}]}, "above 0"),
        ({"selected": [{"name": "a", "mean": 0.0, "sd": 1.0}] * 2}, "twice"),
        ({"selected": [{"name": 3, "mean": 0.0, "sd": 1.0}]}, "needs a name"),
        ({"selected": "a"}, "a list or null"),
    ],
)
def test_a_record_that_is_no_encoding_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TabularEncoding.from_plain(AFTER.plain() | change)
    without = AFTER.plain()
    del without["places"]
    with pytest.raises(InputError, match="'places' is missing"):
        TabularEncoding.from_plain(without)


def test_a_patient_without_a_column_or_a_selected_feature_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'hpv'.*known are age_years, tobacco"):
        AFTER.encode({"age_years": 1.0, "tobacco": None}, FEATURES)
    with pytest.raises(InputError, match=r"'tumour\.ct\.b'.*extractor and settings of the run"):
        AFTER.encode(PATIENT, {"tumour.pet.a": 1.0})
    with pytest.raises(InputError, match="'age_years'"):
        AFTER.encode(PATIENT | {"age_years": "old"}, FEATURES)
    with pytest.raises(InputError, match="4 features for 3 places"):
        BEFORE.with_selected(list("abcd"), [0.0] * 4, [1.0] * 4)
    with pytest.raises(InputError, match="above 0"):
        TabularEncoding(places=1, selected=(FeatureScale("a", 0.0, -1.0),))
