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
from typing import Any

import click

from retllm.errors import StackError
from retllm.identity.secret_key import secret_key
from retllm.settings import PRESETS, Settings
from retllm.stack.local import LocalStack


@dataclass(frozen=True)
class Admin:
    """The first administrator; `password` is known only when the account was made by this start."""

    name: str
    password: str | None


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the web server; 0 takes any free one.")
@click.option("--home", type=click.Path(file_okay=False, path_type=Path), help="Folder of data and logs.")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="The pair of models.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write address and process ids there, as JSON, once everything is ready.",
)
@click.option("--json", "as_json", is_flag=True, help="Say everything as JSON, one object a line.")
def up(port: int | None, home: Path | None, preset: str | None, ready_file: Path | None, as_json: bool) -> None:
    """Start the platform on this machine: database, Redis, web server, dispatcher and workers.

    Data and logs are in RETLLM_HOME and are found again by the next start. With DATABASE_URL or REDIS_URL set, those
    servers are used and none is started. Ctrl-C stops everything.
    """
    run_stack({"port": port, "home": home, "preset": preset}, as_json=as_json, ready_file=ready_file)


def run_stack(
    given: Mapping[str, Any],
    *,
    as_json: bool,
    ready_file: Path | None = None,
    after_start: Callable[[LocalStack], None] = lambda _: None,
    stay: bool = True,
) -> None:
    """Start the whole stack, do `after_start`, and stop it all: at once, or (`stay`) when a signal says so.

    Settings that `given` names take the place of the environment's, except where they are None.

    Raises:
        StackError: a part can't be started, or keeps breaking.
    """
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    say = _Said(as_json)
    stack = LocalStack(settings, notify=say.step)
    signals = _Signals(stack)
    try:
        with signals:
            say.begin(settings)
            if settings.secret_key is not None:
                # one that can be guessed is told here, and not by a web server that ends again and again
                secret_key(settings)
            # makes the folder, for its owner alone, where otherwise the key is kept
            stack.start()
            admin = prepare_client(stack)
            say.ready(stack, admin)
            if ready_file is not None:
                _write_ready(ready_file, stack)
            with signals.raised():
                after_start(stack)
            if stay:
                stack.ended.wait()
            say.stopping(signals.received)
            stack.stop()
    except (StackError, KeyboardInterrupt):
        if not signals.received:
            raise
        say.stopping(signals.received)
    finally:
        stack.stop()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    if stack.failure is not None:
        raise stack.failure
    say.stopped()


def prepare_client(stack: LocalStack) -> Admin:
    """Make the first administrator if there is none, and let the command line find the stack."""
    from retllm.db.session import make_sessions, transaction
    from retllm.identity.accounts import ensure_admin
    from retllm.identity.tokens import token_key
    from retllm.stack.client_file import write_client

    sessions = make_sessions(stack.database_url)
    try:
        with transaction(sessions) as session:
            user, password = ensure_admin(session)
            write_client(session, stack.home, token_key(stack.settings), user, stack.url)
            return Admin(user.name, password)
    finally:
        sessions.kw["bind"].dispose()


def _write_ready(path: Path, stack: LocalStack) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps({"url": stack.url, "pid": os.getpid(), "processes": stack.processes}), "utf-8")
    beside.replace(path)


class _Signals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into an orderly stop, and a second one into a quick stop."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._before: dict[int, Any] = {}
        self.received: list[int] = []
        self._raised = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Here a signal also breaks off what this process itself is doing, by KeyboardInterrupt."""
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


class _Said:
    """What `retllm up` tells: sentences for people, or one JSON object a line for programs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._echo: Callable[..., None] = click.echo

    def _say(self, sentence: str, event: str, **fields: Any) -> None:
        self._echo(json.dumps({"event": event, **fields}) if self._as_json else sentence)
        sys.stdout.flush()

    def begin(self, settings: Settings) -> None:
        self._say(
            f"Starting in {settings.home_path} with the models of `{settings.preset}` ...",
            "starting",
            home=str(settings.home_path),
            preset=settings.preset,
        )

    def step(self, text: str) -> None:
        self._say(f"  {text}", "step", text=text)

    def ready(self, stack: LocalStack, admin: Admin) -> None:
        notice = stack.settings.notice
        lines = [f"Ready: {stack.url}", *([notice] if notice else [])]
        if admin.password is not None:
            lines.append(f"Log in as {admin.name} with the password {admin.password} (it is shown this once).")
        lines += [f"Logs: {stack.logs}", "Ctrl-C stops everything; the data stay."]
        self._say(
            "\n".join(lines),
            "ready",
            url=stack.url,
            home=str(stack.home),
            logs=str(stack.logs),
            processes=stack.processes,
            admin={"name": admin.name, "password": admin.password},
            notice=notice,
        )

    def stopping(self, received: list[int]) -> None:
        if received:
            self._say("Stopping; once more Ctrl-C does not wait for work in progress.", "stopping")

    def stopped(self) -> None:
        self._say("Stopped.", "stopped")
