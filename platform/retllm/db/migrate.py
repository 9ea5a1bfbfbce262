"""Migrate a database to the newest schema, with clear errors."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script.revision import MultipleHeads
from alembic.util.exc import CommandError

from retllm.db.session import driver_url
from retllm.errors import StackError

_HERE = Path(__file__).resolve()


def _scripts() -> Path:
    """Return the folder of migrations: beside the sources in a checkout, inside the package in a wheel."""
    installed = _HERE.parent / "migrations"
    return installed if installed.is_dir() else _HERE.parents[3] / "migrations"


def config(url: str) -> Config:
    """Return the Alembic configuration for the database at ``url``."""
    configuration = Config()
    configuration.set_main_option("script_location", str(_scripts()))
    configuration.set_main_option("path_separator", "os")
    configuration.set_main_option("sqlalchemy.url", driver_url(url).replace("%", "%%"))
    return configuration


def upgrade(url: str, revision: str = "head") -> None:
    """Run the missing migrations; if several processes call it at once, one of them runs them.

    Raises:
        StackError: the server cannot be reached, has no pgvector, has an unknown schema, or a migration did not get a
            lock in time; or the migrations here are of several versions.
    """
    try:
        command.upgrade(config(url), revision)
    except CommandError as error:
        if isinstance(error.__cause__, MultipleHeads):
            raise StackError(
                f"Cannot migrate the database: {' and '.join(sorted(error.__cause__.heads))} are both the newest "
                f"migration, so {_scripts() / 'versions'} has files of several versions of the platform. Remove those "
                "that are not of this version (`git status` lists them in a checkout), or install it again."
            ) from error
        raise StackError(
            f"Cannot migrate the database: its schema is from release 0.1 or from a newer release than this ({error}). "
            "Install the newer release; for 0.1, run `retllm migrate` of release 0.2 first."
        ) from error
    except sa.exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StackError(f"Cannot migrate the database: {reason}. Check DATABASE_URL and try again.") from error
    except (sa.exc.NotSupportedError, sa.exc.ProgrammingError) as error:
        if "vector" not in str(error.orig):
            raise
        raise StackError(
            "This PostgreSQL server has no pgvector. Install it (0.8.4 or newer) and let an administrator run "
            "CREATE EXTENSION vector."
        ) from error
