"""The web server's address."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from retllm.errors import StackError
from retllm.stack.network import base_url, choose_port, is_ready


def test_a_port_in_use_gives_a_one_sentence_error_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError) as caught:
            choose_port("127.0.0.1", port)
    assert caught.value.message == f"Port {port} on 127.0.0.1 is in use; set RETLLM_PORT to a free one (0 chooses one)."


def test_port_zero_chooses_a_free_port_and_a_free_port_is_kept() -> None:
    port = choose_port("127.0.0.1", 0)
    assert port > 0
    assert choose_port("127.0.0.1", port) == port


def test_foreign_addresses_and_unknown_host_names_are_rejected() -> None:
    with pytest.raises(StackError, match=r"Can't listen on 192\.0\.2\.1 port 0"):
        choose_port("192.0.2.1", 0)
    with pytest.raises(StackError, match=r"no-such-host\.invalid is not an address"):
        choose_port("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_the_url_for_the_browser_has_a_reachable_host(host: str, url: str) -> None:
    assert base_url(host, 80) == url


class Handler(http.server.BaseHTTPRequestHandler):
    """200 for /readyz, 503 for the rest."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_a_server_is_ready_only_if_it_responds_with_200() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert is_ready("127.0.0.1", port)
        assert not is_ready("127.0.0.1", port, "/other")
        server.shutdown()
    assert not is_ready("127.0.0.1", port)
