"""Certificates before Python's own TLS, on loopback, and before ``cryptography``'s verifier; keys before Flower."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from consortium_office import NOW, SETTINGS, Office
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from adamss_fl.provisioning.kits import open_server_kit, open_site_kit


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A consortium that is valid now, for ssl, which knows no other clock."""
    office = Office(tmp_path_factory.mktemp("today"))
    office.write()
    office.provision(now=datetime.now(UTC))
    return office


def handshake(server: Path, ca_file: Path, name: str) -> str:
    """Connect over loopback to a server that has ``server``'s certificate; returns the protocol's version."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server / "server.crt", server / "server.key")
    asking = ssl.create_default_context(cafile=str(ca_file))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(20)
                try:
                    with serving.wrap_socket(connection, server_side=True) as secured:
                        secured.sendall(b"hello")
                except (ssl.SSLError, OSError):
                    pass  # the client says why

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=20) as plain,
                asking.wrap_socket(plain, server_hostname=name) as secured,
            ):
                assert secured.recv(5) == b"hello"
                return str(secured.version())
        finally:
            thread.join(20)


@pytest.mark.parametrize("name", ["fl.example.org", "192.0.2.7", "localhost", "127.0.0.1"])
def test_a_site_trusts_the_server_by_every_name_and_address_of_the_file_and_on_its_own_machine(
    today: Office, name: str
) -> None:
    kit = open_site_kit(today.site("north"))
    assert handshake(today.server, kit.ca_file, name) == "TLSv1.3"


def refused(server: Path, ca_file: Path, name: str = "fl.example.org") -> str:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(server, ca_file, name)
    return caught.value.verify_message


@pytest.mark.parametrize("name", ["other.example.org", "example.org", "x.fl.example.org", "192.0.2.8"])
def test_a_wrong_name_is_no_server_of_ours(today: Office, name: str) -> None:
    assert "mismatch" in refused(today.server, open_site_kit(today.site("north")).ca_file, name)


def test_another_authority_with_the_same_name_is_not_trusted(today: Office, other: Office) -> None:
    assert refused(today.server, other.out / "ca" / "ca.crt") != ""
    assert refused(other.server, open_site_kit(today.site("north")).ca_file) != ""


def test_an_expired_server_certificate_is_refused(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write(valid_days=1)
    office.provision(now=datetime.now(UTC) - timedelta(days=2))
    assert "expired" in refused(office.server, office.out / "ca" / "ca.crt")
    office.provision(now=datetime.now(UTC), renew="server")
    assert handshake(office.server, office.out / "ca" / "ca.crt", "fl.example.org") == "TLSv1.3"


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_cryptographys_own_verifier_accepts_the_chain_while_it_is_valid_and_not_after(made: Office) -> None:
    store = Store([load(made.out / "ca" / "ca.crt")])
    leaf = load(made.server / "server.crt")
    subjects: list[x509.DNSName | x509.IPAddress] = [x509.DNSName("fl.example.org")]
    subjects.append(x509.IPAddress(ip_address("192.0.2.7")))
    for subject in subjects:
        builder = PolicyBuilder().store(store)
        builder.time(NOW + timedelta(days=99)).build_server_verifier(subject).verify(leaf, [])
        with pytest.raises(VerificationError):
            builder.time(NOW + timedelta(days=101)).build_server_verifier(subject).verify(leaf, [])


def test_the_authority_signs_certificates_and_no_further_authority(made: Office) -> None:
    certificate = load(made.out / "ca" / "ca.crt")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign) == (True, True)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_the_servers_certificate_is_for_serving_under_p_384(made: Office) -> None:
    certificate = load(made.server / "server.crt")
    certificate.verify_directly_issued_by(load(made.out / "ca" / "ca.crt"))
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    others = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(others.get_values_for_type(x509.DNSName)) == {*SETTINGS["server"]["names"], "localhost"}
    assert set(map(str, others.get_values_for_type(x509.IPAddress))) == {*SETTINGS["server"]["addresses"], "127.0.0.1"}


def test_a_server_without_a_name_is_reached_by_its_address_of_either_family(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write(server={"addresses": ["::1", "192.0.2.9"]})
    office.provision(now=datetime.now(UTC))
    assert handshake(office.server, office.out / "ca" / "ca.crt", "::1") == "TLSv1.3"
    kit = open_site_kit(office.site("north"))
    assert (kit.server_host, kit.server_port) == ("::1", 8000)


def test_flower_itself_loads_the_keys_of_a_site(made: Office) -> None:
    import argparse

    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    folder = made.site("north")
    arguments = argparse.Namespace(auth_supernode_private_key=str(folder / "site.key"), auth_supernode_public_key=None)
    pair = _try_setup_client_authentication(arguments)
    assert pair is not None
    assert try_load_public_key(folder / "site.pub") == public_key_to_bytes(pair[1])
    assert pair[1].curve.name == "secp384r1"


def test_flower_registers_the_key_that_the_servers_record_lists(made: Office, tmp_path: Path) -> None:
    from flwr.cli.supernode.register import try_load_public_key

    for name, text in open_server_kit(made.server, NOW).sites.items():
        (tmp_path / name).write_text(text)
        assert try_load_public_key(tmp_path / name) == try_load_public_key(made.site(name) / "site.pub")
