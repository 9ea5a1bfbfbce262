"""The check of `retllm doctor` for the processes that decode pictures."""

from __future__ import annotations

import platform

from retllm.media import decoder_process
from retllm.media.decoding.confinement import PROTECTIONS
from retllm.settings import Settings

# what a decoder that is taken over could do where it does not hold
_OPEN = {
    "calls": "use every call of the kernel",
    "files": "read files of this account",
    "network": "connect to servers",
    "signals": "send signals to processes of this account",
    "namespaces": "see the network of this machine",
}
_ADVICE = {
    "calls": "seccomp (x86-64 and ARM64)",
    "files": "Landlock (Linux 5.13)",
    "network": "Landlock's rules for networks (Linux 6.7)",
    "signals": "Landlock's scopes (Linux 6.12)",
}


def inspect_decoders(settings: Settings) -> tuple[str, str]:
    """Check what the kernel keeps from decoders; return the finding and the advice, which is empty if all is well.

    What does not hold counts only as far as nothing else forbids the same.

    Raises:
        StackError: a decoder can't be started.
    """
    held = decoder_process.protections(settings.decode_memory)
    missing = [name for name in PROTECTIONS if name not in held]
    if "calls" in held:
        # without sockets and signals no other rule is needed for them
        missing = [name for name in missing if name == "files"]
    elif "network" in held:
        missing = [name for name in missing if name != "namespaces"]
    if not missing:
        names = ", ".join(name for name in PROTECTIONS if name in held)
        return f"The kernel keeps decoders of pictures from the rest of the machine ({names}).", ""
    could = "; ".join(_OPEN[name] for name in missing)
    needed = " and ".join(_ADVICE[name] for name in missing if name in _ADVICE)
    return (
        f"A picture that takes over its decoder could {could}.",
        f"Use a kernel and a container that allow {needed} (here: Linux {platform.release()} on {platform.machine()}), "
        "and run the service under an account that can read little.",
    )
