"""Long waits of a request: other requests are served meanwhile."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from flask import has_request_context, request

from retllm.stack.client_socket import ClientSocket


def without_slot() -> AbstractContextManager[None]:
    """Hold no request slot of the server inside the context; the body of the request must have been read before.

    What is done after a request, while its answer is sent, holds none.
    """
    if not has_request_context():
        return nullcontext()
    client = request.environ.get("gunicorn.socket")
    return client.without_slot() if isinstance(client, ClientSocket) else nullcontext()
