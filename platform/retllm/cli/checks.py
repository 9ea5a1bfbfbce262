"""The checks of `retllm doctor`: each examines one requirement and returns a finding and advice."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from retllm.cli.check_exposure import inspect_cookies, inspect_secret_key
from retllm.cli.check_work import inspect_work
from retllm.cli.check_workers import inspect_workers
from retllm.errors import ModelUnavailable, RetllmError, ServerAway
from retllm.queue.routing import routing_of
from retllm.redaction import redact
from retllm.settings import PRESETS, Settings
from retllm.stack import postgres, redis
from retllm.stack.leftovers import StackRecord, running_stack
from retllm.stack.network import choose_port

if TYPE_CHECKING:
    from retllm.fine import ModelSource
    from retllm.profiles import Profile

State = Literal["ok", "warning", "failed"]

_GB = 1 << 30
_MIN_DISK = 1 * _GB
_GOOD_DISK = 10 * _GB
_SECONDS = 5.0
# placeholder if the commit is not known
_COMMIT = "COMMIT"
# splits errors of the stack into the problem and the advice
_ADVICE = re.compile(r"(?:: |; )(?=(?:set|start|install|run|use|move|it looks) )")


@dataclass(frozen=True)
class Check:
    """The result of one check; `advice` is empty if there is nothing to do."""

    name: str
    state: State
    message: str
    advice: str = ""

    def __post_init__(self) -> None:
        # it may quote URLs and messages of servers and libraries
        object.__setattr__(self, "message", redact(self.message))

    def as_json(self) -> dict[str, str]:
        """Return the check as a JSON object."""
        return asdict(self)


def failed(name: str, error: RetllmError) -> Check:
    """Return a failed check for an error."""
    problem, *rest = _ADVICE.split(error.message, maxsplit=1)
    advice = rest[0][:1].upper() + rest[0][1:] if rest else ""
    return Check(name, "failed", problem if problem.endswith(".") else f"{problem}.", advice)


def run_checks(settings: Settings) -> list[Check]:
    """Run all checks, in the order in which to fix failures."""
    running = running_stack(settings.home_path)
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", check_python),
        ("postgres", lambda: check_postgres(settings, running)),
        ("redis", lambda: check_redis(settings, running)),
        ("storage", lambda: check_storage(settings)),
        ("disk", lambda: check_disk(settings)),
        ("port", lambda: check_port(settings, running)),
        ("secret key", lambda: check_secret_key(settings)),
        ("cookies", lambda: check_cookies(settings)),
        ("gpu", lambda: check_gpu(settings)),
        ("embedder", lambda: check_embedder(settings)),
        *_extra_embedders(settings),
        ("scorer", lambda: check_scorer(settings)),
        *([("models", lambda: Check("models", "warning", notice))] if (notice := settings.notice) else []),
        ("workers", lambda: check_workers(settings, running)),
    ]
    return [_guarded(name, check) for name, check in checks] + check_work(settings, running)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; an error of the platform makes it fail."""
    try:
        return check()
    except RetllmError as error:
        return failed(name, error)


def check_python() -> Check:
    """Report the Python version; too old ones can't run this."""
    return Check("python", "ok", f"Python {platform.python_version()} at {sys.executable}.")


def check_postgres(settings: Settings, running: StackRecord | None) -> Check:
    """Check that the database server answers and has pgvector, or that the embedded one runs here."""
    if settings.database_url:
        url = postgres.normalise_url(settings.database_url)
        return Check("postgres", "ok", f"{postgres.check(url)} at {postgres.redacted(url)} (DATABASE_URL).")
    if running is not None and running.database_url:
        return Check("postgres", "ok", f"{postgres.check(running.database_url)}, started by `retllm up`.")
    server = postgres.EmbeddedPostgres(settings.home_path)
    server.check_version()
    version = _output(str(postgres.find_programs() / "postgres"), "--version")
    if version is None:
        return Check(
            "postgres",
            "failed",
            "The embedded PostgreSQL does not run on this system.",
            "Set DATABASE_URL to a PostgreSQL server with pgvector 0.8 or newer.",
        )
    return Check("postgres", "ok", f"{version} with pgvector {postgres.shipped_pgvector()}, which `retllm up` starts.")


