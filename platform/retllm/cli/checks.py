"""The checks of `retllm doctor`: each looks at one thing and says in a sentence what it found and what to do."""

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

from retllm.cli.check_exposure import look_at_cookies, look_at_secret_key
from retllm.cli.check_work import look_at_work
from retllm.cli.check_workers import look_at_workers
from retllm.errors import RetllmError
from retllm.redaction import redact
from retllm.settings import PRESETS, Settings
from retllm.stack import postgres, redis
from retllm.stack.leftovers import StackRecord, running_stack
from retllm.stack.network import choose_port

if TYPE_CHECKING:
    from retllm.fine import ModelSource

State = Literal["ok", "warning", "failed"]

_GB = 1 << 30
_MIN_DISK = 1 * _GB
_GOOD_DISK = 10 * _GB
_SECONDS = 5.0
# where the commit is not known here
_COMMIT = "COMMIT"
# the errors of the stack say what is wrong, then what to do
_ADVICE = re.compile(r"(?:: |; )(?=(?:set|start|install|run|use|move|it looks) )")


@dataclass(frozen=True)
class Check:
    """What one check found; `advice` is empty when there is nothing to do."""

    name: str
    state: State
    message: str
    advice: str = ""

    def __post_init__(self) -> None:
        # it quotes addresses, and what servers and libraries say of them
        object.__setattr__(self, "message", redact(self.message))

    def as_json(self) -> dict[str, str]:
        """The check as plain values."""
        return asdict(self)


def failed(name: str, error: RetllmError) -> Check:
    """A failed check from the error that says why."""
    what, *rest = _ADVICE.split(error.message, maxsplit=1)
    advice = rest[0][:1].upper() + rest[0][1:] if rest else ""
    return Check(name, "failed", what if what.endswith(".") else f"{what}.", advice)


