"""The settings of the models, a part of :class:`retllm.settings.Settings`."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource

from retllm.kept_preset import KeptPreset
from retllm.presets import PRESETS, notice_on, public_name
from retllm.profiles import load_profile
from retllm.scorer_address import ScorerAddress, is_remote, parse_scorer_address


class ExtraScorer(BaseModel):
    """A scorer beside the main one.

    Attributes:
        scorer: the transformers name or folder, or the address of one on a server.
        revision: commit (or branch or tag) of a model of a hub.
        profile: in place of that of its family.
        key: for its own server; no other server gets it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorer: str = Field(min_length=1)
    revision: str | None = None
    profile: str | None = None
    key: str | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        name = self.name
        if "," in name:
            raise ValueError(f"the name of the scorer {name} has a comma, which the name of its queue can't have")
        if self.profile is not None:
            load_profile(self.profile)
        address = parse_scorer_address(self.scorer) if is_remote(self.scorer) else None
        if address is not None and self.revision is not None:
            raise ValueError(f"the scorer {name} on a server has the revision that it says: leave out its revision")
        if address is not None and address.protocol == "rerank" and self.profile is not None:
            raise ValueError(f"the reranker {name} on a server has its own question: leave out its profile")
        if not is_key(self.key):
            raise ValueError(f"the key of the scorer {name} has characters that no key can have, such as a line break")
        return self

    @property
    def name(self) -> str:
        """The public name, by which searches and queues know it."""
        return public_name(self.scorer)


