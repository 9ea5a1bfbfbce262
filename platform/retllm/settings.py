"""The settings of the platform, each with its help text (design: settings).

Settings come from the environment (``RETLLM_<NAME>``; the two servers also from ``DATABASE_URL`` and ``REDIS_URL``).
The settings page of the documentation is generated from this module.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from retllm import redaction
from retllm.errors import InvalidInput
from retllm.import_roots import checked
from retllm.model_settings import ModelSettings, is_key, listed
from retllm.presets import PRESETS as PRESETS
from retllm.presets import public_name as public_name
from retllm.profiles import Mode, load_profile


class Settings(ModelSettings):
    """The platform's settings; an invalid value is rejected when the process starts."""

    model_config = SettingsConfigDict(
        env_prefix="RETLLM_", extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    # servers, storage, logs
    home: Path = Field(
        default=Path("~/.retllm"), description="Folder of the local stack: databases, media, logs, the secret key."
    )
    database_url: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("DATABASE_URL", "RETLLM_DATABASE_URL"),
        description="URL of a PostgreSQL server with pgvector. Unset: `retllm up` starts its own in RETLLM_HOME.",
    )
    database_direct_url: str | None = Field(
        default=None,
        repr=False,
        description="URL of the PostgreSQL server itself, if DATABASE_URL is that of PgBouncer in transaction mode. "
        "Indexes are built and the schema is migrated on it.",
    )
    database_connections: int = Field(
        default=10,
        ge=2,
        le=1000,
        description="Maximum number of connections to PostgreSQL of one process (web server, dispatcher or worker), "
        "without the one on which it builds an index.",
    )
    redis_url: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("REDIS_URL", "RETLLM_REDIS_URL"),
        description="URL of a Redis-compatible server. Unset: `retllm up` starts its own in RETLLM_HOME.",
    )
    storage_url: str | None = Field(
        default=None,
        repr=False,
        description="Storage of the pictures, as an fsspec URL. Unset: the folder RETLLM_HOME/media.",
    )
    import_roots: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Folders of this machine, and prefixes of buckets such as s3://BUCKET/PREFIX/, that may be "
        "imported with all in them, separated by commas or as a JSON list. Server and workers read referenced "
        "originals only there. Unset: none may be.",
    )
    list_accounts: bool = Field(
        default=False,
        description="Let who manages a collection choose its members from a list of all accounts. Otherwise only "
        "administrators see that list, and others write the exact name of an account.",
    )
    umask: str = Field(
        default="077",
        pattern=r"^0?[0-7]{3}$",
        description="Permissions that files and folders of the platform do not have, in octal. 007 lets other accounts "
        "of the group use them: for a web server and workers of several accounts on one storage folder.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the web server listens on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port of the web server; 0 chooses a free one.")
    secret_key: str | None = Field(
        default=None,
        repr=False,
        description="Key that signs sessions and API tokens: at least 32 characters, the same on every host. Changing "
        "it invalidates all sessions and tokens. Unset: generated once and kept in RETLLM_HOME/secret_key.",
    )
    secure_cookies: bool = Field(default=False, description="Send the session cookie over HTTPS only.")
    session_days: float = Field(default=14.0, gt=0, le=365, description="Days after which an unused session expires.")
    proxies: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Reverse proxies in front of the web server whose X-Forwarded-For, -Proto and -Host are trusted.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Minimum level of log lines."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Format of the log: console (for people) or json (one object a line)."
    )
    metrics_token: str | None = Field(
        default=None,
        repr=False,
        description="Bearer token that `/metrics` requires. Unset: `/metrics` does not exist.",
    )

    # limits of uploads
    max_request_bytes: int = Field(default=4 << 30, ge=1, description="Maximum size of one upload request, in bytes.")
    max_file_bytes: int = Field(
        default=64 << 20, ge=1, description="Maximum size of one picture or caption file, in bytes."
    )
    max_film_bytes: int = Field(
        default=2 << 30, ge=1, description="Maximum size of one film, in bytes; its decoder reads it piece by piece."
    )
    max_pixels: int = Field(default=100_000_000, ge=1, description="Maximum number of pixels of one picture.")
    max_query_pixels: int = Field(
        default=50_000_000,
        ge=1,
        description="Maximum number of pixels of the picture of a query, which is decoded while its sender waits.",
    )
    decode_seconds: float = Field(
        default=30, gt=0, description="Timeout for decoding one picture, in seconds; after it the decoder is killed."
    )
    decode_memory: int = Field(
        default=3 << 30, ge=256 << 20, description="Memory limit of a process that decodes pictures, in bytes."
    )
    decoders: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Number of decoder processes of one worker or web server; 0 means one for each core, at most 16.",
    )
    decoded_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="Maximum size of the decoded pictures that an index worker, or a score worker for its next pairs, "
        "holds at a time, in bytes; a larger picture is decoded alone.",
    )
    copy_side: int = Field(
        default=1600,
        ge=256,
        le=16_384,
        description="Longer side in pixels of a working copy, which browsers and models read instead of a larger "
        "original. After a change run `retllm copies`, and index the collections again.",
    )
    model_pictures: Literal["copy", "original"] = Field(
        default="copy",
        description="What models read: the working copy of a picture, or the original. Vectors and scores of the two "
        "are never compared, so after a change the collections have to be indexed again.",
    )
    max_archive_files: int = Field(default=20_000, ge=1, description="Maximum number of files in one ZIP.")
    max_archive_bytes: int = Field(default=8 << 30, ge=1, description="Maximum unpacked size of one ZIP, in bytes.")
    max_parts: int = Field(
        default=500,
        ge=1,
        description="Maximum number of pages that are taken of one TIFF or PDF; the rest is left out.",
    )
    ocr_threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="CPU threads with which a media worker reads the text in a picture; 0 divides the cores among the "
        "media workers.",
    )
    film_frames: int = Field(default=60, ge=1, description="Maximum number of frames that are taken of one film.")
    max_text_chars: int = Field(default=20_000, ge=1, description="Maximum number of characters of a text or caption.")
    upload_idle_seconds: float = Field(
        default=900,
        gt=0,
        description="Seconds without a new file after which an open upload is closed; what arrived is indexed.",
    )
    upload_keep_days: float = Field(
        default=7, gt=0, description="Days for which rejected files of an upload are kept, so that they can be retried."
    )
    link_days: int = Field(
        default=365,
        ge=0,
        le=3650,
        description="Days after which links that open a collection or a result without an account end at the latest, "
        "counted from their creation; older ones end at once when this is lowered. 0 turns all links off.",
    )
    trash_days: float = Field(
        default=30,
        ge=0,
        le=36_500,
        description="Days for which deleted items and collections stay in the trash, from which they can be restored. "
        "0 deletes them for good at once. A change concerns later deletions.",
    )
    thumbnail_size: int = Field(default=320, ge=16, le=2048, description="Longer side of a thumbnail, in pixels.")

    # search
    default_k: int | None = Field(
        default=None,
        ge=1,
        description="Candidates of a search that does not set k. Unset: 20 with the presets best and multilingual, 10 "
        "otherwise.",
    )
    max_k: int = Field(default=200, ge=1, description="Maximum number of candidates of a search.")
    coarse_captions: bool = Field(
        default=False,
        description="Let the coarse stage search for the query's words in texts, captions and text in pictures too.",
    )
    query_image_weight: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Weight of the picture in a query of picture and text; the text has the rest.",
    )
    item_image_weight: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Weight of the picture in an item of picture and text; the text has the rest.",
    )
    alpha: float = Field(default=0.3, ge=0, le=1, description="Share of the visual re-injection in the armed layer.")
    trigger: Literal["entropy", "fixed", "off"] = Field(
        default="entropy",
        description="When visual tokens are re-injected: entropy, fixed (always, at RETLLM_FIXED_LAYER) or off.",
    )
    fixed_layer: int | None = Field(
        default=None,
        ge=0,
        description="Decoder layer of the trigger fixed, counted from 0; required if RETLLM_TRIGGER is fixed.",
    )
    scope: Literal["all", "suffix"] = Field(
        default="suffix",
        description="Positions that are re-injected: all, or the suffix after the last picture, which keeps prefixes.",
    )
    injection_scaling: bool = Field(
        default=True,
        description="Scale the re-injected visual tokens to the layer's size (MemVR); off: the formula of the paper.",
    )
    tau: float = Field(default=0.75, ge=0, le=1, description="Uncertainty above which the next layer is armed.")
    mode: Mode | None = Field(
        default=None,
        description="How the scorer is asked: true_false, verbalized (as in the paper) or choice. Unset: choice with "
        "the scorer of the presets best and multilingual, true_false otherwise.",
    )
    tie_decimals: int | None = Field(
        default=None,
        ge=0,
        le=12,
        description="Scores equal to this number of decimals tie. Unset: 2 for the mode verbalized, 4 for the others.",
    )
    adaptive: bool = Field(
        default=False, description="Score the candidates in waves and stop when the best one is clear."
    )
    adaptive_first: int = Field(default=4, ge=1, description="Candidates in the first wave.")
    adaptive_step: int = Field(default=4, ge=1, description="Candidates in each further wave.")
    adaptive_clear_score: float = Field(
        default=0.0, allow_inf_nan=False, description="Minimum log-odds of a clear best candidate; 0 is even odds."
    )
    adaptive_clear_gap: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="Minimum lead of a clear best candidate over the second, in log-odds.",
    )
    fusion_weight: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Log-odds that one standard deviation of similarity adds to a score; 0 disables fusion.",
    )
    score_cache_rows: int = Field(
        default=200_000,
        ge=0,
        description="Maximum number of cached scores; 0 disables the cache.",
    )

    # jobs
    index_unit_items: int = Field(default=64, ge=1, le=1024, description="Items in one unit of an index job.")
    score_unit_candidates: int = Field(default=8, ge=1, le=256, description="Candidates in one unit of a search.")
    lease_seconds: float = Field(default=60, gt=0, description="Duration of a lease, in seconds.")
    max_attempts: int = Field(default=4, ge=1, description="Failed attempts after which a unit is dead.")
    stop_seconds: float = Field(
        default=4,
        ge=0,
        description="Seconds that a stopping worker has to finish or return its unit; wait longer before killing it.",
    )
    backoff_seconds: float = Field(
        default=2, ge=0, description="Seconds before the first retry of a unit; doubles with each further one."
    )
    dispatch_seconds: float = Field(default=1, gt=0, description="Seconds between two rounds of the dispatcher.")
    republish_seconds: float = Field(
        default=5, gt=0, description="Seconds after which workers are notified again of an unclaimed unit."
    )
    queue_depth: int = Field(default=200, ge=1, description="Maximum number of hints in a queue.")

    # processes of `retllm up`
    web_threads: int = Field(default=8, ge=1, description="Requests that the web server handles at a time.")
    client_seconds: float = Field(
        default=20,
        gt=0,
        description="Seconds that a client may take for the header of a request, and for each 16 KiB of a request or "
        "response body; slower connections are closed.",
    )
    media_workers: int = Field(
        default=1, ge=0, description="Worker processes for the queue `media`, which decode uploaded files."
    )
    embed_workers: int = Field(default=1, ge=0, description="Worker processes for the queue `embed`; one per GPU.")
    score_workers: int = Field(default=1, ge=0, description="Worker processes for the queue `score`; one per GPU.")

    _listed_roots = field_validator("import_roots", mode="before")(listed)
    _checked_roots = field_validator("import_roots")(checked)

    @model_validator(mode="after")
    def _fixed_has_layer(self) -> Self:
        if self.trigger == "fixed" and self.fixed_layer is None:
            raise ValueError("RETLLM_TRIGGER is fixed: set RETLLM_FIXED_LAYER to the layer, counted from 0")
        return self

    @model_validator(mode="after")
    def _remote_scorer_fits(self) -> Self:
        address = self.remote_scorer
        if address is None:
            return self
        if "trigger" in self.model_fields_set and self.trigger != "off":
            raise ValueError("a scorer on a server can't re-inject visual tokens: unset RETLLM_TRIGGER")
        if self.scorer_revision is not None:
            raise ValueError("a scorer on a server has the revision that it says: unset RETLLM_SCORER_REVISION")
        if address.protocol == "rerank" and self.profile is not None:
            raise ValueError("a reranker on a server has its own question: unset RETLLM_PROFILE")
        if address.protocol == "rerank" and self.default_mode != "true_false":
            raise ValueError(f"a reranker on a server has no mode {self.default_mode}: unset RETLLM_MODE")
        if not is_key(self.scorer_key):
            raise ValueError("RETLLM_SCORER_KEY has characters that no key can have, such as a line break")
        return self

    @model_validator(mode="after")
    def _redact_secrets(self) -> Self:
        """Redact the secrets of these settings from now on (:mod:`retllm.redaction`)."""
        redaction.remember(self.secret_key, self.metrics_token, self.scorer_key)
        redaction.remember(*(extra.key for extra in self.extra_scorers))
        redaction.remember_addresses(self.database_url, self.database_direct_url, self.redis_url, self.storage_url)
        return self

    def serving(self, name: str | None) -> Settings:
        """Return these settings with a configured scorer, given by public name, in place of the main one.

        Its default mode is ``true_false``, which every scorer has, if it lacks the one that ``RETLLM_MODE`` sets.

        Args:
            name: that of the main scorer and None return these settings.

        Raises:
            InvalidInput: no such scorer is configured.
        """
        if name is None or name == public_name(self.scorer_name):
            return self
        extra = next((one for one in self.extra_scorers if one.name == name), None)
        if extra is None:
            known = ", ".join(self.scorer_names)
            raise InvalidInput(f"The scorer {name} is not configured. The scorers are {known}.", field="scorer")
        served = self.model_copy(
            update={
                "scorer": extra.scorer,
                "scorer_revision": extra.revision,
                "profile": extra.profile,
                "scorer_key": extra.key,
            }
        )
        address = served.remote_scorer
        reranks = address is not None and address.protocol == "rerank"
        modes = load_profile(extra.profile).modes if extra.profile is not None else None
        lacks = reranks or (modes is not None and served.default_mode not in modes)
        return served.model_copy(update={"mode": None}) if lacks else served

    @property
    def picture_source(self) -> str:
        """What models read of a picture, as a part of the versions of vectors and scores: original, or copy:SIDE."""
        return "original" if self.model_pictures == "original" else f"copy:{self.copy_side}"

    @property
    def default_mode(self) -> Mode:
        """How the scorer of a search that does not set it is asked; a preset's way is that of its own scorer."""
        return self.mode or (PRESETS[self.preset].mode if self.scorer is None else "true_false")

    @property
    def k(self) -> int:
        """The number of candidates of a search that does not set it."""
        return min(self.default_k or PRESETS[self.preset].k, self.max_k)

    @property
    def decoders_at_once(self) -> int:
        """The number of decoder processes of one worker or web server."""
        return self.decoders or min(16, os.cpu_count() or 1)

    @property
    def home_path(self) -> Path:
        """RETLLM_HOME as an absolute path."""
        return self.home.expanduser().resolve()

    @property
    def direct_url(self) -> str | None:
        """The URL of the server behind the pooler; None if DATABASE_URL is that of the server."""
        return self.database_direct_url if self.database_url else None

    @property
    def default_trigger(self) -> Literal["entropy", "fixed", "off"]:
        """The trigger of a search that does not set it; a scorer on a server has none."""
        return self.trigger if self.remote_scorer is None else "off"

    @property
    def media_url(self) -> str:
        """The fsspec URL of the configured storage."""
        return self.storage_url or f"file://{self.home_path / 'media'}"

    @property
    def media_folder(self) -> Path | None:
        """The folder of the storage; None if it is none."""
        url = self.media_url
        return Path(url.removeprefix("file://")) if url.startswith("file://") or "://" not in url else None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read once from the environment."""
    return Settings()


def default_of(name: str) -> Any:
    """Return the default of a setting, for code that also works without settings."""
    return Settings.model_fields[name].default


def settings_table() -> str:
    """Return the table of settings for the documentation, in Markdown."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"RETLLM_{name.upper()}"
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append(f"| `{variable}` | {default} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    import sys

    sys.stdout.write(settings_table() + "\n")
