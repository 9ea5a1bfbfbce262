"""What the platform needs of a scorer, whether the model runs in this process or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from retllm.fine.content import Content, Picture, PreparedPicture
from retllm.fine.injection import Injection
from retllm.fine.prompts import Mode
from retllm.fine.scores import PairScore, ScorerInfo


class FineScorer(Protocol):
    """Scores (query, candidate) pairs; scorers inherit from it."""

    @property
    def info(self) -> ScorerInfo:
        """What the scorer is."""

    @property
    def least_pixels(self) -> int:
        """Minimum number of pixels to which a JPEG may be reduced by its decoder before it is scored; 0 if unknown."""

    @property
    def pairs_at_once(self) -> int:
        """How many pairs keep the model busy in one call."""

    def refresh(self) -> None:
        """Make :attr:`info` and :meth:`version` those of now; nothing to do for a model in this process.

        Raises:
            ServerAway: the scorer's server does not answer.
            ModelUnavailable: the server does not serve the model, or refuses the key.
        """

    def version(self, injection: Injection, mode: Mode = "true_false") -> str:
        """Return a short stable hash of everything that can change a score, to be stored with each score."""

    def prepares(self, picture: Picture) -> bool:
        """Return whether :meth:`prepare` saves time for a picture that is scored soon."""

    def prepare(self, picture: Picture) -> PreparedPicture | None:
        """Open and prepare a picture for a later call; safe in any thread, also while pairs are scored.

        Raises:
            What opening the picture raises, and what the model's image processor raises.
        """

    def says(self, query: Content, candidate: Content) -> str | None:  # noqa: ARG002 (of those that can tell)
        """Return the first token of the answer that the model itself would give in the mode ``true_false``, as text.

        None if that is nothing to read, or if the scorer can't tell. Raises as :meth:`score_pairs`.
        """
        return None

    def score(
        self,
        query: Content,
        candidates: Sequence[Content],
        injection: Injection | None = None,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        """Score every candidate against the query, in the given order; see :meth:`score_pairs`."""
        return self.score_pairs([(query, candidate) for candidate in candidates], injection, mode=mode, trace=trace)

    def score_pairs(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection | None = None,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> list[PairScore]:
        """Score every pair of a query and a candidate, in the given order.

        Raises:
            InvalidInput: the settings do not fit this scorer, or it can't take a pair (``detail["index"]``).
            ModelUnavailable, ModelUnsuited: the scorer can't be used, or not in this mode.
            ScoreUnreadable, TooLargeForDevice: a pair can't be scored (``detail["index"]``).
            ServerAway: the scorer's server does not answer.
        """

    def score_each(
        self,
        pairs: Sequence[tuple[Content, Content]],
        injection: Injection | None = None,
        *,
        mode: Mode = "true_false",
        trace: bool = False,
    ) -> Sequence[PairScore | Exception]:
        """Score every pair as :meth:`score_pairs`, but an error of one pair alone takes the place of its score.

        A scorer that asks about each pair by itself has such errors. What fails for all pairs is raised.
        """
        return self.score_pairs(pairs, injection, mode=mode, trace=trace)
