"""The consortium file: every mistake is one line with file, line, key and a way to mend it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.provisioning.settings import NAME, Consortium, SiteEntry, read_consortium

ROOT = Path(__file__).parents[2]

GOOD = """name: head-and-neck
server:
  names: [fl.example.org]
  addresses: [127.0.0.1]
  port: 8000
valid_days: 397
sites:
  - name: north
  - {name: south, request: south.request.json}
"""


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "south.request.json").write_text("{}")
    (tmp_path / "c.yaml").write_text(GOOD)
    assert read_consortium(tmp_path / "c.yaml") == Consortium(
        name="head-and-neck",
        names=("fl.example.org",),
        addresses=("127.0.0.1",),
        sites=(SiteEntry("north"), SiteEntry("south", tmp_path / "south.request.json")),
        port=8000,
        valid_days=397,
        source=tmp_path / "c.yaml",
    )


def test_port_and_days_have_defaults_and_the_address_stands_in_for_a_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: x\nserver: {addresses: [10.0.0.1]}\nsites: [{name: a}]\n")
    found = read_consortium(tmp_path / "c.yaml")
    assert (found.port, found.valid_days, found.host) == (8000, 397, "10.0.0.1")


def test_the_example_is_read_and_names_every_key() -> None:
    example = ROOT / "configs" / "consortium.yaml"
    assert [site.name for site in read_consortium(example).sites] == ["hospital-1", "hospital-2", "hospital-3"]
    assert all(
        f"{key}:" in example.read_text() for key in ("name", "names", "addresses", "port", "valid_days", "request")
    )


MISTAKES = {
    "unknown key": (("valid_days", "valid_day"), ":6: valid_day: unknown key 'valid_day'; did you mean 'valid_days'?"),
    "unknown server key": (("  port", "  prot"), ":5: server.prot: unknown key 'prot'; did you mean 'port'?"),
    "unknown site key": (("request:", "requst:"), "requst: unknown key 'requst'; did you mean 'request'?"),
    "no name": (("name: head-and-neck", "# none"), "name: is missing; it must be given"),
    "no server": ((GOOD[GOOD.index("server") : GOOD.index("valid")], ""), "server: is missing"),
    "no sites": ((GOOD[GOOD.index("sites") :], ""), "sites: is missing"),
    "empty sites": ((GOOD[GOOD.index("sites") :], "sites: []\n"), ":7: sites: must be a list of at least one site"),
    "sites no list": ((GOOD[GOOD.index("sites") :], "sites: north\n"), ":7: sites: must be a list"),
    "site no mapping": (("- name: north", "- north"), ":8: sites[0]: must be a mapping of name, request, not 'north'"),
    "site without name": (("name: south, ", ""), ":9: sites[1].name: is missing"),
    "duplicate": (("name: south", "name: north"), ":9: sites[1].name: 'north' is there already at"),
    "duplicate but for capitals": (("name: south", "name: North"), "'North' is there already"),
    "server as a site": (
        ("- name: north", "- name: server"),
        ":8: sites[0].name: 'server' is what the server is called",
    ),
    "path as a name": (("- name: north", "- name: ../north"), ":8: sites[0].name: must be 1 to 64 letters"),
    "hidden name": (("- name: north", "- name: .north"), "sites[0].name: must be"),
    "dots": (("- name: north", "- name: '..'"), "sites[0].name: must be"),
    "space": (("- name: north", "- name: north site"), "sites[0].name: must be"),
    "newline": (("- name: north", '- name: "north\\n"'), "sites[0].name: must be"),
    "number": (("- name: north", "- name: 7"), "sites[0].name: must be 1 to 64 letters, digits, '.', '_' and '-'"),
    "too long": (("- name: north", f"- name: {'n' * 65}"), "sites[0].name: must be"),
    "consortium's name": (("head-and-neck", "head & neck"), ":1: name: must be 1 to 64 letters"),
    "neither name nor address": (
        ("names: [fl.example.org]\n  addresses: [127.0.0.1]", "names: []"),
        ":2: server: has neither names nor addresses",
    ),
    "address as a name": (("fl.example.org", "192.0.2.1"), ":3: server.names[0]: 192.0.2.1 is an address"),
    "url as a name": (
        ("fl.example.org", "https://fl.example.org"),
        "server.names[0]: 'https://fl.example.org' is no DNS",
    ),
    "wildcard": (("fl.example.org", "'*.example.org'"), "is no DNS name"),
    "name as an address": (("127.0.0.1", "fl"), ":4: server.addresses[0]: 'fl' is no IP address"),
    "no machine's address": (("127.0.0.1", "0.0.0.0"), "0.0.0.0 is no machine's address"),
    "zone": (("127.0.0.1", "'fe80::1%eth0'"), "is no IP address"),
    "name twice": (("[fl.example.org]", "[fl.example.org, fl.example.org]"), "fl.example.org is there twice"),
    "names no list": (("[fl.example.org]", "fl.example.org"), "server.names: must be a list of texts"),
    "port 0": (("port: 8000", "port: 0"), ":5: server.port: must be a whole number from 1 to 65535, not 0"),
    "port text": (("port: 8000", "port: '8000'"), "server.port: must be a whole number"),
    "port true": (("port: 8000", "port: true"), "server.port: must be a whole number"),
    "days": (("valid_days: 397", "valid_days: 99999"), ":6: valid_days: must be a whole number from 1 to 3650"),
    "request absent": (("south.request.json", "gone.json"), ":9: sites[1].request: there is no file"),
    "request empty": (("south.request.json", "''"), "sites[1].request: must be the file that the site sent"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(mistake: str, tmp_path: Path) -> None:
    (old, new), words = MISTAKES[mistake]
    (tmp_path / "south.request.json").write_text("{}")
    path = tmp_path / "c.yaml"
    assert GOOD.count(old) >= 1
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_consortium(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert words in line
    assert "\n" not in line


def test_a_missing_request_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(InputError, match=r"adamss-fl provision --request south --out FOLDER"):
        read_consortium(tmp_path / "c.yaml")


@given(st.from_regex(NAME, fullmatch=True))
def test_every_name_of_the_pattern_is_safe(name: str) -> None:
    assert 1 <= len(name) <= 64
    assert Path("/sites", name).resolve() == Path("/sites", name)
    assert not set(name) & set("/\\\0\n \"'$`")