def listed(value: Any) -> Any:
    """Parse a JSON list (for names with commas), or names separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def is_key(text: str | None) -> bool:
    """Return whether this can be sent as a key, or is none."""
    return not text or (text.isascii() and text.isprintable())


class ModelSettings(BaseSettings):
    """Which models are used, and how."""

    preset: Literal["demo", "small", "paper", "best", "multilingual"] = Field(
        default="demo",
        description="The pair of models: demo (shipped), small (laptop), or paper, best or multilingual (GPU). Unset: "
        "those of the last `retllm up` in RETLLM_HOME; its first start takes small if it can have these models.",
    )
    embedder: str | None = Field(
        default=None,
        description="Embedder in place of the preset's. Of open_clip: NAME/PRETRAINED, hf-hub:ORG/REPO or "
        "local-dir:FOLDER. Of sentence-transformers (needs the extra `sentence`): st:ORG/REPO or st:local-dir:FOLDER, "
        "also with #LENGTH to shorten its vectors. Names on a hub accept @COMMIT at their end to pin a commit.",
    )
    extra_embedders: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="More embedders for the coarse stage, separated by commas or as a JSON list; every `embed` worker "
        "loads each of them, and each needs an index job.",
    )
    scorer: str | None = Field(
        default=None,
        description="transformers image-text-to-text model in place of the preset's: a name or a folder. Or one that a "
        "server runs: openai+http://HOST:8000/v1#MODEL or rerank+http://HOST:8000#MODEL.",
    )
    scorer_key: str | None = Field(
        default=None, repr=False, description="Key for the server of the scorer; sent as a bearer token."
    )
    extra_scorers: Annotated[tuple[ExtraScorer, ...], NoDecode] = Field(
        default=(),
        description="More scorers, of which a search may name one: names or addresses separated by commas, or a JSON "
        "list of them or of objects with `scorer` and, where needed, `revision`, `profile` and `key`. Each has its own "
        "queue, `score:NAME`, and its own workers.",
    )
    scorer_requests: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Maximum number of pairs that a worker asks the scorer's server at once.",
    )
    scorer_seconds: float = Field(
        default=120, gt=0, description="Seconds after which a request to the server of a scorer is given up."
    )
    scorer_patience_seconds: float = Field(
        default=3600, ge=0, description="Seconds that a search waits for the server of its scorer before it fails."
    )
    scorer_revision: str | None = Field(default=None, description="Commit (or branch or tag) of the scorer on its hub.")
    profile: str | None = Field(
        default=None,
        description="Profile of the scorer in place of that of its family: how it is asked. A name such as "
        "qwen3_vl_reranker, or a TOML file.",
    )
    device: str = Field(default="auto", description="Device of the models: auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Number format of the models; auto is bfloat16 on a GPU and float32 on a CPU."
    )
    token_budget: int | None = Field(
        default=None,
        ge=256,
        description="Maximum number of tokens, padding included, in one batch of the scorer. If it is not set: 8,192 "
        "on a CPU; on a GPU from 2,048 to 16,384, by its memory.",
    )
    picture_tokens: int | None = Field(
        default=None,
        ge=16,
        description="Maximum number of visual tokens of one picture; larger pictures are scaled down. Scores with "
        "different values are never compared or reused. If it is not set: what the profile of the scorer says, or "
        "else 1,024, or the fewest that the model makes of a picture.",
    )
    prefix_cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes for cached image prefixes on the device of a scorer; 0 disables the cache. If it is not "
        "set: on a GPU what is free after loading, less one batch; on a CPU an eighth of the memory, at most 1 GiB.",
    )
    visual_cache_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="Bytes for cached visual tokens on the device of a scorer; 0 disables the cache.",
    )
    torch_threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads of a worker's models; 0 divides the cores among the workers of `retllm up` that "
        "embed, and again among those that score.",
    )

    _names = field_validator("extra_embedders", mode="before")(listed)

    @field_validator("extra_scorers", mode="before")
    @classmethod
    def _scorers(cls, value: Any) -> Any:
        """Parse JSON, or names separated by commas; a name stands for an entry with nothing else."""
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ValueError(f"it is neither JSON nor names separated by commas: {error}") from error
            value = [value] if isinstance(value, dict) else value
        elif isinstance(value, str):
            value = listed(value)
        return [{"scorer": entry} if isinstance(entry, str) else entry for entry in value]

    @field_validator("profile")
    @classmethod
    def _profile_is_readable(cls, name: str | None) -> str | None:
        if name is not None:
            load_profile(name)
        return name

    @model_validator(mode="after")
    def _embedders_differ(self) -> Self:
        names = [public_name(name) for name in dict.fromkeys((self.embedder_name, *self.extra_embedders))]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"two embedders are called {duplicates[0]}: give one of the folders another name")
        return self

    @model_validator(mode="after")
    def _scorers_differ(self) -> Self:
        names = self.scorer_names
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(
                f"two scorers are called {duplicates[0]}: give one of the folders, or the model on one of the servers, "
                "another name"
            )
        return self

    @property
    def embedder_name(self) -> str:
        """The name of the configured embedder."""
        return self.embedder or PRESETS[self.preset].embedder

    @property
    def embedders(self) -> dict[str, str]:
        """The names of all configured embedders by :func:`public_name`; ``embedder_name`` comes first."""
        return {public_name(name): name for name in (self.embedder_name, *self.extra_embedders)}

    @property
    def scorer_name(self) -> str:
        """The transformers name or folder of the configured scorer, or the address of one on a server."""
        return self.scorer or PRESETS[self.preset].scorer

    @property
    def scorers(self) -> tuple[str, ...]:
        """The names, folders or addresses of all configured scorers; the main one comes first."""
        return (self.scorer_name, *(extra.scorer for extra in self.extra_scorers))

    @property
    def scorer_names(self) -> list[str]:
        """The public names of all configured scorers; the main one comes first."""
        return [public_name(scorer) for scorer in self.scorers]

    @property
    def remote_scorer(self) -> ScorerAddress | None:
        """The address of the configured scorer, if a server runs it."""
        return parse_scorer_address(self.scorer_name) if is_remote(self.scorer_name) else None

    @property
    def notice(self) -> str | None:
        """The notice on the configured models (:attr:`Preset.notice`), if any."""
        return self.notice_on((*self.embedders, *self.scorer_names))

    def notice_on(self, models: Collection[str]) -> str | None:
        """Return the notice on ``models``, given by public name, whether or not they are configured."""
        return notice_on(models, self.embedders | dict(zip(self.scorer_names, self.scorers, strict=True)))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        *_: Any,
        **sources: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments, the environment and the kept preset; the other sources, which take as long, have nothing."""
        return sources["init_settings"], sources["env_settings"], KeptPreset(settings_cls)
