"""Lay out vectors in a process of its own, which can be ended at once and leaves its memory to the system.

A layout compiles code and computes for minutes, in which it lets no other thread of its process run for long.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from retllm.errors import StackError
from retllm.maps import layout

_CHECK_SECONDS = 0.5
_SHOWN = 500


def require() -> None:
    """Require what lays out vectors.

    Raises:
        StackError: it is not installed.
    """
    if find_spec("umap") is None:
        raise StackError(
            "Maps need UMAP: run pip install 'retllm-platform[map]' where the workers of the queue media run, and "
            "start them again. Then retry the job."
        )


def laid_out(vectors: Path, dimension: int, check: Callable[[], None]) -> layout.Vectors:
    """Return the places of the vectors in a file, beside which a file is written.

    Args:
        vectors: numbers of 32 bits.
        check: called twice a second; what it raises ends the process.

    Raises:
        StackError: the process can't be started, or failed.
    """
    target = vectors.with_suffix(".places")
    command = [sys.executable, "-m", layout.__name__, str(vectors), str(target), str(dimension)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    # compiled code is kept where this account may write
    environment |= {name: os.environ[name] for name in ("HOME", "NUMBA_CACHE_DIR", "TMPDIR") if name in os.environ}
    with TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                # keeps signals to the worker's process group from it, since the worker ends it
                start_new_session=True,
            )
        except OSError as error:
            raise StackError(f"The process that lays out vectors can't be started: {error.strerror}.") from error
        with process:
            try:
                _wait(process, check)
            finally:
                process.kill()
        if process.returncode:
            said.seek(0)
            why = said.read().decode(errors="replace").strip()[-_SHOWN:]
            raise StackError(f"The process that lays out vectors failed ({process.returncode}): {why}")
    return np.fromfile(target, dtype=np.float32).reshape(-1, 2)


def _wait(process: subprocess.Popen[bytes], check: Callable[[], None]) -> None:
    while True:
        try:
            process.wait(_CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            check()
        else:
            return
