"""Bring a database to the newest schema, or say clearly why not."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from retllm.db.session import driver_url
from retllm.errors import StackError

_HERE = Path(__file__).resolve()


def _scripts() -> Path:
    """The folder of migrations: beside the sources in a checkout, inside the package in a wheel."""
    installed = _HERE.parent / "migrations"
    return installed if installed.is_dir() else _HERE.parents[3] / "migrations"


def config(url: str) -> Config:
    """An alembic configuration for the database at ``url``."""
    made = Config()
    made.set_main_option("script_location", str(_scripts()))
    made.set_main_option("path_separator", "os")
    made.set_main_option("sqlalchemy.url", driver_url(url).replace("%", "%%"))
    return made


def upgrade(url: str, revision: str = "head") -> None:
    """Run the missing migrations; several processes may call it at once, one of them works.

    Raises:
        StackError: the server can't be reached, lacks pgvector, has a schema that is not known here, or a migration
            could not get its lock in time.
    """
    try:
        command.upgrade(config(url), revision)
    except CommandError as error:
        raise StackError(
            f"The database can't be migrated: its schema is of release 0.1 or of a newer one than this ({error}). "
            "Install that newer release; or, for 0.1, run `retllm migrate` of release 0.2 first."
        ) from error
    except sa.exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise StackError(f"The database can't be migrated: {reason}. Check DATABASE_URL and try again.") from error
    except (sa.exc.NotSupportedError, sa.exc.ProgrammingError) as error:
        if "vector" not in str(error.orig):
            raise
        raise StackError(
            "This PostgreSQL server has no pgvector: install it (0.8 or newer) and let an administrator run "
            "CREATE EXTENSION vector."
        ) from error
