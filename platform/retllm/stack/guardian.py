"""Ends the processes of a stack that was killed: ``python -m retllm.stack.guardian FILE STACK``.

The stack holds the write end of a pipe to this program's standard input and never writes to it. End of file means that
the stack has ended; if its record still exists, it did not stop its processes. A pipe works on every system and for
every cause. Linux's parent-death signal does not survive a change of account, which PostgreSQL needs under root.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from retllm.stack.leftovers import StackRecord, end_stack


def main(argv: list[str]) -> int:
    """Wait for the end of the stack ``argv[1]`` with the record ``argv[0]``, then end its remaining processes."""
    path, stack = Path(argv[0]), argv[1]
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    record = StackRecord.read(path)
    if record is None or record.stack != stack:
        # stopped normally, or the folder was removed, or a newer stack uses it and ended the leftovers: end any other
        # process that is still marked with this stack
        end_stack(StackRecord(stack=stack, pid=0, created=0))
        return 0
    end_stack(record)
    latest = StackRecord.read(path)
    if latest is not None and latest.stack == stack:
        path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
