"""Tensors that are read from disk one at a time: the same bits, no memory, no file left."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.spool import Selection, put_on_disk
from adamss_fl.federation.update import Update
from adamss_fl.model import GROUPS

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
)


@settings(max_examples=30, deadline=None)
@given(tensors=st.dictionaries(st.text("abc_.0123", min_size=1, max_size=9), ARRAYS, max_size=4))
def test_tensors_come_back_bit_for_bit_and_leave_no_file(tmp_path_factory, tensors):
    folder = tmp_path_factory.mktemp("spool")
    kept = put_on_disk(tensors, folder)
    assert sorted(kept) == sorted(tensors)
    for name, tensor in tensors.items():
        assert kept[name].dtype == tensor.dtype
        assert kept[name].shape == tensor.shape
        assert kept[name].tobytes() == tensor.tobytes()
    assert not list(folder.iterdir())


def test_a_selection_shows_its_own_names_alone(tmp_path):
    whole = put_on_disk({"a": np.ones(2), "b": np.zeros(3)}, tmp_path)
    part = Selection(whole, ["b"])
    assert list(part) == ["b"]
    assert len(part) == 1
    assert "a" not in part
    assert part["b"].shape == (3,)


def test_memory_of_an_aggregation_does_not_grow_with_the_number_of_sites(tmp_path):
    """Fifty replies of 8 MB would be 400 MB: what is held is the result and a few tensors of 0.4 MB."""
    names = [f"decoder.{place:02d}" for place in range(20)]
    current = {name: np.zeros(100_000, np.float32) for name in names}
    model = sum(tensor.nbytes for tensor in current.values())

    def peak(sites: int) -> int:
        updates = []
        for site in range(sites):
            tensors = {name: np.full(100_000, site, np.float32) for name in names}
            updates.append(Update(f"site-{site:02d}", 1 + site, 1, put_on_disk(tensors, tmp_path)))
        groups = {group: names if group == "decoder" else [] for group in GROUPS}
        rule = GroupedAggregation(FederationSettings(), groups)
        tracemalloc.start()
        merged = rule.aggregate(current, updates, 1)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        total = sum(1 + site for site in range(sites))
        mean = sum((1 + site) * site for site in range(sites)) / total
        np.testing.assert_allclose(merged["decoder.07"], mean, rtol=1e-6)
        return found

    few, many = peak(3), peak(50)
    assert many < 1.5 * model
    assert abs(many - few) < 0.1 * model