def check_redis(settings: Settings, running: StackRecord | None) -> Check:
    """Check that the Redis server answers, or that the embedded one runs here."""
    if settings.redis_url:
        name = redis.check(settings.redis_url)
        return Check("redis", "ok", f"{name} at {redis.redacted(settings.redis_url)} (REDIS_URL).")
    if running is not None and running.redis_url:
        return Check("redis", "ok", f"{redis.check(running.redis_url)}, started by `retllm up`.")
    version = _output(str(redis.find_program()), "--version")
    if version is None:
        return Check(
            "redis",
            "failed",
            "The embedded Redis-compatible server does not run on this system.",
            "Set REDIS_URL to a Redis or Valkey server.",
        )
    return Check("redis", "ok", f"{version.split(' sha=')[0]}, which `retllm up` starts.")


def _output(*argv: str) -> str | None:
    """Return the first line that a program prints, or None if it can't be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def check_storage(settings: Settings) -> Check:
    """Check that files can be written to the storage of pictures."""
    url = settings.media_url
    local = url.removeprefix("file://") if url.startswith("file://") or "://" not in url else None
    try:
        if local is not None:
            with tempfile.TemporaryFile(dir=nearest(Path(local))):
                pass
        else:
            _write_remote(url)
    except Exception as error:  # noqa: BLE001, RUF100 - each kind of storage raises other errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "Set RETLLM_HOME or RETLLM_STORAGE_URL to a writable place."
        if isinstance(error, ImportError):
            advice = "Install the package that this kind of storage needs; for S3, install retllm-platform[s3]."
        return Check("storage", "failed", f"The storage {url} is not writable ({reason}).", advice)
    return Check("storage", "ok", f"The storage {url} is writable.")


def _write_remote(url: str) -> None:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    probe = f"{path.rstrip('/')}/.retllm-doctor-{uuid.uuid4().hex}"
    filesystem.pipe_file(probe, b"probe")
    filesystem.rm_file(probe)


def nearest(path: Path) -> Path:
    """Return `path` or its closest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_disk(settings: Settings) -> Check:
    """Check that the disk of RETLLM_HOME has free space."""
    free = shutil.disk_usage(nearest(settings.home_path)).free
    text = f"{free / _GB:.1f} GB are free for {settings.home_path}"
    if free < _MIN_DISK:
        return Check("disk", "failed", f"{text}.", "Free space, or set RETLLM_HOME to a folder on another disk.")
    if free < _GOOD_DISK:
        return Check("disk", "warning", f"{text}.", "That is little for collections of pictures.")
    return Check("disk", "ok", f"{text}.")


def check_port(settings: Settings, running: StackRecord | None) -> Check:
    """Check that the port of the web server is free or used by the stack of this home."""
    if running is not None and running.url:
        return Check("port", "ok", f"`retllm up` is running at {running.url}.")
    port = choose_port(settings.host, settings.port)
    return Check("port", "ok", f"Port {port} on {settings.host} is free.")


def check_secret_key(settings: Settings) -> Check:
    """Check that the secret key is strong, private and the same on all hosts."""
    message, advice = inspect_secret_key(settings)
    return Check("secret key", "warning" if advice else "ok", message, advice)


def check_cookies(settings: Settings) -> Check:
    """Check that cookies and passwords are not sent over the network unencrypted."""
    message, advice = inspect_cookies(settings)
    return Check("cookies", "warning" if advice else "ok", message, advice)


