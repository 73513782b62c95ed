"""A site that makes its own key: at the hospital the key and a request, at the coordinator the request's check."""

from pathlib import Path

from adamss_fl.errors import InputError
from adamss_fl.federation.files import write_atomically
from adamss_fl.provisioning.keys import load_public, new_key, private_ssh, public_ssh
from adamss_fl.provisioning.settings import NAME, NAME_RULE, SERVER
from adamss_fl.provisioning.signing import is_signed, read_record, signed, write_record

_PROOF = "proof"
_FIELDS: dict[str, type] = {"site": str, "public_key": str, _PROOF: str}


def make_request(site: str, out: Path) -> Path:
    """At a hospital: make the site's key (``site.key``, 0600) and the request to send; returns the request's path.

    The request has the site's name, its public key, and as proof a signature of both by the private key.
    Raises InputError for an unsafe name, where there is a key already, and where ``out`` cannot be written.
    """
    if not NAME.fullmatch(site) or site.lower() == SERVER:
        raise InputError(f"--request: must be {NAME_RULE}, and not 'server'; not {site!r}")
    key_path, path = out / "site.key", out / f"{site}.request.json"
    for each in (key_path, path):
        if each.exists():
            raise InputError(f"{each}: is there already; send the request made with it, or give another --out")
    key = new_key()
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(key_path, private_ssh(key), private=True)
        write_record(path, signed({"site": site, "public_key": public_ssh(key.public_key())}, key, _PROOF))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
    return path


def read_request(path: Path, site: str) -> str:
    """The public key, as OpenSSH's line, in the request that ``site`` sent.

    Raises InputError where the request is damaged, was edited, is another site's, or was not made by its key's owner.
    """
    mend = f"have {site} make one: adamss-fl provision --request {site} --out FOLDER"
    record = read_record(path, _FIELDS, mend)
    public = str(record["public_key"])
    if not is_signed(record, load_public(public, str(path)), _PROOF):
        raise InputError(f"{path}: was edited, or was not made by the owner of its key; {mend}")
    if record["site"] != site:
        raise InputError(f"{path}: is the request of {record['site']!r}, not of {site!r}; {mend}")
    return public
