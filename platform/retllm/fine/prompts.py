"""The questions put to the model, read from ``prompts.toml``: data, versioned, one template for each modality pair."""

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
"""A way of asking (method section 3)."""

Wording = Literal["true_false", "verbalized", "choice", "choice_swapped"]
"""A sentence that says how to answer; ``choice_swapped`` is ``choice`` with the letters' meanings exchanged."""

Part = str | Picture
"""A piece of a message: a text, or a picture in its place."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The two answers that a mode reads probabilities of, each in all its spellings."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompts:
    """All templates of one version.

    Attributes:
        version: changes with every change of a word; stored with every score.
        ask: for each :data:`Wording`, the sentence that says how to answer.
        labels: for each mode that reads labels, what they are (for ``choice``: as in its first order).
        pairs: for each ``"<query modality>-><candidate modality>"``, the parts of the message.
    """

    version: str
    ask: Mapping[str, str]
    labels: Mapping[str, Labels]
    pairs: Mapping[str, tuple[str, ...]]

    def message(self, wording: Wording, query: Content, candidate: Content) -> list[Part]:
        """The parts of the user's message for one pair, pictures in their places, the query's first.

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
                assert picture is not None, f"the template of {pair} shows a picture that {pair} has not"
                parts.append(picture)
            else:
                parts.append(_fill(part, words))
        return parts


def _fill(template: str, words: Mapping[str, str]) -> str:
    """Put the words in their places, each once: a query that itself says ``{candidate}`` stays as it is."""
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
    """Read the prompts from the text of a TOML file shaped like ``prompts.toml``."""
    data = tomllib.loads(text)
    labels = {
        mode: Labels(tuple(answers["positive"]), tuple(answers["negative"])) for mode, answers in data["labels"].items()
    }
    pairs = {pair: tuple(parts) for pair, parts in data["pairs"].items()}
    return Prompts(version=str(data["version"]), ask=dict(data["ask"]), labels=labels, pairs=pairs)


@cache
def load_prompts() -> Prompts:
    """The prompts that ship with this package."""
    return parse_prompts((resources.files("retllm.fine") / "prompts.toml").read_text(encoding="utf-8"))
