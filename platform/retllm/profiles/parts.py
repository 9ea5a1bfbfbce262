"""The parts of a profile that are checked on their own: texts, answers, arguments, and which models have it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from itertools import product
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from retllm.profiles.reading import quoted

PICTURES = ("@query.image", "@candidate.image")
PLACES = frozenset({"{query}", "{candidate}", "{ask}", "{instruction}"})

#: names with a meaning of their own in the call that fills in a chat template, here and on servers
RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "documents",
        "kwargs",
        "load_audio_from_video",
        "max_length",
        "messages",
        "padding",
        "processor_kwargs",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "self",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)

_MOST_NUMBER = 1_000_000
_INTEGERS = range(-(2**63), 2**63)


def _visible(text: str) -> str:
    control = next((one for one in text if unicodedata.category(one) in ("Cc", "Cs") and one not in "\n\t\r"), None)
    if control is not None:
        raise ValueError(f"it has the control character {control!r}: remove it")
    return text


def _without_places(text: str) -> str:
    place = next((place for place in (*PICTURES, *sorted(PLACES)) if place in text), None)
    if place is not None:
        raise ValueError(f"it has {place}, which is filled in in pairs only: remove it")
    return text


def _argument(value: Any) -> bool | int | float | str:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("it is true, false, a number or a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it is a finite number")
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("it is a number of 64 bits")
    return _visible(value) if isinstance(value, str) else value


def _argument_name(name: str) -> str:
    if name in RESERVED:
        raise ValueError("its name has another meaning in every chat template: remove it")
    if not name.isidentifier():
        raise ValueError("no chat template can have an argument of that name: correct its spelling")
    return name


Part = Annotated[str, Field(min_length=1), AfterValidator(_visible)]
Text = Annotated[str, Field(pattern=r"\S"), AfterValidator(_visible), AfterValidator(_without_places)]
Spelling = Annotated[str, Field(pattern=r"\S", max_length=100), AfterValidator(_visible)]
Argument = Annotated[bool | int | float | str, BeforeValidator(_argument)]
ArgumentName = Annotated[str, AfterValidator(_argument_name)]
Number = Annotated[int, Field(strict=True, le=_MOST_NUMBER)]


class Strict(BaseModel):
    """A model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(Strict):
    """Which models have a profile.

    Attributes:
        model_types: of the model's configuration.
        names: patterns of names in small letters, with ``*`` for anything. They count where the type is not known, as
            of a model on a server.
        templates: texts that only the chat templates of these models contain.
        named: several families share the type, so one of names or templates has to match too.
    """

    model_types: tuple[Part, ...] = ()
    names: tuple[Part, ...] = ()
    templates: tuple[Part, ...] = ()
    named: Annotated[bool, Field(strict=True)] = False

    def fits(self, model_type: str | None, names: Collection[str], template: str) -> bool:
        """Return whether a model has this profile; see :func:`retllm.profiles.choose_profile`."""
        known = any(fnmatchcase(name.lower(), pattern) for name in names for pattern in self.names) or any(
            text in template for text in self.templates
        )
        if model_type is None:
            return known
        return model_type in self.model_types and (known or not self.named)


class Answers(Strict):
    """The two answers whose probabilities a mode reads, each in all its spellings."""

    positive: tuple[Spelling, ...] = Field(min_length=1)
    negative: tuple[Spelling, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        for one, other in product(self.positive, self.negative):
            first, second = _normal(one), _normal(other)
            if first == second:
                raise ValueError(f"{one!r} and {other!r} are spellings of both answers: remove one")
            if first.startswith(second) or second.startswith(first):
                raise ValueError(
                    f"the answers {one!r} and {other!r} begin alike, and only their first token is read: choose others"
                )
        return self


def _normal(spelling: str) -> str:
    """Return a spelling without what models and tokenizers may not tell apart."""
    return unicodedata.normalize("NFKC", spelling).strip().casefold()


KINDS = ("image", "text", "image+text")
PAIRS: Mapping[str, tuple[str, str]] = {
    f"{query}->{candidate}": (query, candidate) for query, candidate in product(KINDS, KINDS)
}

ANY_PAIR = "*"
"""The template of all pairs without one of their own; what a pair lacks is left out of it."""


def check_pair(pair: str, parts: tuple[str, ...]) -> str:
    """Check the parts of one pair, and return its text.

    Raises:
        ValueError: there is no such pair, or its parts are not those that it needs.
    """
    if pair != ANY_PAIR and pair not in PAIRS:
        raise ValueError(f'pairs has no "{quoted(pair)}": use one of {", ".join(PAIRS)}, or {ANY_PAIR}')
    text = "".join(part for part in parts if part not in PICTURES)
    unknown = sorted({*re.findall(r"\{\w*\}|@\w+\.image", text)} - PLACES)
    if unknown:
        name = quoted(unknown[0])
        raise ValueError(
            f'pairs."{pair}" has the unknown placeholder {name}: a picture is a part of its own, remove others'
        )
    query, candidate = PAIRS.get(pair, ("image+text", "image+text"))
    needed = [
        place
        for kind, places in ((query, ("@query.image", "{query}")), (candidate, ("@candidate.image", "{candidate}")))
        for place, part in zip(places, ("image", "text"), strict=True)
        if part in kind
    ]
    shown = [part for part in parts if part in PICTURES] + [p for p in ("{query}", "{candidate}") if p in text]
    if sorted(shown) != sorted(needed) or any(text.count(place) > 1 for place in PLACES):
        raise ValueError(f'pairs."{pair}" must have each of {", ".join(needed)} once, and no other of them')
    if [part for part in shown if part in PICTURES] == [*reversed(PICTURES)]:
        raise ValueError(f'pairs."{pair}" must have the picture of the query before that of the candidate')
    return text
