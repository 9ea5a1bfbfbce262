"""Passwords: argon2id parameters, rejection of easy ones, and equal time for an unknown name and a wrong password."""

from __future__ import annotations

from typing import Literal

import pytest
from argon2 import Parameters, PasswordHasher, Type, extract_parameters
from argon2.exceptions import VerifyMismatchError
from sqlalchemy.orm import Session

from retllm.errors import InvalidInput, Unauthorized
from retllm.identity import accounts, passwords

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module", autouse=True)
def light_passwords() -> None:
    """Hash with the parameters of production."""


def test_passwords_are_hashed_by_argon2id_with_recommended_parameters() -> None:
    kept = extract_parameters(passwords.hashed(PASSWORD))
    assert kept.type is Type.ID
    # RFC 9106, section 4, second recommended option
    assert kept.time_cost >= 3
    assert kept.memory_cost >= 64 * 1024
    assert kept.parallelism >= 4
    assert kept.salt_len >= 16
    assert kept.hash_len >= 32


def test_equal_passwords_have_different_hashes() -> None:
    assert passwords.hashed(PASSWORD) != passwords.hashed(PASSWORD)


def test_a_hash_with_weaker_parameters_is_replaced_at_the_log_in(session: Session) -> None:
    user = accounts.create_user(session, "ada", PASSWORD)
    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    user.password_hash = weak
    with pytest.raises(Unauthorized):
        accounts.log_in(session, "ada", "wrong wrong wrong")
    assert user.password_hash == weak
    accounts.log_in(session, "ada", PASSWORD)
    assert extract_parameters(user.password_hash) == extract_parameters(passwords.hashed(PASSWORD))
    kept = user.password_hash
    accounts.log_in(session, "ada", PASSWORD)
    assert user.password_hash == kept


def test_no_password_matches_an_unknown_account() -> None:
    assert not passwords.matches(None, PASSWORD)
    assert not passwords.matches("no hash at all", PASSWORD)


def test_an_unknown_name_takes_as_much_work_as_a_wrong_password(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.create_user(session, "ada", PASSWORD)
    work: list[tuple[Parameters, int]] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            """Verify a password, and note the work: one computation with the parameters of the stored hash."""
            work.append((extract_parameters(str(hash)), len(password)))
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "HASHER", Counting.from_parameters(extract_parameters(passwords.hashed(PASSWORD))))
    for name in ("ada", "nobody"):
        with pytest.raises(Unauthorized):
            accounts.log_in(session, name, "wrong wrong wrong")
    assert work == [(extract_parameters(passwords.hashed(PASSWORD)), len("wrong wrong wrong"))] * 2
    assert extract_parameters(passwords._dummy_hash()) == extract_parameters(passwords.hashed(PASSWORD))


def test_the_work_for_an_unknown_name_is_done() -> None:
    # bytes that argon2 could not take for a hash would be refused at once
    with pytest.raises(VerifyMismatchError):
        passwords.HASHER.verify(passwords._dummy_hash(), PASSWORD)


@pytest.mark.parametrize(
    "password",
    [
        "short",
        "x" * 1001,
        "aaaaaaaaaaaa",
        "ababababab",
        "1234567890",
        "0987654321",
        "qwertyuiop",
        "password123",
        "Password1234!",
        "P@ssw0rd2024",
        "passwordpassword",
        "!!!admin1234",
        "changeme!!!",
        "letmein2026",
        "zoe-miller",
        "Zoe-Miller1",
        "123zoe-miller",
        "1q2w3e4r5t",
    ],
)
def test_passwords_that_are_easy_to_guess_are_rejected(session: Session, password: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        accounts.create_user(session, "zoe-miller", password)
    assert caught.value.detail["field"] == "password"


@pytest.mark.parametrize(
    "password",
    ["correct horse battery", "a long password", "another good one", "zoe-miller likes owls", "tr0ub4dor&3x9"],
)
def test_other_passwords_are_accepted(session: Session, password: str) -> None:
    accounts.create_user(session, "zoe-miller", password)
    assert accounts.check_password(session, "zoe-miller", password).name == "zoe-miller"


def test_a_generated_password_is_accepted(session: Session) -> None:
    made = [passwords.generate() for _ in range(500)]
    assert len(set(made)) == 500
    for password in made:
        passwords.check(password, "ada")


def test_generated_passwords_begin_with_a_letter_or_digit() -> None:
    made = [passwords.generate() for _ in range(2_000)]
    assert all(password[0].isalnum() and len(password) == 16 for password in made)
    assert len(set(made)) == len(made)
