"""Why a server can't be reached, in words without its address, and what an administrator does about it."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

#: codes of OpenSSL for a certificate of another host, whose sentences have the host's name or address
_OTHER_HOST = frozenset({62, 64})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
#: h11 says so of an answer that begins with no HTTP, as that of many servers with TLS to a plain request
_NO_HTTP = "illegal"


_TLS = "Compare the TLS settings of the server, or write http in place of https in its address if it has none"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed exchange: what people are told, and what to do, which speaks of the address of the server."""

    reason: str
    remedy: str


_CUT = Failure("it cut the connection", "See what the server logs; if it speaks TLS only, write https in its address")
_UNKNOWN = Failure("it can't be reached", "Start the server, or correct its address")


def failure_of(error: httpx.TransportError) -> Failure:
    """Return what a failed exchange means."""
    for cause in _causes(error):
        found = _meaning(cause)
        if found is not None:
            return found
    return _UNKNOWN if isinstance(error, httpx.ConnectError) else _CUT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _meaning(cause: BaseException) -> Failure | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        other = cause.verify_code in _OTHER_HOST
        why = "it is that of another host" if other else cause.verify_message
        remedy = "Correct the host in its address" if other else "Set SSL_CERT_FILE to its authority"
        return Failure(f"its certificate is not valid ({why})", f"{remedy}, or renew the certificate")
    if isinstance(cause, ssl.SSLError):
        if getattr(cause, "reason", None) in _NO_TLS:
            return Failure("it can't be reached: it does not speak TLS", "Write http in place of https in its address")
        return Failure("it can't be reached: no TLS connection comes about", _TLS)
    if isinstance(cause, httpx.RemoteProtocolError) and _NO_HTTP in str(cause):
        return Failure("it does not answer in HTTP", "Write https in place of http in its address, or correct the port")
    if isinstance(cause, httpx.ProxyError):
        return Failure("the proxy does not lead to it", "Correct HTTPS_PROXY and HTTP_PROXY, or name it in NO_PROXY")
    if isinstance(cause, httpx.ConnectTimeout):
        return Failure("it can't be reached: its host does not answer", "Correct its address, or open the firewall")
    if isinstance(cause, socket.gaierror):
        return Failure("it can't be reached: its host is unknown", "Correct the host in its address")
    if isinstance(cause, ConnectionRefusedError):
        return Failure(
            "it can't be reached: nothing listens at its port", "Start the server, or correct the port in its address"
        )
    if isinstance(cause, OSError) and cause.errno in _NO_WAY:
        return Failure("it can't be reached: no way leads to its host", "Connect the network, or correct its address")
    return None
