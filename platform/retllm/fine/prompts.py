"""The questions to the model, from ``prompts.toml`` and a profile: versioned data, a template for each pair."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources

from retllm.errors import InvalidInput, ModelUnsuited
from retllm.fine.content import Content, Picture
from retllm.profiles import ANY_PAIR, Mode, Profile, Wording

__all__ = ["Labels", "Mode", "Part", "Prompts", "Wording", "load_prompts", "parse_prompts", "with_profile"]

Part = str | Picture
"""A part of a message: a text or a picture."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The two answers whose probabilities a mode reads, each in all its spellings."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


#: maximum number of visual tokens of a picture, if neither setting nor profile has one
_PICTURE_TOKENS = 1024


def picture_budget(configured: int | None, profiled: int | None) -> int:
    """Return the maximum number of visual tokens of a picture: the lower one, or 1,024 if there is none."""
    return min((tokens for tokens in (configured, profiled) if tokens is not None), default=_PICTURE_TOKENS)


@dataclass(frozen=True, slots=True)
class Prompts:
    """All templates of one version.

    Attributes:
        version: changes with every change of what is asked; stored with every score.
        ask: for each :data:`Wording`, the instruction how to answer.
        labels: for each mode that reads labels, the labels (for ``choice``, in its first order).
        pairs: for each ``"<query modality>-><candidate modality>"``, the parts of the message; ``*`` has those of all
            others.
        template_arguments: of the chat template; each is given if the template mentions it.
        system: the system turn, if there is one.
        instruction: takes the place of ``{instruction}``.
        of_labels: whether the score of ``true_false`` is the positive label's share of both labels, not of all answers.
        modes: those in which the model may be asked.
        picture_tokens: maximum number of visual tokens of a picture by the profile; not part of the version.
        profile: the name of the profile.
    """

    version: str
    ask: Mapping[Wording, str]
    labels: Mapping[str, Labels]
    pairs: Mapping[str, tuple[str, ...]]
    template_arguments: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    system: str | None = None
    instruction: str = ""
    of_labels: bool = False
    modes: tuple[Mode, ...] = ("true_false", "verbalized", "choice")
    picture_tokens: int | None = None
    profile: str = "standard"

    @property
    def title(self) -> str:
        """The version and the profile, for people and for records."""
        return f"{self.version}, profile {self.profile}"

    def budget(self, picture_tokens: int | None) -> int:
        """Return the maximum number of visual tokens of a picture; see :func:`picture_budget`."""
        return picture_budget(picture_tokens, self.picture_tokens)

    def check_mode(self, mode: Mode) -> None:
        """Check that the model may be asked in a mode.

        Raises:
            ModelUnsuited: its profile does not have the mode.
        """
        if mode not in self.modes:
            raise ModelUnsuited(
                f"The profile {self.profile} of the scorer has no mode {mode}: use {' or '.join(self.modes)}, or "
                "another profile (RETLLM_PROFILE)."
            )

    def message(self, wording: Wording, query: Content, candidate: Content) -> list[Part]:
        """Return the parts of the user's message for one pair, texts and pictures in order, the query's picture first.

        Raises:
            InvalidInput: there is no template for these modalities.
        """
        pair = f"{query.modality}->{candidate.modality}"
        template = self.pairs.get(pair, self.pairs.get(ANY_PAIR))
        if template is None:
            raise InvalidInput(f"There is no prompt for {pair}.", field="pair")
        words = {
            "{query}": query.text or "",
            "{candidate}": candidate.text or "",
            "{ask}": self.ask[wording],
            "{instruction}": self.instruction,
        }
        pictures = {"@query.image": query.picture, "@candidate.image": candidate.picture}
        parts: list[Part] = []
        for part in template:
            if part in pictures:
                picture = pictures[part]
                assert picture or pair not in self.pairs, f"the template of {pair} shows a picture that is not there"
                parts += [picture] if picture else []
            elif text := _fill(part, words):
                # texts stand apart only where a picture is between them
                before = parts.pop() if parts and isinstance(parts[-1], str) else ""
                parts.append(f"{before}{text}")
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
    return Prompts(
        version=str(data["version"]),
        ask=dict(data["ask"]),
        labels=labels,
        pairs=pairs,
        template_arguments=dict(data["template_arguments"]),
    )


def with_profile(prompts: Prompts, profile: Profile) -> Prompts:
    """Return the prompts as a profile changes them; the version tells every change.

    A profile that changes nothing keeps the version, so scores of the prompts alone stay valid.
    """
    pairs = {} if ANY_PAIR in profile.pairs else prompts.pairs
    labels: dict[str, Labels] = {
        mode: Labels(answers.positive, answers.negative) for mode, answers in profile.labels.items()
    }
    changed = replace(
        prompts,
        ask={**prompts.ask, **profile.ask},
        labels={**prompts.labels, **labels},
        pairs={**pairs, **profile.pairs},
        template_arguments={**prompts.template_arguments, **profile.template_arguments},
        system=profile.system,
        instruction=profile.instruction or "",
        of_labels=profile.score == "labels",
        modes=profile.modes,
    )
    if changed != prompts:
        digest = hashlib.sha256(json.dumps(asdict(changed), sort_keys=True).encode()).hexdigest()[:8]
        changed = replace(changed, version=f"{prompts.version}+{digest}")
    return replace(changed, picture_tokens=profile.picture_tokens, profile=profile.name)


@cache
def load_prompts() -> Prompts:
    """Return the prompts of this package."""
    return parse_prompts((resources.files("retllm.fine") / "prompts.toml").read_text(encoding="utf-8"))
