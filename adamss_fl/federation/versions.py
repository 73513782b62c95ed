"""Which versions of this software may train together."""

import re

from adamss_fl import __version__

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def may_train_together(other: object, own: str = __version__) -> bool:
    """Whether a version agrees with ``own`` on all that a model depends on (https://semver.org).

    From 1.0.0 on versions with the same first number do, before it those with the same two first ones. What is no
    version ``A.B.C`` never does.
    """
    found, here = (_VERSION.fullmatch(text) if isinstance(text, str) else None for text in (other, own))
    if found is None or here is None:
        return False
    decisive = 1 if here[1] != "0" else 2
    return found.groups()[:decisive] == here.groups()[:decisive]
