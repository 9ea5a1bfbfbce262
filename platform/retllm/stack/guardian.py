"""Ends the processes of a stack whose own process was killed outright: ``python -m retllm.stack.guardian FILE STACK``.

The stack holds the writing end of a pipe that is this program's standard input and never writes to it. End of file
means that the stack has ended, in whatever way; if its record is still there, it had no time to stop its processes.
A pipe does this on every system and for every kind of death; Linux's parent-death signal does not survive a change of
account, which PostgreSQL needs under root.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from retllm.stack.leftovers import StackRecord, end_stack


def main(argv: list[str]) -> int:
    """Wait for the end of the stack named ``argv[1]``, recorded in the file ``argv[0]``; end what it left."""
    path, stack = Path(argv[0]), argv[1]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    record = StackRecord.read(path)
    if record is None or record.stack != stack:
        # stopped in order, or the folder was removed, or a newer stack has taken it over and ended the leftovers:
        # what still carries this stack's mark, if anything, has to go
        end_stack(StackRecord(stack=stack, pid=0, created=0))
        return 0
    end_stack(record)
    latest = StackRecord.read(path)
    if latest is not None and latest.stack == stack:
        path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
