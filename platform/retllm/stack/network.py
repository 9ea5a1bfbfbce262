"""The web server's address: is its port free, which one is, and is the server behind it ready."""

from __future__ import annotations

import errno
import http.client
import socket

from retllm.errors import StackError

_SECONDS = 5.0


def choose_port(host: str, port: int) -> int:
    """`port` if it can be listened on at `host`, or a free one for 0.

    Raises StackError when the port is taken, forbidden, or `host` is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # as the server will: a port whose connections have just ended is no taken one
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise StackError(f"{host} is no address ({error.strerror}): set RETLLM_HOST to one of this machine.") from error
    except OSError as error:
        raise StackError(_sentence(host, port, error)) from error


def _sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken; set RETLLM_PORT to a free one (0 takes any)."
    if error.errno == errno.EACCES:
        return f"Port {port} on {host} is not allowed to this account; set RETLLM_PORT to one above 1023 (0 takes any)."
    return f"Nothing can listen on {host} port {port} ({error.strerror}); set RETLLM_HOST and RETLLM_PORT."


def base_url(host: str, port: int) -> str:
    """The address at which a browser on this machine finds a server that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def is_ready(host: str, port: int, path: str = "/readyz") -> bool:
    """Whether the server answers `path` with 200."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(name, port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
