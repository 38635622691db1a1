"""The probe's role and schema: `python -m infra.probe.schema` makes them in a PostgreSQL. Safe to repeat.

It reads MILLRACE_ADMIN_DATABASE_URL (a superuser's) and PROBE_PASSWORD.
"""

import os

import psycopg
from psycopg import sql
from sqlalchemy import create_engine

from infra.provision import DATABASE, at, create_database, create_role, locked
from shared.ledger import schema

NAME = "probe"

TABLES = """
CREATE TABLE effect_row (
  number      bigint      NOT NULL,
  job         uuid        NOT NULL,
  attempt     integer     NOT NULL,
  at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE effect_row IS
  'What jobs had as their effect. Nothing is unique here: a job whose effect came twice shows.';
"""


def make(admin_url: str, password: str) -> None:
    """Makes what is missing; `admin_url` may name any database of the server. Raises psycopg.Error."""
    with locked(admin_url) as connection:
        create_database(connection)
        create_role(connection, NAME, password)
        words = {"database": sql.Identifier(DATABASE), "name": sql.Identifier(NAME)}
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {database} TO {name}").format(**words))
        with psycopg.connect(at(admin_url, database=DATABASE), autocommit=True) as inside:
            inside.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {name} AUTHORIZATION {name}").format(**words))
        _fill(at(admin_url, NAME, password, DATABASE))


def _fill(url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        if connection.exec_driver_sql("SELECT to_regclass('effect_row')").scalar() is None:
            for version in schema.VERSIONS:
                schema.apply(connection, version)
            connection.exec_driver_sql(TABLES)
    engine.dispose()


if __name__ == "__main__":
    make(os.environ["MILLRACE_ADMIN_DATABASE_URL"], os.environ["PROBE_PASSWORD"])
