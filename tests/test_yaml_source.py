"""Our reading of YAML: nothing is lost on the disk, any text is read or refused, and PyYAML agrees."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adamss_fl import yaml_source
from adamss_fl.errors import InputError

scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=10),
    st.sampled_from(["1e3", "1_0e5", "2026-01-01", "no", "0x1f", "1:30", "null", "~", "<<", "="]),
)
key = st.text("abcdef", min_size=1, max_size=4)
tree = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(key, inner, max_size=3), max_leaves=6
)
data = st.dictionaries(key, tree, max_size=4)


@given(data)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_data_survives_the_disk(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(yaml_source.dump(data), encoding="utf-8", newline="\n")
    assert yaml_source.read(path).data == data


@given(st.text(max_size=60))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_loads_or_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    error = ""
    try:
        yaml_source.read(path)
    except InputError as refused:
        error = str(refused)
    assert "\n" not in error


@given(data)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plain_yaml_means_what_pyyaml_says(tmp_path: Path, data: dict[str, Any]) -> None:
    """But for what is meant to differ: dates stay text, and 1e3 is a number."""
    text = yaml.safe_dump(data, allow_unicode=True)
    path = tmp_path / "safe.yaml"
    path.write_text(text, encoding="utf-8", newline="\n")

    def comparable(value: Any) -> bool:
        if isinstance(value, dict):
            return all(map(comparable, value.values()))
        if isinstance(value, list):
            return all(map(comparable, value))
        return not (isinstance(value, str) and value[:1] in tuple("+-0123456789"))

    if comparable(data):
        assert yaml_source.read(path).data == yaml.safe_load(text)
