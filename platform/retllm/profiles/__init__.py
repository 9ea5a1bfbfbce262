"""Profiles of scorers: how a family of models is asked, as data. Each TOML file beside this module is one.

A profile changes the questions of ``retllm/fine/prompts.toml``; what it does not name stays. Which one a model has is
decided by its configuration (:func:`choose_profile`), unless the setting ``RETLLM_PROFILE`` names another, or a file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from retllm.profiles.parts import (
    ANY_PAIR,
    Answers,
    Argument,
    ArgumentName,
    Match,
    Number,
    Part,
    Strict,
    Text,
    check_pair,
)
from retllm.profiles.reading import BadProfile, parse_toml, quoted, read_profile, sentence

__all__ = [
    "ANY_PAIR",
    "STANDARD",
    "Answers",
    "BadProfile",
    "Match",
    "Mode",
    "Profile",
    "Wording",
    "choose_profile",
    "known_profiles",
    "load_profile",
    "names_of",
    "parse_profile",
    "shipped_profiles",
]

Mode = Literal["true_false", "verbalized", "choice"]
"""How the scorer is asked (method section 3)."""

Wording = Literal["true_false", "verbalized", "choice", "choice_swapped"]
"""The instruction how to answer; ``choice_swapped`` is ``choice`` with the meanings of the letters swapped."""

_SUFFIX = ".toml"
#: of the name of a profile, which is stored with every score
_LONGEST_NAME = 60


class Profile(Strict):
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
    system: Text | None = None
    instruction: Text | None = None
    score: Literal["vocabulary", "labels"] = "vocabulary"
    modes: tuple[Mode, ...] = Field(default=("true_false", "verbalized", "choice"), min_length=1)
    template_arguments: Mapping[ArgumentName, Argument] = {}
    picture_tokens: Annotated[Number, Field(ge=16)] | None = None
    k: Annotated[Number, Field(ge=1)] | None = None
    ask: Mapping[Wording, Text] = {}
    labels: Mapping[Literal["true_false", "choice"], Answers] = {}
    pairs: Mapping[str, Annotated[tuple[Part, ...], Field(min_length=1)]] = {}

    @field_validator("modes")
    @classmethod
    def _modes_have_the_first(cls, modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
        if "true_false" not in modes:
            raise ValueError("add true_false, which is asked for the entropy of ties")
        return tuple(dict.fromkeys(modes))

    @model_validator(mode="after")
    def _pairs_are_complete(self) -> Self:
        texts = {pair: check_pair(pair, parts) for pair, parts in self.pairs.items()}
        for pair, text in texts.items():
            if "{instruction}" in text and self.instruction is None:
                raise ValueError(f'pairs."{pair}" has {{instruction}}: set instruction')
            if "{ask}" not in text and self.modes != ("true_false",):
                raise ValueError(f'pairs."{pair}" lacks {{ask}}: add it, or set modes to ["true_false"]')
        if self.instruction is not None and not any("{instruction}" in text for text in texts.values()):
            raise ValueError("no question has {instruction}: add it to one in pairs, or remove instruction")
        return self


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
    if not name.endswith(_SUFFIX):
        raise BadProfile(
            f"There is no profile {name}: name a file that ends in {_SUFFIX}, or one of {', '.join(known_profiles())}"
        )
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise BadProfile(f"The profile {name} is in the home of an unknown account: correct the path") from error
    if not path.name.isprintable() or len(path.stem) > _LONGEST_NAME:
        shown = quoted(path.name)
        raise BadProfile(f"The profile {shown} has a name that is too long, or unprintable: rename the file")
    return parse_profile(read_profile(path), path.stem, str(path))


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
    data = parse_toml(text, file)
    if "name" in data:
        raise BadProfile(f'The profile {file}: remove the key "name"; a profile has the name of its file')
    try:
        return Profile.model_validate({"name": name, **data})
    except ValidationError as error:
        raise BadProfile(f"The profile {file}: {sentence(error)}") from error


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
