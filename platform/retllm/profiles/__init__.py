"""Profiles of scorers: how a family of models is asked, as data. Each TOML file beside this module is one.

A profile changes the questions of ``retllm/fine/prompts.toml``; what it does not name stays. Which one a model has is
decided by its configuration (:func:`choose_profile`), unless the setting ``RETLLM_PROFILE`` names another, or a file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Mode = Literal["true_false", "verbalized", "choice"]
"""How the scorer is asked (method section 3)."""

Wording = Literal["true_false", "verbalized", "choice", "choice_swapped"]
"""The instruction how to answer; ``choice_swapped`` is ``choice`` with the meanings of the letters swapped."""

ANY_PAIR = "*"
"""The template of all pairs without one of their own; what a pair lacks is left out of it."""

_KINDS = ("image", "text", "image+text")
_PAIRS = {f"{query}->{candidate}": (query, candidate) for query, candidate in product(_KINDS, _KINDS)}
_PICTURES = ("@query.image", "@candidate.image")
_PLACES = {"{query}", "{candidate}", "{ask}", "{instruction}"}
_SUFFIX = ".toml"
_KINDS_OF_VALUES = {
    "tuple_type": "it is a list, in brackets",
    "model_type": "it is a table",
    "dict_type": "it is a table",
}

Spelling = Annotated[str, Field(pattern=r"\S")]
Name = Annotated[str, Field(min_length=1)]


class BadProfile(ValueError):
    """A profile can't be used; the message names the file and the key, and says what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Strict):
    """Which models have a profile.

    Attributes:
        model_types: of the model's configuration.
        names: patterns of names in small letters, with ``*`` for anything. They count where the type is not known, as
            of a model on a server.
        templates: texts that only the chat templates of these models contain.
        named: several families share the type, so one of names or templates has to match too.
    """

    model_types: tuple[Name, ...] = ()
    names: tuple[Name, ...] = ()
    templates: tuple[Name, ...] = ()
    named: bool = False

    def fits(self, model_type: str | None, names: Collection[str], template: str) -> bool:
        """Return whether a model has this profile; see :func:`choose_profile`."""
        known = any(fnmatchcase(name.lower(), pattern) for name in names for pattern in self.names) or any(
            text in template for text in self.templates
        )
        if model_type is None:
            return known
        return model_type in self.model_types and (known or not self.named)


