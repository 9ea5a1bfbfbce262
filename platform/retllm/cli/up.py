"""``retllm up``: the whole platform on this machine until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from retllm.cli.first_models import Download, first_models
from retllm.errors import StackError
from retllm.identity.secret_key import secret_key
from retllm.kept_preset import keep_preset
from retllm.operations.log_sender import send_lines
from retllm.private import keep_private
from retllm.settings import PRESETS, Settings
from retllm.stack.local import LocalStack

if TYPE_CHECKING:
    from retllm.cli.awaited_models import ModelWatch


@dataclass(frozen=True)
class Admin:
    """The first administrator; `password` is known only if this start created the account."""

    name: str
    password: str | None


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the web server; 0 chooses a free one.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder for data and logs.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="The pair of models.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to which URL and process ids are written as JSON when everything is ready.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def up(port: int | None, home: Path | None, preset: str | None, ready_file: Path | None, as_json: bool) -> None:
    """Start the platform on this machine: database, Redis, web server, dispatcher and workers.

    Data and logs are in RETLLM_HOME and stay there. If DATABASE_URL or REDIS_URL is set, that server is used and none
    is started. Ctrl-C stops everything.

    Without --preset the models are those of the last start. The first one takes the preset small if its weights are on
    this machine or a model hub answers, and demo otherwise.
    """
    run_stack({"port": port, "home": home, "preset": preset}, as_json=as_json, ready_file=ready_file, choose=True)


def run_stack(
    options: Mapping[str, Any],
    *,
    as_json: bool,
    ready_file: Path | None = None,
    after_start: Callable[[LocalStack], None] = lambda _: None,
    stay: bool = True,
    choose: bool = False,
) -> None:
    """Start the stack, call `after_start`, and stop the stack: at once, or (`stay`) on a signal.

    `options` are settings that override the environment, except those that are None. With `choose`, a first start may
    take real models (:mod:`retllm.cli.first_models`).

    Raises:
        StackError: a part can't be started, or crashes repeatedly.
    """
    settings = Settings(**{name: value for name, value in options.items() if value is not None})
    keep_private(settings)
    output = _Output(as_json)
    settings, why = first_models(settings) if choose else (settings, None)
    stack = LocalStack(settings, notify=output.step)
    signals = _Signals(stack)
    watch: ModelWatch | None = None
    try:
        with signals:
            output.begin(settings)
            if why is not None:
                output.step(why)
            if settings.secret_key is not None:
                # reports a weak key here; otherwise the web server would crash repeatedly
                secret_key(settings)
            # creates the folder of the key with permissions for its owner only
            stack.start()
            send_lines(stack.redis_url, "up")
            keep_preset(stack.home, settings.preset)
            admin = prepare_client(stack)
            output.ready(stack, admin)
            if ready_file is not None:
                _write_ready(ready_file, stack)
            watch = _watch_models(stack, output)
            with signals.raised():
                after_start(stack)
            if stay:
                stack.ended.wait()
            output.stopping(signals.received)
            stack.stop()
    except (StackError, KeyboardInterrupt):
        if not signals.received:
            raise
        output.stopping(signals.received)
    finally:
        if watch is not None:
            watch.stop()
        stack.stop()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    if stack.failure is not None:
        raise stack.failure
    output.stopped()


def prepare_client(stack: LocalStack) -> Admin:
    """Create the first administrator if there is none, and write the client file of the command line."""
    from retllm.db.session import make_sessions, transaction
    from retllm.identity.accounts import ensure_admin
    from retllm.identity.tokens import token_key
    from retllm.stack.client_file import write_client

    sessions = make_sessions(stack.settings.direct_url or stack.database_url)
    try:
        with transaction(sessions) as session:
            user, password = ensure_admin(session)
            write_client(session, stack.home, token_key(stack.settings), user, stack.url)
            return Admin(user.name, password)
    finally:
        sessions.kw["bind"].dispose()


def _watch_models(stack: LocalStack, output: _Output) -> ModelWatch:
    from retllm.cli.awaited_models import ModelWatch

    watch = ModelWatch(stack, output.missing, Download(stack.settings.preset, output.step).look)
    watch.start()
    return watch


def _write_ready(path: Path, stack: LocalStack) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps({"url": stack.url, "pid": os.getpid(), "processes": stack.processes}), "utf-8")
    temporary.replace(path)


class _Signals:
    """Stops the stack gracefully on the first SIGINT, SIGTERM or SIGHUP, and quickly on the second."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._before: dict[int, Any] = {}
        self.received: list[int] = []
        self._raised = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """In this context a signal also raises KeyboardInterrupt."""
        self._raised = True
        try:
            yield
        finally:
            self._raised = False

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            self._stack.interrupt()
        else:
            self._stack.hurry()
        if self._raised:
            raise KeyboardInterrupt


class _Output:
    """The output of `retllm up`: sentences for people, or one JSON object a line for programs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._echo: Callable[..., None] = click.echo

    def _print(self, sentence: str, event: str, **fields: Any) -> None:
        self._echo(json.dumps({"event": event, **fields}) if self._as_json else sentence)
        sys.stdout.flush()

    def begin(self, settings: Settings) -> None:
        self._print(
            f"Starting in {settings.home_path} with the models of `{settings.preset}` ...",
            "starting",
            home=str(settings.home_path),
            preset=settings.preset,
        )

    def step(self, text: str) -> None:
        self._print(f"  {text}", "step", text=text)

    def ready(self, stack: LocalStack, admin: Admin) -> None:
        notice = stack.settings.notice
        lines = [f"Ready: {stack.url}", *([notice] if notice else [])]
        if admin.password is not None:
            lines.append(f"Log in as {admin.name} with the password {admin.password} (it is shown only once).")
        lines += [f"Logs: {stack.logs}", "Ctrl-C stops everything; the data stays."]
        self._print(
            "\n".join(lines),
            "ready",
            url=stack.url,
            home=str(stack.home),
            logs=str(stack.logs),
            processes=stack.processes,
            admin={"name": admin.name, "password": admin.password},
            notice=notice,
        )

    def missing(self, model: str, sentence: str) -> None:
        self._print(f"Warning: {sentence}", "model_missing", model=model, reason=sentence)

    def stopping(self, received: list[int]) -> None:
        if received:
            self._print("Stopping; press Ctrl-C again to stop without waiting for work in progress.", "stopping")

    def stopped(self) -> None:
        self._print("Stopped.", "stopped")
