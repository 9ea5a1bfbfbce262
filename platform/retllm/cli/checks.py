"""The checks of `retllm doctor`: each examines one requirement and returns a finding and advice."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from retllm.cli.check import Check, failed
from retllm.cli.check_connections import inspect_connections
from retllm.cli.check_decoders import inspect_decoders
from retllm.cli.check_exposure import inspect_cookies, inspect_secret_key
from retllm.cli.check_models import check_embedder, check_scorer, extra_embedders, extra_scorers
from retllm.cli.check_originals import inspect_originals
from retllm.cli.check_work import inspect_work
from retllm.cli.check_workers import inspect_workers
from retllm.errors import RetllmError
from retllm.private import excess
from retllm.queue.routing import routing_of
from retllm.settings import PRESETS, Settings
from retllm.stack import postgres, redis
from retllm.stack.leftovers import StackRecord, running_stack
from retllm.stack.network import choose_port

if TYPE_CHECKING:
    pass

_GB = 1 << 30
_MIN_DISK = 1 * _GB
_GOOD_DISK = 10 * _GB
_SECONDS = 5.0


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
        ("decoders", lambda: check_decoders(settings)),
        ("gpu", lambda: check_gpu(settings)),
        ("embedder", lambda: check_embedder(settings)),
        *extra_embedders(settings),
        ("scorer", lambda: check_scorer(settings)),
        *extra_scorers(settings),
        *([("models", lambda: Check("models", "warning", notice))] if (notice := settings.notice) else []),
        ("workers", lambda: check_workers(settings, running)),
        *([("pool", lambda: check_pool(url, settings))] if (url := _database(settings, running)) else []),
        *([("originals", lambda: check_originals(url, settings))] if url else []),
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
        if settings.direct_url:
            postgres.check(settings.direct_url, "RETLLM_DATABASE_DIRECT_URL")
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
            "Set DATABASE_URL to a PostgreSQL server with pgvector 0.8.4 or newer.",
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
    folder = settings.media_folder
    try:
        if folder is not None:
            with tempfile.TemporaryFile(dir=nearest(folder)):
                pass
        else:
            _write_remote(url)
    except Exception as error:  # noqa: BLE001, RUF100 - each kind of storage raises other errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "Set RETLLM_HOME or RETLLM_STORAGE_URL to a writable place."
        if isinstance(error, ImportError):
            advice = "Install the package that this kind of storage needs; for S3, install retllm-platform[s3]."
        return Check("storage", "failed", f"The storage {url} is not writable ({reason}).", advice)
    if folder is not None and excess(folder, settings):
        return Check(
            "storage",
            "warning",
            f"The storage {url} is writable, and other accounts of this machine can read its pictures.",
            f"Start the platform, which closes the folder to them, or run `chmod go= {folder}`.",
        )
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


def check_decoders(settings: Settings) -> Check:
    """Check that a picture which takes over its decoder reaches nothing else."""
    message, advice = inspect_decoders(settings)
    return Check("decoders", "warning" if advice else "ok", message, advice)


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


def check_workers(settings: Settings, running: StackRecord | None) -> Check:
    """Check that each queue has a live worker and none is paused, if the platform is running."""
    url = _database(settings, running)
    if url is None:
        return Check("workers", "ok", "The platform is not running; `retllm up` starts its workers.")
    message, advice = inspect_workers(url, routing_of(settings))
    return Check("workers", "warning" if advice else "ok", message, advice)


def check_pool(database_url: str, settings: Settings) -> Check:
    """Check that the database server has as many connections as all processes may open."""
    message, advice = inspect_connections(database_url, settings)
    return Check("pool", "warning" if advice else "ok", message, advice)


def check_originals(database_url: str, settings: Settings) -> Check:
    """Check that the places of originals that are not stored can be read from here."""
    message, advice = inspect_originals(database_url, settings)
    return Check("originals", "warning" if advice else "ok", message, advice)


def check_work(settings: Settings, running: StackRecord | None) -> list[Check]:
    """Return a warning for each kind of stuck work; nothing if the platform is not running."""
    url = _database(settings, running)
    findings = inspect_work(url, settings) if url else []
    return [Check("work", "warning" if advice else "ok", message, advice) for message, advice in findings]


def _database(settings: Settings, running: StackRecord | None) -> str | None:
    return settings.direct_url or settings.database_url or (running.database_url if running is not None else None)
