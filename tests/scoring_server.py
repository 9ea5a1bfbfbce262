"""A real HTTP server in front of the shipped small model, which speaks the protocols of scorers on servers.

``python -m tests.scoring_server PORT [STOP]`` runs it as a process; after STOP answers it answers no more.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image

from retllm.fine import Content, Picture, Scorer, load_scorer
from retllm.fine.engine import Prompt
from retllm.fine.injection import NO_INJECTION
from retllm.fine.model import answer_ends
from retllm.fine.prompts import Part
from retllm.settings import PRESETS

MODEL = "tests/small"
OFFERS = frozenset({"logprobs", "pictures", "tokenize", "logprob_token_ids", "allowed_token_ids"})

#: answers without an end, by the names of their faults: their beginning, and what follows again and again
DRIPS = {
    "drip": (b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n{", b" "),
    "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


class SmallModel:
    """The shipped model without re-injection: the probabilities of the next token, and scores of pairs."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.preparer = scorer.loaded.preparer
        self.ends = answer_ends(scorer.loaded)
        self._lock = threading.Lock()

    def logprobs(self, message: Sequence[Part], answer: Sequence[int]) -> tuple[torch.Tensor, int]:
        """Return the log-probabilities of all tokens after ``answer``, and the number of tokens of the question."""
        with self._lock, torch.inference_mode(), self.preparer.pictures_once():
            engine = self.scorer._engine(NO_INJECTION, NO_INJECTION.plan(1))
            asked = [Prompt(0, message, tuple(answer))]
            (found,) = engine.answer(asked, lambda logits: logits.float().log_softmax(-1)).read()
        return torch.tensor(found.values), found.tokens - len(answer)

    def score(self, query: Content, document: Content) -> float:
        return float(self.scorer.score(query, [document], NO_INJECTION)[0].score or 0)


class ScoringServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        offers: what it can do, a part of OFFERS.
        key: the bearer token that it wants.
        faults: the next answers to POST: a status, ``cut``, ``half``, ``garbage``, ``drip``, ``headers``, ``hints``,
            ``endless``, ``packed``, ``twice`` or ``hang``; None answers.
        closed: paths that are forbidden.
        fault_of: the fault of a request by its path and body, if there are no ``faults``.
        says: the message of an answer with a status that was ordered.
        entry: what it says of its model.
        asked: the bodies of the requests, with their paths.
        last: the last answer that it made.
        instead: an answer in place of all that it would make; None for none.
        processed: whether log-probabilities are those after the restriction to allowed tokens.
        left: number of answers after which it hangs; None answers all.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, model: SmallModel | None, port: int = 0, offers: frozenset[str] = OFFERS) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._model = model
        self.offers = offers
        self.key: str | None = None
        self.faults: deque[str | int | None] = deque()
        self.closed: set[str] = set()
        self.fault_of: Callable[[str, dict[str, Any]], str | int | None] = lambda path, body: None
        self.says = "as ordered"
        self.entry: dict[str, Any] = {"id": MODEL, "root": "small", "owned_by": "vllm", "created": time.time()}
        self.info: dict[str, Any] | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.retry_after = "0"
        self.top = 20
        self.scale = 1.0
        self.left: int | None = None
        self.processed = False
        self.last: Any = None
        self.instead: Any = None
        self._open: set[socket.socket] = set()

    @property
    def model(self) -> SmallModel:
        assert self._model is not None
        return self._model

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self._open.add(request)
        return request, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that a test cut."""

    def go_away(self) -> None:
        """Close the port and all connections, as the end of the process does."""
        self.shutdown()
        self.server_close()
        for request in self._open:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def takes_more(self) -> bool:
        if self.left is not None:
            self.left -= 1
        return self.left is None or self.left >= 0


class _Handler(BaseHTTPRequestHandler):
    server: ScoringServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        known: dict[str, Any] = {
            "/v1/models": {"object": "list", "data": [self.server.entry]},
            "/version": {"version": "1.2.3"},
        }
        if self.server.info is not None:
            known = {"/info": self.server.info}
        if self._is_allowed():
            self._send(200 if self.path in known else 404, known.get(self.path, {"detail": "Not Found"}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_allowed() or self._fails(body):
            return
        self.server.asked.append((self.path, body))
        if not self.server.takes_more():
            threading.Event().wait(600)
        try:
            status, answer = (200, self.server.instead) if self.server.instead is not None else self._answer(body)
        except _Refusal as error:
            status, answer = 400, {"error": {"message": str(error), "code": 400}}
        self.server.last = answer
        self._send(status, answer)

    def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        if "model" in body and body["model"] != self.server.entry["id"]:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if self.path == "/v1/chat/completions":
            return 200, _completion(self.server, body)
        if self.path == "/tokenize" and "tokenize" in self.server.offers:
            tokens = self.server.model.preparer.encode(body["prompt"], continued=not body["add_special_tokens"])
            return 200, {"tokens": tokens, "count": len(tokens)}
        if self.path in ("/rerank", "/v1/rerank", "/score"):
            return 200, _reranked(self.server, self.path, body)
        return 404, {"detail": "Not Found"}

    def _is_allowed(self) -> bool:
        if self.path in self.server.closed:
            self._send(403, {"detail": "Forbidden"})
            return False
        if self.server.key is None or self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        # as some servers do, it quotes the key
        self._send(401, {"error": {"message": f"Incorrect API key: {self.headers.get('Authorization')}"}})
        return False

    def _fails(self, body: dict[str, Any]) -> bool:
        fault = self.server.faults.popleft() if self.server.faults else self.server.fault_of(self.path, body)
        if fault == "hang":
            threading.Event().wait(600)
        if fault == "cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "half":
            self.close_connection = True
            self._send(200, {"choices": []}, length=10_000)
        elif fault in DRIPS:
            self._drip(*DRIPS[fault])
        elif fault == "packed":
            self._send_bytes(200, gzip.compress(gzip.compress(b" " * (64 << 20))), encoding="gzip, gzip")
        elif fault == "twice":
            content = json.dumps(self._answer(body)[1]).encode()
            other = b'{"choices": []}'
            again = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(other)
            self._send_bytes(200, content + again + other, len(content))
        elif fault == "endless":
            self._send_bytes(200, b" " * (5 << 20))
        elif fault == "garbage":
            self._send_bytes(200, b"<html>It works!</html>")
        elif isinstance(fault, int):
            self._send(fault, {"error": {"message": self.server.says}})
        return fault is not None

    def _drip(self, start: bytes, piece: bytes) -> None:
        """Send pieces so slowly that they never end, but never so slowly that a read times out."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(start)
            while True:
                self.wfile.write(piece)
                time.sleep(0.05)

    def _send(self, status: int, answer: Any, length: int | None = None) -> None:
        self._send_bytes(status, json.dumps(answer).encode(), length)

    def _send_bytes(self, status: int, content: bytes, length: int | None = None, encoding: str = "") -> None:
        self.send_response(status)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length or len(content)))
        if status == 429:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(content)


