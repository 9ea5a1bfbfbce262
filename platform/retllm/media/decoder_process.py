"""How the program that decodes pictures is started, and what the kernel of this machine keeps from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from retllm.errors import StackError
from retllm.media import decoder

_SECONDS = 60.0


def command(memory: int) -> list[str]:
    """Return the command of a decoder with so many bytes of memory."""
    return [sys.executable, "-S", "-s", "-P", "-B", str(Path(decoder.__file__)), str(memory)]


def environment() -> dict[str, str]:
    """Return the variables of a decoder.

    Those of this process, which have secrets, are not among them. It imports from where this process imports, and its
    libraries have one thread each, since there is a decoder for each core.
    """
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


@lru_cache
def protections(memory: int) -> frozenset[str]:
    """Return what the kernel keeps from decoders: those of :data:`decoding.confinement.PROTECTIONS` that hold here.

    Raises:
        StackError: a decoder can't be started.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [*command(memory), decoder.REPORT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            env=environment(),
            timeout=_SECONDS,
            check=True,
        )
        return frozenset(map(str, json.loads(done.stdout)))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise StackError(f"The process that decodes pictures can't be started: {error}.") from error
