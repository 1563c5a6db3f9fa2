"""Brings a database to the newest schema; safe when several processes start at once."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def config(connection: Connection) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    settings.attributes["connection"] = connection
    return settings


def upgrade(connection: Connection) -> None:
    """Runs the missing migrations in the caller's transaction, which holds the database's write lock."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # ten lines at each start of each process, for nothing new
    command.upgrade(config(connection), "head")
