"""Why a server can't be reached: each cause has its own words, its own remedy, and no address in them."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpcore
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retllm.cli import checks
from retllm.errors import ServerAway
from retllm.fine.opening import open_scorer
from retllm.fine.remote import client
from retllm.fine.remote.failures import failure_of
from retllm.settings import Settings

DAY = datetime.timedelta(days=1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.1)
    for name in ("SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def _certificate(folder: Path, host: str, expired: bool = False) -> Path:
    """A self-signed certificate with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC) - (10 * DAY if expired else 0 * DAY)
    names = [x509.IPAddress(ipaddress.ip_address(host))] if host[0].isdigit() else [x509.DNSName(host)]
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - DAY, now + DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}-{expired}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@contextmanager
def _listening(certificate: Path | None = None, says: bytes = b"") -> Iterator[int]:
    """A server that answers ``says`` to whatever it gets, with TLS if it has a certificate."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) if context else connection as wrapped:
                    wrapped.settimeout(10)
                    wrapped.recv(4096)
                    wrapped.sendall(says)
            except OSError:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _away(root: str) -> tuple[str, str]:
    """What users are told of a server at this address, and what its administrator is advised."""
    settings = Settings(scorer=f"openai+{root}/v1#m")
    with pytest.raises(ServerAway) as caught:
        open_scorer(settings)
    beginning = "The server of the scorer openai:m is away: "
    assert caught.value.message.startswith(beginning)
    assert httpx.URL(root).host not in caught.value.message
    found = checks._guarded("scorer", lambda: checks.check_scorer(settings))
    assert found.state == "failed"
    assert found.advice == f"{caught.value.remedy} (RETLLM_SCORER)."
    return caught.value.message.removeprefix(beginning).removesuffix("."), caught.value.remedy


def test_each_cause_has_its_words_and_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = "127.0.0.1"
    with socket.create_server((local, 0)) as closed:
        port = closed.getsockname()[1]
    found = {
        "refused": _away(f"http://{local}:{port}"),
        "unknown": _away("http://nowhere.invalid:8000"),
    }
    with _listening() as cutting:
        found["cut"] = _away(f"http://{local}:{cutting}")
        found["closes"] = _away(f"https://{local}:{cutting}")
    with _listening(says=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as plain:
        found["plain"] = _away(f"https://{local}:{plain}")
    with _listening(says=b"\x15\x03\x01\x00\x02\x02\x46") as alerting:
        found["TLS only"] = _away(f"http://{local}:{alerting}")
    own = _certificate(tmp_path, local)
    with _listening(own) as secure:
        found["self-signed"] = _away(f"https://{local}:{secure}")
    other = _certificate(tmp_path, "other.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with _listening(other) as secure:
        found["other host"] = _away(f"https://{local}:{secure}")
    expired = _certificate(tmp_path, local, expired=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(expired))
    with _listening(expired) as secure:
        found["expired"] = _away(f"https://{local}:{secure}")
    assert {name: reason for name, (reason, _) in found.items()} == {
        "refused": "it can't be reached: nothing listens at its port",
        "unknown": "it can't be reached: its host is unknown",
        "cut": "it cut the connection",
        "closes": "it can't be reached: no TLS connection comes about",
        "plain": "it can't be reached: it does not speak TLS",
        "TLS only": "it does not answer in HTTP",
        "self-signed": "its certificate is not valid (self-signed certificate)",
        "other host": "its certificate is not valid (it is that of another host)",
        "expired": "its certificate is not valid (certificate has expired)",
    }
    remedies = {name: remedy for name, (_, remedy) in found.items()}
    assert "Start the server" in remedies["refused"]
    assert "host" in remedies["unknown"]
    assert "http in place of https" in remedies["plain"]
    assert "https in place of http" in remedies["TLS only"]
    assert "SSL_CERT_FILE" in remedies["self-signed"]
    assert all(remedies.values())


def test_a_certificate_that_is_named_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    body = b'{"data": [{"id": "m"}]}'
    with _listening(own, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body) as port:
        assert open_scorer(Settings(scorer=f"openai+https://127.0.0.1:{port}/v1#m")).info.model == "openai:m"


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no way leads to its host"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "no way leads to its host"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "its host is unknown"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT_PROTOCOL_VERSION]"), "no TLS connection comes about"),
        (OSError(errno.EPERM, "secret.example"), "it can't be reached"),
    ],
)
def test_rarer_causes(cause: OSError, words: str) -> None:
    error = httpx.ConnectError("secret.example")
    error.__cause__ = httpcore.ConnectError("secret.example")
    error.__cause__.__cause__ = cause
    found = failure_of(error)
    assert words in found.reason
    assert "secret" not in found.reason + found.remedy
    timed_out = failure_of(httpx.ConnectTimeout("secret.example"))
    assert timed_out.reason == "it can't be reached: its host does not answer"
