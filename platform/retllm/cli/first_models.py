"""The models of a first start that names none: real ones, if they can be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from retllm.presets import PRESETS
from retllm.settings import Settings

_REAL = "small"
_STEP_BYTES = 100_000_000
_MODELS = {"preset", "embedder", "scorer"}


def first_models(settings: Settings) -> tuple[Settings, str | None]:
    """Choose the models of a platform that has none yet.

    They are those of the preset ``small`` if their weights are on this machine or a model hub answers, which takes
    seconds at most.

    Returns:
        The settings, with a preset if one was chosen, and a sentence on the choice; None if there was none to make:
        models are configured, or data that another pair of models has embedded may be there.
    """
    if _MODELS & settings.model_fields_set or settings.database_url or (settings.home_path / "postgres").exists():
        return settings, None
    from retllm.embedding.sources import can_load as can_embed
    from retllm.fine.sources import can_load, hub_problem

    real = PRESETS[_REAL]
    chosen = settings.model_copy(update={"preset": _REAL})
    if can_embed(real.embedder).here and can_load(real.scorer).here:
        return chosen, f"The models are those of the preset `{_REAL}`, which are on this machine."
    problem = hub_problem()
    if problem is None:
        return chosen, (
            f"The models of the preset `{_REAL}` are downloaded, about {real.download_gb:g} GB. To go on without them, "
            "press Ctrl-C and start with --preset demo: two small models, which know drawn scenes only."
        )
    return settings.model_copy(update={"preset": "demo"}), (
        f"The models are those of the demo: the weights of the preset `{_REAL}` are not on this machine, and {problem}."
    )


class Download:
    """Tells how much of a preset's models has come from a model hub.

    Args:
        preset: a name.
        tell: is given a sentence for each further 100 MB.
    """

    def __init__(self, preset: str, tell: Callable[[str], None]) -> None:
        self._total = PRESETS[preset].download_gb
        self._tell = tell
        self._before = self._told = _cached_bytes()

    def look(self) -> None:
        """Look at what is in the hub's cache on this machine by now."""
        now = _cached_bytes()
        if now - self._told >= _STEP_BYTES:
            self._told = now
            whole = f" of about {self._total:g} GB" if self._total else " GB"
            self._tell(f"Downloaded {(now - self._before) / 1e9:.1f}{whole} of models")


def _cached_bytes() -> int:
    """Return the size of what the cache holds, also of files that are not complete."""
    from huggingface_hub import constants

    return sum(_sizes(Path(constants.HF_HUB_CACHE)))


def _sizes(cache: Path) -> Iterator[int]:
    for file in cache.glob("models--*/blobs/*"):
        with suppress(OSError):
            yield file.stat().st_size
