"""The questions to the model, from ``prompts.toml``: versioned data, one template for each modality pair."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from retllm.errors import InvalidInput
from retllm.fine.content import Content, Picture

Mode = Literal["true_false", "verbalized", "choice"]
"""How the scorer is asked (method section 3)."""

Wording = Literal["true_false", "verbalized", "choice", "choice_swapped"]
"""The instruction how to answer; ``choice_swapped`` is ``choice`` with the meanings of the letters swapped."""

Part = str | Picture
"""A part of a message: a text or a picture."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The two answers whose probabilities a mode reads, each in all its spellings."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompts:
    """All templates of one version.

    Attributes:
        version: changes with every change of the wording; stored with every score.
        ask: for each :data:`Wording`, the instruction how to answer.
        labels: for each mode that reads labels, the labels (for ``choice``, in its first order).
        pairs: for each ``"<query modality>-><candidate modality>"``, the parts of the message.
    """

    version: str
    ask: Mapping[str, str]
    labels: Mapping[str, Labels]
    pairs: Mapping[str, tuple[str, ...]]

    def message(self, wording: Wording, query: Content, candidate: Content) -> list[Part]:
        """Return the parts of the user's message for one pair, texts and pictures in order, the query's picture first.

        Raises:
            InvalidInput: there is no template for these modalities.
        """
        pair = f"{query.modality}->{candidate.modality}"
        template = self.pairs.get(pair)
        if template is None:
            raise InvalidInput(f"There is no prompt for {pair}.", field="pair")
        words = {"{query}": query.text or "", "{candidate}": candidate.text or "", "{ask}": self.ask[wording]}
        pictures = {"@query.image": query.picture, "@candidate.image": candidate.picture}
        parts: list[Part] = []
        for part in template:
            if part in pictures:
                picture = pictures[part]
                assert picture is not None, f"the template of {pair} shows a picture that {pair} does not have"
                parts.append(picture)
            else:
                parts.append(_fill(part, words))
        return parts


def _fill(template: str, words: Mapping[str, str]) -> str:
    """Fill in the placeholders in one pass: a query that contains ``{candidate}`` is not changed."""
    filled = []
    rest = template
    while rest:
        places = [(rest.find(name), name) for name in words if name in rest]
        if not places:
            break
        at, name = min(places)
        filled += [rest[:at], words[name]]
        rest = rest[at + len(name) :]
    return "".join([*filled, rest])


def parse_prompts(text: str) -> Prompts:
    """Parse prompts from TOML text in the format of ``prompts.toml``."""
    data = tomllib.loads(text)
    labels = {
        mode: Labels(tuple(answers["positive"]), tuple(answers["negative"])) for mode, answers in data["labels"].items()
    }
    pairs = {pair: tuple(parts) for pair, parts in data["pairs"].items()}
    return Prompts(version=str(data["version"]), ask=dict(data["ask"]), labels=labels, pairs=pairs)


@cache
def load_prompts() -> Prompts:
    """Return the prompts of this package."""
    return parse_prompts((resources.files("retllm.fine") / "prompts.toml").read_text(encoding="utf-8"))
