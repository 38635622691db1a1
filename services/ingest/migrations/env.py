"""Alembic's entry: the mechanics are the same for every service."""

from shared.db import run_migrations

run_migrations()
