"""The address of a scorer that a server runs: ``openai+http://HOST:PORT/v1#MODEL`` or ``rerank+http://HOST:PORT#MODEL``.

Everything after the first ``#`` is the name under which the server knows the model. A key never is part of an address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

Protocol = Literal["openai", "rerank"]
"""``openai``: chat completions with pictures and log-probabilities; ``rerank``: query and documents to scores."""

_FORMS = "openai+http://HOST:8000/v1#MODEL or rerank+http://HOST:8000#MODEL (or https)"


class BadScorerAddress(ValueError):
    """The address of a scorer is malformed; the message says what it should be and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class ScorerAddress:
    """A parsed address.

    Attributes:
        protocol: what the server speaks.
        root: scheme, host and port.
        path: of the API below it, without a slash at its end: ``/v1``, or for ``rerank`` of the endpoint.
        model: the name of the model on the server.
    """

    protocol: Protocol
    root: str
    path: str
    model: str

    @property
    def name(self) -> str:
        """The name that results store: the model's, without the address, so that the server can be moved."""
        return f"{self.protocol}:{self.model}"

    @property
    def api(self) -> str:
        """The URL of the API, or for ``rerank`` of the endpoint."""
        return self.root + self.path


def is_remote(scorer: str) -> bool:
    """Return whether this is meant as the address of a server; no name and no folder of a model has ``://``."""
    return "://" in scorer


def is_remote_name(name: str) -> bool:
    """Return whether a name that results store is that of a scorer on a server."""
    return name.startswith(tuple(f"{protocol}:" for protocol in get_args(Protocol)))


def parse_scorer_address(text: str) -> ScorerAddress:
    """Parse the address of a scorer.

    Raises:
        BadScorerAddress: it is malformed, or contains a user name or a password.
    """
    location, _, model = text.strip().partition("#")
    protocol, plus, url = location.partition("+")
    if not plus or protocol not in get_args(Protocol):
        raise BadScorerAddress(f"The address of a scorer on a server is {_FORMS}.")
    if not model or any(char.isspace() for char in model):
        raise BadScorerAddress(f"The address of a scorer ends in # and the name of its model: {_FORMS}.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadScorerAddress("The host or port in the address of a scorer is malformed.") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise BadScorerAddress(f"The address of a scorer needs http or https and a host: {_FORMS}.")
    if "@" in parts.netloc:
        raise BadScorerAddress("The address of a scorer has no user name and no password: set its key.")
    if parts.query:
        raise BadScorerAddress("The address of a scorer has no parameters: remove the ? and what follows.")
    root = f"{parts.scheme}://{parts.netloc.lower()}"
    return ScorerAddress(cast("Protocol", protocol), root, _path(protocol, parts.path.rstrip("/")), model)


def _path(protocol: str, path: str) -> str:
    if protocol == "openai":
        return path or "/v1"
    return path if path.endswith(("/rerank", "/score")) else f"{path}/rerank"
