"""A scorer behind a reranker's endpoint: ``/rerank`` or ``/score`` as of vLLM, or ``/rerank`` of TEI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from retllm.errors import ModelUnavailable, ScoreUnreadable, ServerFailed
from retllm.fine.odds import clipped_log_odds
from retllm.fine.prompts import Mode, Prompts
from retllm.fine.remote.client import Refused
from retllm.fine.remote.contents import document_of
from retllm.fine.remote.scorer import RemotePair, RemoteScorer
from retllm.fine.scores import PairScore


class RerankScorer(RemoteScorer):
    """Sends query and candidate; the server's model has its own question, and gives a score without an entropy."""

    modes: ClassVar[tuple[Mode, ...]] = ("true_false",)

    @property
    def prompts(self) -> Prompts:
        """See :class:`RemoteScorer`."""
        return replace(super().prompts, profile="of the server")

    def _describe(self) -> dict[str, Any]:
        info = self._client.get(f"{self._address.root}/info")
        if isinstance(info, dict) and "model_id" in info:
            if info["model_id"] != self._address.model:
                raise ModelUnavailable(
                    f"The server of the scorer has the model {info['model_id']}, not {self._address.model}. "
                    "Correct its address.",
                    model=self._address.name,
                )
            return info
        return super()._describe()

    def _score_pair(self, pair: RemotePair, mode: Mode) -> PairScore:  # noqa: ARG002 (it has one mode)
        query, document = document_of(pair.query, pair.urls), document_of(pair.candidate, pair.urls)
        answer = self._client.post(self._address.api, self._body(query, document))
        score = self._read(answer)
        if not 0 <= score <= 1:
            raise ScoreUnreadable(
                f"The score of the server is not from 0 to 1: {score:g}. Start it with an activation such as sigmoid."
            )
        return PairScore(
            score=score,
            log_odds=clipped_log_odds(score),
            entropy=None,
            injected_layer=None,
            uncertainty=None,
            tokens=0,
        )

    def _body(self, query: str | dict[str, Any], document: str | dict[str, Any]) -> dict[str, Any]:
        if "model_id" in self.served:
            # text-embeddings-inference, which takes no pictures
            if not isinstance(query, str) or not isinstance(document, str):
                raise Refused("it compares texts only")
            return {"query": query, "texts": [document], "raw_scores": False}
        if self._address.path.endswith("/score"):
            return {"model": self._address.model, "text_1": query, "text_2": document}
        return {"model": self._address.model, "query": query, "documents": [document]}

    def _read(self, answer: Any) -> float:
        entries = answer
        if isinstance(answer, dict):
            entries = answer.get("results") or answer.get("data")
        try:
            (entry,) = entries
            return float(entry["relevance_score"] if "relevance_score" in entry else entry["score"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ServerFailed(
                f"The server of the scorer {self._address.name} answered in another form than that of a reranker."
            ) from error
