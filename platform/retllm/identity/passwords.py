"""Passwords: hashing with argon2id, and a check for passwords that are easy to guess."""

from __future__ import annotations

import re
import secrets
from base64 import b64encode

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from retllm.errors import InvalidInput

MIN = 10
MAX = 1000
"""Length limits in characters; the maximum limits the time of hashing."""

# the second recommended option of RFC 9106, for little memory
HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=4, hash_len=32, salt_len=16, type=Type.ID)

_MIN_DIFFERENT = 5
# common passwords, without the digits and symbols around them
_COMMON = re.compile(
    "password|passwort|passw|admin|administrator|welcome|letmein|iloveyou|qwerty|qwertyuiop|qwertz|qwertzuiop"
    "|azerty|asdfghjkl|zxcvbnm|abc|abcdef|abcdefg|abcdefgh|abcdefghi|abcdefghij|monkey|dragon|sunshine"
    "|princess|football|baseball|superman|batman|master|shadow|trustno|secret|changeme|changethis|login|user"
    "|test|testtest|guest|root|retllm|default|google|facebook|starwars|whatever|computer|internet|michael"
    "|passwordpassword|qwertyqwerty"
)
_SEQUENCES = ("01234567890123456789", "98765432109876543210", "1q2w3e4r5t6y7u8i9o0p", "qazwsxedcrfvtgbyhnujm")
# common substitutes for letters
_SUBSTITUTES = str.maketrans("@$!013457", "asioleast")


def generate() -> str:
    """Return a random password; show it once and do not store it."""
    while True:
        password = secrets.token_urlsafe(12)
        # a program would take one that begins with a hyphen for an option
        if password[0].isalnum():
            return password


def check(password: str, name: str, field: str = "password") -> None:
    """Check a new password of the account ``name``.

    Raises:
        InvalidInput: it is too short, too long or easy to guess; ``field`` is the name of its form field.
    """
    if not MIN <= len(password) <= MAX:
        raise InvalidInput(f"A password has {MIN} to {MAX:,} characters.", field=field)
    if _is_easy(password, name):
        raise InvalidInput(
            "This password is easy to guess. Use several words, or have one generated.",
            field=field,
        )


def _is_easy(password: str, name: str) -> bool:
    typed = password.casefold()
    rest = typed.replace(name.casefold(), "")
    return (
        len(set(typed)) < _MIN_DIFFERENT
        or (rest != typed and len(rest) < MIN // 2)
        or any(typed in sequence for sequence in _SEQUENCES)
        or any(_COMMON.fullmatch(letters) for letters in (_letters(typed), _letters(typed).translate(_SUBSTITUTES)))
    )


def _letters(text: str) -> str:
    """Return ``text`` without the digits and symbols before and after its letters."""
    return re.sub(r"^[\W\d_]+|[\W\d_]+$", "", text)


def hashed(password: str) -> str:
    """Return the hash of a password."""
    return HASHER.hash(password)


def matches(stored: str | None, password: str) -> bool:
    """Return whether ``password`` matches the ``stored`` hash; None matches nothing, but takes as long."""
    try:
        HASHER.verify(stored or _dummy_hash(), password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def _dummy_hash() -> str:
    """Return random bytes in the form of a hash: checking them takes as long as checking a wrong password."""
    salt, digest = (
        b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (HASHER.salt_len, HASHER.hash_len)
    )
    cost = f"m={HASHER.memory_cost},t={HASHER.time_cost},p={HASHER.parallelism}"
    return f"$argon2id$v=19${cost}${salt}${digest}"


def needs_rehash(stored: str) -> bool:
    """Return whether a stored hash has other parameters than the current ones."""
    return HASHER.check_needs_rehash(stored)
