"""Which versions may train together."""

import pytest

from adamss_fl import __version__
from adamss_fl.federation.versions import may_train_together


@pytest.mark.parametrize(
    ("other", "own", "together"),
    [
        ("0.1.0", "0.1.0", True),
        ("0.1.9", "0.1.0", True),
        ("0.2.0", "0.1.0", False),
        ("1.1.0", "0.1.0", False),
        ("1.0.0", "1.7.3", True),
        ("2.0.0", "1.7.3", False),
        ("10.0.0", "1.0.0", False),
        ("0.1", "0.1.0", False),
        ("0.1.0; rm", "0.1.0", False),
        (None, "0.1.0", False),
        (1, "0.1.0", False),
    ],
)
def test_the_rule(other: object, own: str, together: bool) -> None:
    assert may_train_together(other, own) is together


def test_this_version_trains_with_itself() -> None:
    assert may_train_together(__version__)
