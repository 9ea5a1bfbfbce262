"""Passwords: argon2id, and which ones are too easy to guess."""

from __future__ import annotations

import re
import secrets

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from retllm.errors import InvalidInput

MIN = 10
MAX = 1000
"""Characters; more than anybody types, since hashing takes time that grows with it."""

# the second recommendation of RFC 9106, for servers with little memory to spare
HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=4, hash_len=32, salt_len=16, type=Type.ID)
# checked when the name is unknown, so that a wrong name takes as long as a wrong password
_NOBODY = HASHER.hash(secrets.token_urlsafe(16))

_MIN_DIFFERENT = 5
# what most people choose who are asked for ten characters, without the digits and signs around it
_COMMON = re.compile(
    "password|passwort|passw|admin|administrator|welcome|letmein|iloveyou|qwerty|qwertyuiop|qwertz|qwertzuiop"
    "|azerty|asdfghjkl|zxcvbnm|abc|abcdef|abcdefg|abcdefgh|abcdefghi|abcdefghij|monkey|dragon|sunshine"
    "|princess|football|baseball|superman|batman|master|shadow|trustno|secret|changeme|changethis|login|user"
    "|test|testtest|guest|root|retllm|default|google|facebook|starwars|whatever|computer|internet|michael"
    "|passwordpassword|qwertyqwerty"
)
_RUNS = ("01234567890123456789", "98765432109876543210", "1q2w3e4r5t6y7u8i9o0p", "qazwsxedcrfvtgbyhnujm")
# what people write in place of letters
_PLAIN = str.maketrans("@$!013457", "asioleast")


def made_up() -> str:
    """A password that nobody guesses; show it once and keep it nowhere."""
    return secrets.token_urlsafe(12)


def check(password: str, name: str, field: str = "password") -> None:
    """Refuse a password of the account ``name`` that is too short, too long, or among the first to be tried.

    Raises:
        InvalidInput: it is; ``field`` is the name of what it was typed into.
    """
    if not MIN <= len(password) <= MAX:
        raise InvalidInput(f"A password has {MIN} to {MAX:,} characters.", field=field)
    if _is_easy(password, name):
        raise InvalidInput(
            "That password is among the first that somebody would try: take several words, or have one made up.",
            field=field,
        )


def _is_easy(password: str, name: str) -> bool:
    typed = password.casefold()
    rest = typed.replace(name.casefold(), "")
    return (
        len(set(typed)) < _MIN_DIFFERENT
        or (rest != typed and len(rest) < MIN // 2)
        or any(typed in run for run in _RUNS)
        or any(_COMMON.fullmatch(one) for one in (_letters(typed), _letters(typed).translate(_PLAIN)))
    )


def _letters(text: str) -> str:
    """``text`` without the digits and signs before and after its letters."""
    return re.sub(r"^[\W\d_]+|[\W\d_]+$", "", text)


def hashed(password: str) -> str:
    """What is kept of a password."""
    return HASHER.hash(password)


def fits(kept: str | None, password: str) -> bool:
    """Whether ``password`` is the one that is ``kept``; with None, which nothing fits, it takes as long."""
    try:
        HASHER.verify(kept or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return kept is not None


def is_dated(kept: str) -> bool:
    """Whether what is kept was made with other parameters than those of today."""
    return HASHER.check_needs_rehash(kept)