def run_checks(settings: Settings) -> list[Check]:
    """Every check, in the order in which their failures should be mended."""
    running = running_stack(settings.home_path)
    looks: list[tuple[str, Callable[[], Check]]] = [
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
    return [_guarded(name, look) for name, look in looks] + check_work(settings, running)


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """The result of `look`; an error of the platform is a failed check, not the end of the others."""
    try:
        return look()
    except RetllmError as error:
        return failed(name, error)


def check_python() -> Check:
    """The interpreter in use; one that is too old could not have come here."""
    return Check("python", "ok", f"Python {platform.python_version()} at {sys.executable}.")


def check_postgres(settings: Settings, running: StackRecord | None) -> Check:
    """The database server answers and has pgvector, or the embedded one can be run here."""
    if settings.database_url:
        url = postgres.normalise_url(settings.database_url)
        return Check("postgres", "ok", f"{postgres.check(url)} at {postgres.shown(url)} (DATABASE_URL).")
    if running is not None and running.database_url:
        return Check("postgres", "ok", f"{postgres.check(running.database_url)}, run by `retllm up` now.")
    server = postgres.EmbeddedPostgres(settings.home_path)
    server.check_version()
    version = _ask(str(postgres.find_programs() / "postgres"), "--version")
    if version is None:
        return Check(
            "postgres",
            "failed",
            "The embedded PostgreSQL does not run on this system.",
            "Set DATABASE_URL to a PostgreSQL server with pgvector 0.8 or newer.",
        )
    return Check("postgres", "ok", f"{version} with pgvector {postgres.shipped_pgvector()}, which `retllm up` starts.")


def check_redis(settings: Settings, running: StackRecord | None) -> Check:
    """The Redis server answers, or the embedded one can be run here."""
    if settings.redis_url:
        name = redis.check(settings.redis_url)
        return Check("redis", "ok", f"{name} at {redis.shown(settings.redis_url)} (REDIS_URL).")
    if running is not None and running.redis_url:
        return Check("redis", "ok", f"{redis.check(running.redis_url)}, run by `retllm up` now.")
    version = _ask(str(redis.find_program()), "--version")
    if version is None:
        return Check(
            "redis",
            "failed",
            "The embedded Redis-compatible server does not run on this system.",
            "Set REDIS_URL to a Redis or Valkey server.",
        )
    return Check("redis", "ok", f"{version.split(' sha=')[0]}, which `retllm up` starts.")


def _ask(*argv: str) -> str | None:
    """What a program says about its version, or None when it can't be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def check_storage(settings: Settings) -> Check:
    """A file can be written to the storage of pictures and removed again."""
    url = settings.media_url
    local = url.removeprefix("file://") if url.startswith("file://") or "://" not in url else None
    try:
        if local is not None:
            with tempfile.TemporaryFile(dir=nearest(Path(local))):
                pass
        else:
            _write_remote(url)
    except Exception as error:  # noqa: BLE001, RUF100 - each kind of storage has errors of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return Check(
            "storage",
            "failed",
            f"Nothing can be written to {url} ({reason}).",
            "Set RETLLM_HOME or RETLLM_STORAGE_URL to a place that can be written.",
        )
    return Check("storage", "ok", f"Pictures can be written to {url}.")


def _write_remote(url: str) -> None:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    probe = f"{path.rstrip('/')}/.retllm-doctor-{uuid.uuid4().hex}"
    filesystem.pipe_file(probe, b"probe")
    filesystem.rm_file(probe)


def nearest(path: Path) -> Path:
    """`path`, or the closest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_disk(settings: Settings) -> Check:
    """The disk of RETLLM_HOME has room."""
    free = shutil.disk_usage(nearest(settings.home_path)).free
    text = f"{free / _GB:.1f} GB are free for {settings.home_path}"
    if free < _MIN_DISK:
        return Check("disk", "failed", f"{text}.", "Make room, or set RETLLM_HOME to a folder on another disk.")
    if free < _GOOD_DISK:
        return Check("disk", "warning", f"{text}.", "That is little for collections of pictures.")
    return Check("disk", "ok", f"{text}.")


def check_port(settings: Settings, running: StackRecord | None) -> Check:
    """The web server's port is free, or it is this home's own stack that uses it."""
    if running is not None and running.url:
        return Check("port", "ok", f"`retllm up` runs now, at {running.url}.")
    port = choose_port(settings.host, settings.port)
    return Check("port", "ok", f"Port {port} on {settings.host} is free.")


def check_secret_key(settings: Settings) -> Check:
    """The secret key can't be guessed, and is the same wherever it must be."""
    message, advice = look_at_secret_key(settings)
    return Check("secret key", "warning" if advice else "ok", message, advice)


def check_cookies(settings: Settings) -> Check:
    """Cookies and passwords do not go over the network in the clear."""
    message, advice = look_at_cookies(settings)
    return Check("cookies", "warning" if advice else "ok", message, advice)


def check_gpu(settings: Settings) -> Check:
    """There is a GPU where the settings or the models want one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("gpu", "failed", f"PyTorch can't be loaded ({error}).", "Install the project again.")
    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(index)} ({torch.cuda.get_device_properties(index).total_memory / _GB:.0f} GB)"
            for index in range(torch.cuda.device_count())
        ]
        return Check("gpu", "ok", f"{', '.join(names)}, PyTorch {torch.__version__}.")
    text = f"No GPU that PyTorch {torch.__version__} can use; the models run on the CPU."
    if settings.device.startswith("cuda"):
        return Check("gpu", "failed", text, f"RETLLM_DEVICE is {settings.device}: unset it, or install a CUDA driver.")
    if settings.preset == "paper":
        advice = f"The preset `paper` ({PRESETS['paper'].meaning}); use `demo` or `small` here."
        return Check("gpu", "warning", text, advice)
    return Check("gpu", "ok", text)


def check_embedder(settings: Settings) -> Check:
    """The embedder's files are here or can be fetched."""
    from retllm.embedding import can_load

    return _embedder("embedder", can_load(settings.embedder_name), "RETLLM_EMBEDDER")


def _extra_embedders(settings: Settings) -> list[tuple[str, Callable[[], Check]]]:
    """A check for each embedder beside the main one: `embedder 2` and so on, in the order of the setting."""
    extra = list(settings.embedders.values())[1:]
    return [
        (f"embedder {number}", partial(check_extra_embedder, f"embedder {number}", name))
        for number, name in enumerate(extra, start=2)
    ]


def check_extra_embedder(check: str, name: str) -> Check:
    """The files of an embedder beside the main one are here or can be fetched."""
    from retllm.embedding import can_load

    found = _embedder(check, can_load(name), "RETLLM_EXTRA_EMBEDDERS")
    if found.state != "failed":
        return found
    return replace(found, advice="Take it out of RETLLM_EXTRA_EMBEDDERS, or name a model that is here.")


def check_scorer(settings: Settings) -> Check:
    """The scorer's files are here or can be fetched."""
    from retllm.fine import can_load

    source = can_load(settings.scorer_name, settings.scorer_revision)
    found = _model("scorer", source, "RETLLM_SCORER")
    if found.state == "ok":
        told = f"{found.message} A picture takes at most {settings.picture_tokens:,} of its tokens."
        found = replace(found, message=told)
    return _pinned(found, source, settings.scorer_revision, f"RETLLM_SCORER_REVISION to {source.revision or _COMMIT}")


def _embedder(check: str, source: ModelSource, variable: str) -> Check:
    name, _, revision = source.model.partition("@")
    wanted = f"{name}@{source.revision or _COMMIT} in {variable}"
    return _pinned(_model(check, source, variable), source, revision, wanted)


def _pinned(found: Check, source: ModelSource, revision: str | None, wanted: str) -> Check:
    """The check of a model, with a warning where a hub decides what is loaded under its name."""
    from retllm.fine.sources import is_commit

    if found.state != "ok" or source.where == "folder" or is_commit(revision):
        return found
    told = f"{found.message} What is loaded may change with the hub: no commit is named."
    return Check(found.name, "warning", told, f"Set {wanted}.")


def check_workers(settings: Settings, running: StackRecord | None) -> Check:
    """Each queue has a worker that lives, and none is paused; nothing is asked of a platform that does not run."""
    url = _database(settings, running)
    if url is None:
        return Check("workers", "ok", "The platform does not run now; `retllm up` starts its workers.")
    message, advice = look_at_workers(url)
    return Check("workers", "warning" if advice else "ok", message, advice)


def check_work(settings: Settings, running: StackRecord | None) -> list[Check]:
    """A warning for each kind of work that does not go on; nothing of a platform that does not run."""
    url = _database(settings, running)
    told = look_at_work(url, settings) if url else []
    return [Check("work", "warning" if advice else "ok", message, advice) for message, advice in told]


def _database(settings: Settings, running: StackRecord | None) -> str | None:
    return settings.database_url or (running.database_url if running is not None else None)


def _model(name: str, source: ModelSource, variable: str) -> Check:
    elsewhere = f"Set {variable} to a model that is here, or RETLLM_PRESET=demo for the models that ship."
    if source.where == "nowhere":
        return Check(name, "failed", source.message, elsewhere)
    if source.where == "download":
        hub = _hub_trouble()
        if hub is not None:
            return Check(name, "failed", f"{source.model} is not on this machine and {hub}.", elsewhere)
    return Check(name, "ok", source.message)


def _hub_trouble() -> str | None:
    """Why the model hub can't be used from here, or None when it answers."""
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
