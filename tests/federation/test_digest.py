"""The digest of a message: its form written out by hand, and what may and may not change it."""

import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.federation.digest import message_digest
from adamss_fl.federation.messages import Instruction, Reply


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_digest_is_that_of_the_form_written_out_by_hand() -> None:
    weights = {"b": np.array([[1, 2], [3, 4]], dtype=np.int16), "a": np.array([0.5], dtype=np.float32)}
    head = (
        b'{"attempt":2,"figures":{"loss":"f:0x1.8000000000000p+0","n":3,"none":null,"ok":[true,"s:x"]},"kind":"train",'
        b'"round":7,"run":"r","site":"a","tensors":[["a","<f4",[1]],["b","<i2",[2,2]]]}'
    )
    body = struct.pack(">Q", len(head)) + head + struct.pack("<f", 0.5) + struct.pack("<4h", 1, 2, 3, 4)
    figures = {"ok": [True, "x"], "n": 3, "loss": 1.5, "none": None}
    assert message_digest(Reply("train", "a", "r", 7, 2, figures, weights)) == (sha(body), len(body))


BASE = Reply("train", "a", "r", 1, 1, {"x": 1.0}, {"w": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize(
    "changed",
    [
        replace(BASE, kind="evaluate"),
        replace(BASE, site="b"),
        replace(BASE, run="r2"),
        replace(BASE, round=2),
        replace(BASE, attempt=2),
        replace(BASE, figures={"x": 1}),
        replace(BASE, figures={"x": "f:0x1.0000000000000p+0"}),
        replace(BASE, figures={"x": True}),
        replace(BASE, figures={"x": 1.0 + 2**-52}),
        replace(BASE, figures={"x": [1.0]}),
        replace(BASE, figures={}),
        replace(BASE, weights=None),
        replace(BASE, weights={}),
        replace(BASE, weights={"v": np.zeros((2, 3), np.float32)}),
        replace(BASE, weights={"w": np.zeros((3, 2), np.float32)}),
        replace(BASE, weights={"w": np.zeros((2, 3), np.int32)}),
        replace(BASE, weights={"w": np.zeros((2, 3), ">f4")}),
        replace(BASE, weights={"w": -np.zeros((2, 3), np.float32)}),
        Instruction("train", "r", 1, 1, {"x": 1.0}, BASE.weights),
    ],
)
def test_whatever_differs_has_another_digest(changed: Any) -> None:
    assert message_digest(changed)[0] != message_digest(BASE)[0]


def test_the_order_of_keys_and_the_layout_in_memory_do_not_matter() -> None:
    array = np.arange(6.0).reshape(2, 3)
    first = Instruction("train", "r", 1, 1, {"a": (1, 2), "b": 2}, {"x": array, "y": np.float64(3.0)})  # type: ignore[dict-item]
    second = Instruction(
        "train", "r", 1, 1, {"b": 2, "a": [1, 2]}, {"y": np.array([3.0]), "x": np.asfortranarray(array)}
    )
    assert message_digest(first) == message_digest(second)


figures = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(first=st.dictionaries(st.text(max_size=3), figures, max_size=3), second=st.data())
def test_the_digest_survives_the_wire(first: dict[str, Any], second: st.DataObject) -> None:
    """JSON brings every figure back as it was, so both ends have one digest."""
    back = json.loads(json.dumps(first))
    assert message_digest(replace(BASE, figures=back)) == message_digest(replace(BASE, figures=first))
    other = second.draw(st.dictionaries(st.text(max_size=3), figures, max_size=3))
    same = repr(sorted_deep(first)) == repr(sorted_deep(other))
    assert (message_digest(replace(BASE, figures=other)) == message_digest(replace(BASE, figures=first))) is same


def sorted_deep(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_deep(value[key]) for key in sorted(value)}
    return [sorted_deep(each) for each in value] if isinstance(value, list) else value


def test_what_json_has_not_has_no_digest() -> None:
    with pytest.raises(TypeError):
        message_digest(replace(BASE, figures={"x": object()}))