class Answers(_Strict):
    """The two answers whose probabilities a mode reads, each in all its spellings."""

    positive: tuple[Spelling, ...] = Field(min_length=1)
    negative: tuple[Spelling, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        both = sorted(set(self.positive) & set(self.negative))
        if both:
            raise ValueError(f"{both[0]!r} is a spelling of both answers: remove it from one")
        return self


class Profile(_Strict):
    """How the models of a family are asked.

    Attributes:
        name: of the file, without its suffix.
        source: where its facts come from.
        match: which models have it.
        system: the system turn; None for none.
        instruction: takes the place of ``{instruction}`` in the pairs.
        score: what the score of ``true_false`` is a share of: the whole ``vocabulary``, or both ``labels``.
        modes: those that the models know.
        template_arguments: of the chat template; each is given if the template mentions it.
        picture_tokens: maximum number of visual tokens of a picture that the models were trained with; the default
            of ``RETLLM_PICTURE_TOKENS``, of which a lower value counts.
        k: number of candidates for which the models were made, as a hint.
        ask, labels, pairs: as in ``prompts.toml``; each entry takes the place of the one with its name.
    """

    name: str
    source: str = ""
    match: Match = Match()
    system: Spelling | None = None
    instruction: Spelling | None = None
    score: Literal["vocabulary", "labels"] = "vocabulary"
    modes: tuple[Mode, ...] = Field(default=("true_false", "verbalized", "choice"), min_length=1)
    template_arguments: Mapping[str, bool | int | float | str] = {}
    picture_tokens: int | None = Field(default=None, ge=16)
    k: int | None = Field(default=None, ge=1)
    ask: Mapping[Wording, Spelling] = {}
    labels: Mapping[Literal["true_false", "choice"], Answers] = {}
    pairs: Mapping[str, tuple[Name, ...]] = {}

    @field_validator("modes")
    @classmethod
    def _modes_have_the_first(cls, modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
        if "true_false" not in modes:
            raise ValueError("add true_false, which is asked for the entropy of ties")
        return modes

    @model_validator(mode="after")
    def _pairs_are_complete(self) -> Self:
        for pair, parts in self.pairs.items():
            self._check_pair(pair, parts)
        return self

    def _check_pair(self, pair: str, parts: Sequence[str]) -> None:
        if pair != ANY_PAIR and pair not in _PAIRS:
            raise ValueError(f'pairs has no "{pair}": use one of {", ".join(_PAIRS)}, or {ANY_PAIR}')
        text = "".join(part for part in parts if part not in _PICTURES)
        unknown = sorted({*re.findall(r"\{\w*\}|@\w+\.image", text)} - _PLACES)
        if unknown:
            raise ValueError(f'pairs."{pair}" has the unknown placeholder {unknown[0]}: a picture is a part of its own')
        query, candidate = _PAIRS.get(pair, ("image+text", "image+text"))
        needed = [
            place
            for kind, places in ((query, ("@query.image", "{query}")), (candidate, ("@candidate.image", "{candidate}")))
            for place, part in zip(places, ("image", "text"), strict=True)
            if part in kind
        ]
        shown = [part for part in parts if part in _PICTURES] + [p for p in ("{query}", "{candidate}") if p in text]
        if sorted(shown) != sorted(needed) or any(text.count(place) > 1 for place in _PLACES):
            raise ValueError(f'pairs."{pair}" must have each of {", ".join(needed)} once, and no other of them')
        if [part for part in shown if part in _PICTURES] == [*reversed(_PICTURES)]:
            raise ValueError(f'pairs."{pair}" must have the picture of the query before that of the candidate')
        if "{instruction}" in text and self.instruction is None:
            raise ValueError(f'pairs."{pair}" has {{instruction}}: set instruction')
        if "{ask}" not in text and self.modes != ("true_false",):
            raise ValueError(f'pairs."{pair}" lacks {{ask}}: add it, or set modes to ["true_false"]')


def load_profile(name: str) -> Profile:
    """Return a profile of this package by its name, or that of a file, read once in a process.

    Raises:
        BadProfile: there is no such profile, or its file has a mistake.
    """
    return _load(name)


@cache
def _load(name: str) -> Profile:
    if name in known_profiles():
        return known_profiles()[name]
    path = Path(name).expanduser()
    if path.suffix != _SUFFIX:
        raise BadProfile(
            f"There is no profile {name}: name a file that ends in {_SUFFIX}, or one of {', '.join(known_profiles())}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadProfile(f"The profile {path} can't be read ({reason}): correct the path, or unset it") from error
    return parse_profile(text, path.stem, str(path))


@cache
def shipped_profiles() -> dict[str, Profile]:
    """Return the profiles of this package by name."""
    texts = {
        file.name: file.read_text(encoding="utf-8")
        for file in resources.files(__name__).iterdir()
        if file.name.endswith(_SUFFIX)
    }
    names = {file: file.removesuffix(_SUFFIX) for file in sorted(texts)}
    return {name: parse_profile(texts[file], name, file) for file, name in names.items()}


def parse_profile(text: str, name: str, file: str) -> Profile:
    """Parse a profile.

    Args:
        text: in TOML.
        name: of the profile.
        file: its file, for messages.

    Raises:
        BadProfile: it has a mistake.
    """
    try:
        data = tomllib.loads(text)
        if "name" in data:
            raise BadProfile(f'The profile {file}: remove the key "name"; a profile has the name of its file')
        return Profile.model_validate({"name": name, **data})
    except tomllib.TOMLDecodeError as error:
        raise BadProfile(f"The profile {file} is not valid TOML: {error}. Correct that place") from error
    except ValidationError as error:
        raise BadProfile(f"The profile {file}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """Return the first mistake, with the key and what to do."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        return f'it has no key "{key}": remove it, or correct its spelling (the documentation lists the keys)'
    if first["type"] == "missing":
        return f'the key "{key}" is missing: add it'
    problem = _KINDS_OF_VALUES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return f'correct the key "{key}": {problem}' if key else problem


def choose_profile(chosen: str | None, model_type: str | None, names: Collection[str], template: str = "") -> Profile:
    """Return the profile of a model: the chosen one, else the one that fits best, else one that changes nothing.

    Args:
        chosen: a name or a file; None decides by the model.
        model_type: of its configuration; None if that is not known, as on a server.
        names: of the model.
        template: its chat template.

    Raises:
        BadProfile: the chosen profile can't be used.
    """
    if chosen is not None:
        return load_profile(chosen)
    fitting = [one for one in shipped_profiles().values() if one.match.fits(model_type, names, template)]
    return min(fitting, key=lambda one: not one.match.named, default=STANDARD)


STANDARD = Profile(name="standard")
"""The profile of a model of no known family: the questions of ``prompts.toml``."""


def known_profiles() -> dict[str, Profile]:
    """Return the profiles that a setting may name: those of this package, and ``standard``."""
    return shipped_profiles() | {STANDARD.name: STANDARD}


def names_of(model: str) -> tuple[str, ...]:
    """Return the names by which a model is recognised: the last part of a name or path, or the cache's folder."""
    parts = Path(model).parts
    in_cache = len(parts) > 2 and parts[-2] == "snapshots"
    return (parts[-3 if in_cache else -1],) if parts else ()