def check_gpu(settings: Settings) -> Check:
    """Check that there is a GPU if the settings or the models need one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("gpu", "failed", f"PyTorch can't be loaded ({error}).", "Reinstall the project.")
    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(index)} ({torch.cuda.get_device_properties(index).total_memory / _GB:.0f} GB)"
            for index in range(torch.cuda.device_count())
        ]
        return Check("gpu", "ok", f"{', '.join(names)}, PyTorch {torch.__version__}.")
    text = f"PyTorch {torch.__version__} finds no usable GPU; the models run on the CPU."
    if settings.device.startswith("cuda"):
        return Check("gpu", "failed", text, f"RETLLM_DEVICE is {settings.device}: unset it, or install a CUDA driver.")
    if (preset := PRESETS[settings.preset]).needs_gpu:
        advice = f"The preset `{settings.preset}` is {preset.meaning}. Use `demo` or `small` here."
        return Check("gpu", "warning", text, advice)
    return Check("gpu", "ok", text)


def check_embedder(settings: Settings) -> Check:
    """Check that the files of the embedder are present or downloadable."""
    from retllm.embedding import can_load

    return _embedder("embedder", can_load(settings.embedder_name), "RETLLM_EMBEDDER")


def _extra_embedders(settings: Settings) -> list[tuple[str, Callable[[], Check]]]:
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
    return replace(found, advice="Remove it from RETLLM_EXTRA_EMBEDDERS, or name a model that is available.")


def check_scorer(settings: Settings) -> Check:
    """Check that the files of the scorer are present or downloadable, or that its server answers."""
    if settings.remote_scorer is not None:
        return _check_remote(settings, settings.remote_scorer.api)
    from retllm.fine import can_load
    from retllm.fine.opening import configured_profile
    from retllm.fine.sources import decoder_layers

    source = can_load(settings.scorer_name, settings.scorer_revision)
    found = _model("scorer", source, "RETLLM_SCORER")
    profile = configured_profile(settings)
    if found.state == "ok":
        most = min(settings.picture_tokens, (profile and profile.picture_tokens) or settings.picture_tokens)
        limit = f"A picture has at most {most:,} visual tokens."
        found = replace(found, message=f"{found.message} {limit} {_caches(settings)}")
    if profile is not None:
        found = replace(found, message=f"{found.message} {_about(profile)}")
        if settings.default_mode not in profile.modes:
            return Check("scorer", "failed", found.message, f"Set RETLLM_MODE to {' or '.join(profile.modes)}.")
    layers = decoder_layers(settings.scorer_name, settings.scorer_revision)
    if settings.trigger == "fixed" and layers is not None and (settings.fixed_layer or 0) >= layers:
        return Check(
            "scorer",
            "failed",
            f"RETLLM_FIXED_LAYER is {settings.fixed_layer}, but the layers of {source.model} are 0 to {layers - 1}.",
            "Set RETLLM_FIXED_LAYER to one of them.",
        )
    return _pinned(found, source, settings.scorer_revision, f"RETLLM_SCORER_REVISION to {source.revision or _COMMIT}")


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
    """Ask the scorer about known pairs; a warning for each way in which its scores are of no use."""
    from retllm.cli.check_answers import inspect_answers
    from retllm.fine.opening import open_scorer

    try:
        return [Check("answers", *found) for found in inspect_answers(open_scorer(settings), settings.default_mode)]
    except RetllmError as error:
        return [failed("answers", error)]


def _check_remote(settings: Settings, url: str) -> Check:
    from retllm.cli.check_remote import inspect_remote_scorer

    try:
        return Check("scorer", *inspect_remote_scorer(settings))
    except RetllmError as error:
        found = failed("scorer", error)
        advice = "Start the server, or correct RETLLM_SCORER." if isinstance(error, ServerAway) else found.advice
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


def check_workers(settings: Settings, running: StackRecord | None) -> Check:
    """Check that each queue has a live worker and none is paused, if the platform is running."""
    url = _database(settings, running)
    if url is None:
        return Check("workers", "ok", "The platform is not running; `retllm up` starts its workers.")
    message, advice = inspect_workers(url, routing_of(settings))
    return Check("workers", "warning" if advice else "ok", message, advice)


def check_work(settings: Settings, running: StackRecord | None) -> list[Check]:
    """Return a warning for each kind of stuck work; nothing if the platform is not running."""
    url = _database(settings, running)
    findings = inspect_work(url, settings) if url else []
    return [Check("work", "warning" if advice else "ok", message, advice) for message, advice in findings]


def _database(settings: Settings, running: StackRecord | None) -> str | None:
    return settings.database_url or (running.database_url if running is not None else None)


def _model(name: str, source: ModelSource, variable: str) -> Check:
    advice = f"Set {variable} to a model that is available, or RETLLM_PRESET=demo for the models that ship with retllm."
    if source.where == "nowhere":
        return Check(name, "failed", source.message, advice)
    if source.where == "download":
        hub = _hub_problem()
        if hub is not None:
            return Check(name, "failed", f"{source.model} is not on this machine and {hub}.", advice)
    return Check(name, "ok", source.message)


def _hub_problem() -> str | None:
    """Return why the model hub can't be used, or None if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        httpx.head(constants.ENDPOINT, timeout=_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        return f"the hub at {constants.ENDPOINT} can't be reached ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> Any:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
