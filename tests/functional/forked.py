"""Commands and modules in forks of one process that has imported them: real processes that begin in a moment."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

from retllm.cli.main import COMMANDS

_CONTEXT = multiprocessing.get_context("forkserver")
# what is imported only when a command runs
_COMMANDS = {place.partition(":")[0] for place, _ in COMMANDS.values()}
_CONTEXT.set_forkserver_preload([*sorted(_COMMANDS), "retllm_web.app", "torch"])
SECONDS = 240.0


def command(arguments: Sequence[str], environment: Mapping[str, str], given: str = "") -> CompletedProcess[str]:
    """Run `retllm ARGUMENTS` in exactly this environment, with ``given`` as its input."""
    return _run(_command, list(arguments), environment, given)


def module(name: str, environment: Mapping[str, str]) -> CompletedProcess[str]:
    """Import a module with an ``app`` in exactly this environment, and ask whether the app is ready."""
    return _run(_module, [name], environment, "")


def _command(arguments: list[str]) -> None:
    from retllm.cli.main import main

    sys.argv = ["retllm", *arguments]
    main()


def _module(arguments: list[str]) -> None:
    importlib.import_module(arguments[0]).app.test_client().get("/readyz")


def _run(
    what: Callable[[list[str]], None], arguments: list[str], environment: Mapping[str, str], given: str
) -> CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("in", "out", "err")]
        streams[0].write_text(given, "utf-8")
        process = _CONTEXT.Process(target=_child, args=(what, arguments, dict(environment), streams))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{arguments} did not end")
        _, out, err = (path.read_text("utf-8", "replace") if path.exists() else "" for path in streams)
    return CompletedProcess(arguments, process.exitcode, out, err)


def _child(
    what: Callable[[list[str]], None], arguments: list[str], environment: dict[str, str], streams: list[Path]
) -> None:
    for number, (path, flags) in enumerate(
        zip(streams, (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT), strict=True)
    ):
        os.dup2(os.open(path, flags), number)
    # multiprocessing gives a child another input than the one it has
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    status = 1
    try:
        what(arguments)
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        else:
            status = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # as the processes that it started, threads do not hold it up
        os._exit(status)
