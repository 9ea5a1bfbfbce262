"""The web server's address: choosing a port, its URL, and whether the server is ready."""

from __future__ import annotations

import errno
import http.client
import socket

from retllm.errors import StackError

_SECONDS = 5.0


def choose_port(host: str, port: int) -> int:
    """Return `port` if it is usable on `host`, or a free one if it is 0.

    Raises:
        StackError: the port is in use or forbidden, or `host` is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # as the server does, so that connections that have just ended do not block the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise StackError(
            f"{host} is not an address ({error.strerror}): set RETLLM_HOST to one of this machine."
        ) from error
    except OSError as error:
        raise StackError(_message(host, port, error)) from error


def _message(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use; set RETLLM_PORT to a free one (0 chooses one)."
    if error.errno == errno.EACCES:
        return f"This account may not use port {port} on {host}; set RETLLM_PORT to one above 1023 (0 chooses one)."
    return f"Can't listen on {host} port {port} ({error.strerror}); set RETLLM_HOST and RETLLM_PORT."


def base_url(host: str, port: int) -> str:
    """Return the URL for a browser on this machine of a server that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not listened on
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def is_ready(host: str, port: int, path: str = "/readyz") -> bool:
    """Return whether the server answers `path` with 200."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(name, port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
