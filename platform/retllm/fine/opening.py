"""Open the scorer that the settings name: a model in this process, or one on a server."""

from __future__ import annotations

from retllm.fine.interface import FineScorer
from retllm.fine.sources import profile_of
from retllm.profiles import Profile, choose_profile, names_of
from retllm.settings import Settings


def configured_profile(settings: Settings) -> Profile | None:
    """Return the profile of the configured scorer without loading it; None if it is not known on this machine."""
    address = settings.remote_scorer
    if address is None:
        return profile_of(settings.scorer_name, settings.scorer_revision, settings.profile)
    if address.protocol == "rerank":
        return None
    return choose_profile(settings.profile, None, names_of(address.model))


def served_settings(settings: Settings, name: str | None) -> Settings:
    """Return the settings with the scorer of that public name (:meth:`Settings.serving`).

    The default mode of a scorer beside the main one is one that its profile has, if that is known on this machine.

    Raises:
        InvalidInput: no such scorer is configured.
    """
    served = settings.serving(name)
    if served is settings or served.default_mode == "true_false":
        return served
    profile = configured_profile(served)
    lacks = profile is not None and served.default_mode not in profile.modes
    return served.model_copy(update={"mode": None}) if lacks else served


def open_scorer(settings: Settings) -> FineScorer:
    """Load the configured model, or find out what the configured server serves.

    Raises:
        ModelUnavailable, ModelUnsuited: it can't be used; the message says what to do.
        ServerAway: its server does not answer.
    """
    address = settings.remote_scorer
    if address is None:
        # imports torch and transformers
        from retllm.fine.scorer import load_scorer

        return load_scorer(
            settings.scorer_name,
            revision=settings.scorer_revision,
            device=settings.device,
            dtype=settings.dtype,
            token_budget=settings.token_budget,
            picture_tokens=settings.picture_tokens,
            prefix_bytes=settings.prefix_cache_bytes,
            visual_bytes=settings.visual_cache_bytes,
            picture_source=settings.picture_source,
            profile=settings.profile,
        )
    from retllm.fine.remote.chat import ChatScorer
    from retllm.fine.remote.client import Client
    from retllm.fine.remote.rerank import RerankScorer

    client = Client(address, settings.scorer_key, settings.scorer_requests, settings.scorer_seconds)
    kind = ChatScorer if address.protocol == "openai" else RerankScorer
    requests, source = settings.scorer_requests, settings.picture_source
    scorer = kind(address, client, settings.picture_tokens, requests, source, settings.profile)
    scorer.refresh()
    return scorer
