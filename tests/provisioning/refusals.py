"""What the tests of `provision` share: a later day, a third site, a key, and a refusal that changes nothing."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from consortium_office import NOW, Office

from adamss_fl.errors import InputError

LATER = NOW + timedelta(days=10)
THREE = [{"name": "north"}, {"name": "south"}, {"name": "east"}]


def refusal(office: Office, now: datetime = LATER, **options: Any) -> str:
    """The line with which a call is refused, which must change nothing."""
    before = office.files()
    with pytest.raises(InputError) as caught:
        office.provision(now=now, **options)
    assert office.files() == before
    line = str(caught.value)
    assert "\n" not in line
    return line


def key_of(office: Office, site: str) -> str:
    return (office.site(site) / "site.pub").read_text().strip()
