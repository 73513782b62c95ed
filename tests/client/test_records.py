"""The codec against the real wire: Flower's own serialisation of a message."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adamss_fl.federation.messages import Instruction, Reply
from client import records

NAMES = st.text("abcdefgh_.0123456789", min_size=1, max_size=12)
ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
)
FIGURES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def over_the_wire(record: RecordDict) -> RecordDict:
    return recorddict_from_proto(
        type(recorddict_to_proto(record)).FromString(recorddict_to_proto(record).SerializeToString())
    )


def assert_same_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert sorted(left) == sorted(right)
    for name, array in left.items():
        assert array.dtype == right[name].dtype
        assert array.shape == right[name].shape
        assert array.tobytes() == right[name].tobytes()


@settings(max_examples=40, deadline=None)
@given(weights=st.dictionaries(NAMES, ARRAYS, max_size=4), figures=st.dictionaries(NAMES, FIGURES, max_size=4))
def test_a_reply_survives_the_wire_bit_for_bit(weights, figures):
    reply = Reply("train", "hospital-1", "run", 3, 1, figures, weights)
    back = records.read_answer(over_the_wire(records.reply_record(reply)))
    assert isinstance(back, Reply)
    assert_same_bits(weights, back.weights)
    assert back.figures == figures
    assert (back.kind, back.site, back.run, back.round, back.attempt) == ("train", "hospital-1", "run", 3, 1)


@settings(max_examples=20, deadline=None)
@given(
    weights=st.none() | st.dictionaries(NAMES, ARRAYS, max_size=3),
    given_settings=st.dictionaries(NAMES, FIGURES, max_size=4),
)
def test_an_instruction_survives_the_wire_bit_for_bit(weights, given_settings):
    instruction = Instruction("statistics", "run", 0, 2, given_settings, weights)
    back = records.read_instruction(over_the_wire(records.instruction_record(instruction)))
    assert back.settings == given_settings
    assert (back.weights is None) == (weights is None)
    assert_same_bits(weights or {}, back.weights or {})


def test_special_floats_keep_their_bits():
    odd = np.array([np.nan, -0.0, np.inf, 1e-45, 0x7F800001], dtype=np.float32)
    odd[4] = np.frombuffer(np.uint32(0x7FC00ABC).tobytes(), np.float32)[0]
    back = records.read_answer(
        over_the_wire(records.reply_record(Reply("train", "a", "r", 1, 1, {"x": math.pi}, {"w": odd})))
    )
    assert back.weights["w"].tobytes() == odd.tobytes()
    assert back.figures["x"] == math.pi


def test_a_scalar_tensor_travels_with_one_dimension_and_fortran_order_does_not_matter():
    weights = {"count": np.int64(7), "w": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    back = records.read_answer(records.reply_record(Reply("train", "a", "r", 1, 1, {}, weights)))
    assert back.weights["count"].shape == (1,)
    np.testing.assert_array_equal(back.weights["w"], weights["w"])


def test_a_model_of_many_parts_comes_back_whole_and_no_part_is_larger_than_its_largest_tensor():
    rng = np.random.default_rng(0)
    sizes = {"a": 3 << 20, "b": 3 << 20, "c": 5 << 20, "d": 7, "e": 1 << 20}  # elements of 4 bytes: c is 20 MiB
    weights = {name: rng.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}
    record = over_the_wire(records.reply_record(Reply("train", "s", "r", 1, 1, {}, weights)))
    lengths = [len(part.data) for part in record.array_records["weights"].values()]
    assert len(lengths) == 4
    assert max(lengths) < weights["c"].nbytes + 1000
    back = records.read_answer(record)
    assert isinstance(back, Reply)
    assert_same_bits(weights, back.weights)


def test_a_tensor_that_comes_in_two_parts_is_refused():
    part = records.reply_record(Reply("train", "s", "r", 1, 1, {}, {"w": np.ones(2)}))
    array = part.array_records["weights"]["0000"]
    twice = RecordDict({"head": part.config_records["head"], "weights": ArrayRecord({"0": array, "1": array})})
    with pytest.raises(records.MalformedRecord, match="weights"):
        records.read_answer(twice)


@pytest.mark.parametrize("code", ["/data/patients/CHUM-001.nii.gz", "No space left", "", "x" * 41, "CHUM-001"])
def test_a_refusal_carries_a_plain_code_or_none_at_all(code):
    answer = records.read_answer(records.refusal_record(code))
    assert answer.code == "site_error"


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"head": ConfigRecord({"json": "{"})}),
        RecordDict({"head": ConfigRecord({"json": "[]"})}),
        RecordDict({"head": ConfigRecord({"json": 5})}),
        RecordDict(
            {"head": ConfigRecord({"json": '{"kind": "train", "site": 3, "run": "r", "round": 1, "attempt": 1}'})}
        ),
        RecordDict(
            {"head": ConfigRecord({"json": '{"kind": "erase", "site": "a", "run": "r", "round": 1, "attempt": 1}'})}
        ),
        RecordDict(
            {
                "head": ConfigRecord(
                    {"json": '{"kind": "train", "site": "a", "run": "r", "round": 1, "attempt": 1, "figures": {}}'}
                ),
                "weights": ArrayRecord({"w": Array("float32", (1,), "numpy.ndarray", b"\x80\x04N.")}),
            }
        ),
        RecordDict(
            {
                "head": ConfigRecord(
                    {"json": '{"kind": "train", "site": "a", "run": "r", "round": 1, "attempt": 1, "figures": {}}'}
                ),
                "weights": ArrayRecord({"w": Array("uint8", (4,), "safetensors", b"\xff\xff\xff\x7f")}),
            }
        ),
    ],
)
def test_a_record_that_is_no_answer_is_refused_without_quoting_it(record):
    with pytest.raises(records.MalformedRecord, match=r"^(head|kind|site|weights)$"):
        records.read_answer(record)
