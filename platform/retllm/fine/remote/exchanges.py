"""The exchanges of one call, one for each pair: which of them failed, and whether the server is away."""

from __future__ import annotations

import threading
from collections.abc import Callable

from retllm.errors import ModelUnavailable, ScoreUnreadable, ServerAway, ServerBusy, ServerFailed
from retllm.fine.remote.client import NoAnswer, Refused
from retllm.fine.scores import PairScore

Ask = Callable[[], PairScore]


class Exchanges:
    """Makes the exchanges of a call; thread-safe.

    An exchange without an answer is the failure of its pair if the server answers others, and otherwise that of all:
    then no further pair is asked about.

    Args:
        name: public name of the scorer.
        ask_little: asks about a pair that any server answers in no time.
    """

    def __init__(self, name: str, ask_little: Ask) -> None:
        self._name = name
        self._ask_little = ask_little
        self._answers = 0
        self._counting, self._asking = threading.Lock(), threading.Lock()
        self._over: Exception | None = None

    def outcome(self, ask: Ask) -> PairScore | Exception:
        """Return the score of a pair, or the error of its exchange."""
        if self._over is not None:
            return self._over
        try:
            return self._answered(ask)
        except NoAnswer as error:
            if self._answers_others(self._answers):
                return ServerFailed(
                    f"The server of the scorer {self._name} answers other requests, but fails at this pair: "
                    f"{error.reason}."
                )
            self._over = error
            return error
        except (ServerBusy, ModelUnavailable) as error:
            self._over = error
            return error
        except Exception as error:
            return error

    def _answered(self, ask: Ask) -> PairScore:
        score = ask()
        with self._counting:
            self._answers += 1
        return score

    def _answers_others(self, before: int) -> bool:
        """Return whether the server has answered anything since it had given ``before`` answers; it is asked if not."""
        with self._asking:
            if self._answers == before and self._over is None:
                try:
                    self._answered(self._ask_little)
                except (Refused, ScoreUnreadable):
                    return True
                except (ServerAway, ServerFailed, ModelUnavailable):
                    return False
            return self._answers > before
