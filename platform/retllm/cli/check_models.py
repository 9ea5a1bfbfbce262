"""The checks of `retllm doctor` for embedders and scorers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from retllm.cli.check import Check, failed
from retllm.errors import ModelUnavailable, RetllmError, ServerAway, ServerBusy
from retllm.settings import Settings, public_name

if TYPE_CHECKING:
    from retllm.fine import ModelSource
    from retllm.profiles import Profile

# placeholder if the commit is not known
_COMMIT = "COMMIT"
_EXTRA = "Remove it from {}, or name a model that is available."


def check_embedder(settings: Settings) -> Check:
    """Check that the files of the embedder are present or downloadable."""
    from retllm.embedding import can_load

    return _embedder("embedder", can_load(settings.embedder_name), "RETLLM_EMBEDDER")


def extra_embedders(settings: Settings) -> list[tuple[str, Callable[[], Check]]]:
    """Return a check for each extra embedder, named `embedder 2` and so on in the order of the setting."""
    extra = list(settings.embedders.values())[1:]
    return [
        (f"embedder {number}", partial(check_extra_embedder, f"embedder {number}", name))
        for number, name in enumerate(extra, start=2)
    ]


def check_extra_embedder(check: str, name: str) -> Check:
    """Check that the files of an extra embedder are present or downloadable."""
    from retllm.embedding import can_load

    found = _embedder(check, can_load(name), "RETLLM_EXTRA_EMBEDDERS")
    if found.state != "failed":
        return found
    return replace(found, advice=_EXTRA.format("RETLLM_EXTRA_EMBEDDERS"))


def extra_scorers(settings: Settings) -> list[tuple[str, Callable[[], Check]]]:
    """Return a check for each extra scorer, named `scorer 2` and so on in the order of the setting."""
    return [
        (check, partial(check_extra_scorer, check, served))
        for check, served in list(_scorers(settings, "scorer").items())[1:]
    ]


def check_extra_scorer(check: str, served: Settings) -> Check:
    """Check an extra scorer, given the settings with it in place of the main one."""
    found = check_scorer(served, check, "RETLLM_EXTRA_SCORERS")
    return replace(found, message=f"{found.message} Searches name it {public_name(served.scorer_name)}.")


def _scorers(settings: Settings, check: str) -> dict[str, Settings]:
    """Return the settings of each scorer by the name of its check."""
    from retllm.fine.opening import served_settings

    names = enumerate(settings.scorer_names, 1)
    return {check if number == 1 else f"{check} {number}": served_settings(settings, name) for number, name in names}


def check_scorer(settings: Settings, check: str = "scorer", variable: str = "RETLLM_SCORER") -> Check:
    """Check that the files of the scorer are present or downloadable, or that its server answers."""
    if settings.remote_scorer is not None:
        return _check_remote(settings, settings.remote_scorer.api, check, variable)
    from retllm.fine import can_load
    from retllm.fine.opening import configured_profile
    from retllm.fine.prompts import picture_budget
    from retllm.fine.questions import check_questions
    from retllm.fine.sources import decoder_layers

    source = can_load(settings.scorer_name, settings.scorer_revision)
    found = _model(check, source, variable)
    if found.state == "failed" and check != "scorer":
        found = replace(found, advice=_EXTRA.format(variable))
    profile = configured_profile(settings)
    if found.state == "ok":
        most = picture_budget(settings.picture_tokens, profile.picture_tokens if profile else None)
        fewest = ", or as few as the model makes" if settings.picture_tokens is None else ""
        limit = f"A picture has at most {most:,} visual tokens{fewest}."
        found = replace(found, message=f"{found.message} {limit} {_caches(settings)}")
    if profile is not None:
        found = replace(found, message=f"{found.message} {_about(profile)}")
        if settings.default_mode not in profile.modes:
            return Check(check, "failed", found.message, f"Set RETLLM_MODE to {' or '.join(profile.modes)}.")
        if found.state == "ok" and settings.profile is not None:
            try:
                check_questions(source, profile)
            except RetllmError as error:
                wrong = failed(check, error)
                return replace(wrong, message=f"{found.message} {wrong.message}")
    layers = decoder_layers(settings.scorer_name, settings.scorer_revision)
    if settings.trigger == "fixed" and layers is not None and (settings.fixed_layer or 0) >= layers:
        return Check(
            check,
            "failed",
            f"RETLLM_FIXED_LAYER is {settings.fixed_layer}, but the layers of {source.model} are 0 to {layers - 1}.",
            "Set RETLLM_FIXED_LAYER to one of them.",
        )
    pinned = "RETLLM_SCORER_REVISION" if check == "scorer" else f"its revision in {variable}"
    return _pinned(found, source, settings.scorer_revision, f"{pinned} to {source.revision or _COMMIT}")


def _caches(settings: Settings) -> str:
    from retllm.fine.device import pick_device
    from retllm.fine.memory import describe_caches

    try:
        device = pick_device(settings.device)
    except ModelUnavailable as error:
        # the check of the GPU says what to do
        return error.message
    return describe_caches(device, settings.token_budget, settings.prefix_cache_bytes)


def check_answers(settings: Settings) -> list[Check]:
    """Ask each scorer about known pairs; a warning for each way in which its scores are of no use."""
    return [
        found for check, served in _scorers(settings, "answers").items() for found in _answers_of_one(served, check)
    ]


def _answers_of_one(settings: Settings, check: str) -> list[Check]:
    from retllm.cli.check_answers import inspect_answers
    from retllm.fine.opening import open_scorer

    try:
        return [Check(check, *found) for found in inspect_answers(open_scorer(settings), settings.default_mode)]
    except RetllmError as error:
        return [failed(check, error)]


def _check_remote(settings: Settings, url: str, check: str, variable: str) -> Check:
    from retllm.cli.check_remote import inspect_remote_scorer

    try:
        return Check(check, *inspect_remote_scorer(settings))
    except RetllmError as error:
        found = failed(check, error)
        advice = found.advice
        if isinstance(error, ServerBusy):
            advice = (
                "Lower RETLLM_SCORER_REQUESTS, or raise the limit of the server. Searches wait until it takes them."
            )
        elif isinstance(error, ServerAway):
            advice = f"{error.remedy or 'Start the server, or correct its address'} ({variable})."
        return replace(found, message=f"{found.message} Its address is {url}.", advice=advice)


def _about(profile: Profile) -> str:
    modes = "" if len(profile.modes) > 1 else f" and has the mode {profile.modes[0]} only"
    hint = "" if profile.k is None else f" It is made for {profile.k} candidates (k)."
    return f"Its profile is {profile.name}{modes}.{hint}"


def _embedder(check: str, source: ModelSource, variable: str) -> Check:
    name, _, revision = source.model.partition("@")
    assignment = f"{name}@{source.revision or _COMMIT} in {variable}"
    return _pinned(_model(check, source, variable), source, revision, assignment)


def _pinned(found: Check, source: ModelSource, revision: str | None, assignment: str) -> Check:
    """Turn the check of a model into a warning if its name does not pin a commit of the hub."""
    from retllm.fine.sources import is_commit

    if found.state != "ok" or source.where == "folder" or is_commit(revision):
        return found
    message = f"{found.message} It may change on the hub, because no commit is set."
    return Check(found.name, "warning", message, f"Set {assignment}.")


def _model(name: str, source: ModelSource, variable: str) -> Check:
    advice = f"Set {variable} to a model that is available, or RETLLM_PRESET=demo for the models that ship with retllm."
    if source.where == "nowhere":
        return Check(name, "failed", source.message, advice)
    if source.where == "download":
        from retllm.fine import sources

        hub = sources.hub_problem()
        if hub is not None:
            return Check(name, "failed", f"{source.model} is not on this machine and {hub}.", advice)
    return Check(name, "ok", source.message)