class _Refusal(Exception):
    """The request is not accepted."""


def _parts(server: ScoringServer, content: Any) -> list[Part]:
    parts: list[Part] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part["type"] == "text":
            parts.append(part["text"])
            continue
        if "pictures" not in server.offers:
            raise _Refusal(f"{MODEL} is not a multimodal model")
        kind, _, data = part["image_url"]["url"].partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        parts.append(Picture(Image.open(io.BytesIO(base64.b64decode(data)))))
    return parts


def _completion(server: ScoringServer, body: dict[str, Any]) -> dict[str, Any]:
    # the model adds the system turn of its profile itself
    turn = body["messages"][-1]
    message = _parts(server, turn["content"])
    if body.get("top_logprobs", 0) > server.top:
        raise _Refusal(f"top_logprobs is at most {server.top}")
    answer: list[int] = []
    content: list[dict[str, Any]] = []
    reason, length = "length", 0
    for _ in range(body["max_tokens"]):
        logprobs, length = server.model.logprobs(message, answer)
        allowed = body.get("allowed_token_ids") if "allowed_token_ids" in server.offers else None
        if allowed and server.processed:
            logprobs = logprobs - logprobs[allowed].logsumexp(0)
        token = max(allowed or range(len(logprobs)), key=logprobs.tolist().__getitem__)
        content.append(_entry(server, body, logprobs, token))
        if token in server.model.ends:
            reason = "stop"
            break
        answer.append(token)
    told = {"content": content} if body.get("logprobs") and "logprobs" in server.offers else None
    text = server.model.preparer.decode(answer)
    choice = {"index": 0, "message": {"content": text}, "finish_reason": reason, "logprobs": told}
    return {"model": MODEL, "choices": [choice], "usage": {"prompt_tokens": length}}


def _entry(server: ScoringServer, body: dict[str, Any], logprobs: torch.Tensor, token: int) -> dict[str, Any]:
    ids = body.get("logprob_token_ids") if "logprob_token_ids" in server.offers else None
    listed = [token, *ids] if ids else logprobs.topk(body.get("top_logprobs", 0)).indices.tolist()

    def named(one: int) -> dict[str, Any]:
        by_id = body.get("return_tokens_as_token_ids") and "tokenize" in server.offers
        name = f"token_id:{one}" if by_id else server.model.preparer._tokenizer.decode([one])
        return {"token": name, "logprob": float(logprobs[one]) * server.scale}

    return named(token) | {"top_logprobs": [named(one) for one in listed]}


def _reranked(server: ScoringServer, path: str, body: dict[str, Any]) -> Any:
    def content(given: Any) -> Content:
        parts = _parts(server, given["content"] if isinstance(given, dict) else given)
        texts = [part for part in parts if isinstance(part, str)]
        return Content(
            next((part for part in parts if isinstance(part, Picture)), None), " ".join(texts) if texts else None
        )

    query = body["text_1"] if path == "/score" else body["query"]
    documents = [body["text_2"]] if path == "/score" else body.get("texts") or body["documents"]
    scores = [server.model.score(content(query), content(document)) * server.scale for document in documents]
    if path == "/score":
        return {"data": [{"index": at, "score": score} for at, score in enumerate(scores)]}
    if server.info is not None:
        return [{"index": at, "score": score} for at, score in enumerate(scores)]
    return {"results": [{"index": at, "relevance_score": score} for at, score in enumerate(scores)]}


def small_model(profile: str | None = None) -> SmallModel:
    """Load the shipped model."""
    return SmallModel(load_scorer(PRESETS["demo"].scorer, device="cpu", profile=profile))


@contextlib.contextmanager
def serving(model: SmallModel | None, **options: Any) -> Iterator[ScoringServer]:
    """Run the server in a thread."""
    server = ScoringServer(model, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_away()
        thread.join()


@contextlib.contextmanager
def refusing_server() -> Iterator[str]:
    """Run a server without a model that refuses every key, and quotes it; yield its address."""
    with serving(None) as server:
        server.key = "another key"
        yield server.root


if __name__ == "__main__":
    torch.set_num_threads(1)
    serves = ScoringServer(small_model(), int(sys.argv[1]))
    serves.left = int(sys.argv[2]) if len(sys.argv) > 2 else None
    serves.serve_forever()
