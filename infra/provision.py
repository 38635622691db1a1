"""Prepares a PostgreSQL for Millrace: a role and a schema a service, closed to the others, and migrations.

`python -m infra.provision` reads MILLRACE_ADMIN_DATABASE_URL (a superuser's) and each service's
MILLRACE_<SERVICE>_PASSWORD. Everything is safe to repeat, and two at once wait for each other; a crash
half-way leaves something that the next run completes.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

DATABASE: Final = "millrace"
SERVICES: Final = ("api", "ingest", "reports", "notifications")
# Any number, known to all who provision: the key of the advisory lock.
_LOCK: Final = 0x6D696C6C72616365


class ProvisionError(Exception):
    """The database cannot be prepared; the message is one line for the operator."""


def provision(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Creates what is missing, sets passwords and rights, migrates each service's schema.

    `admin_url` may name any database of the server. Raises ProvisionError or psycopg.Error.
    """
    if missing := [service for service in SERVICES if not passwords.get(service)]:
        raise ProvisionError(f"no password for the database role of {', '.join(missing)}")
    with locked(admin_url) as connection:
        create_database(connection)
        for service in SERVICES:
            create_role(connection, service, passwords[service])
        _close_databases(connection)
        with psycopg.connect(at(admin_url, database=DATABASE), autocommit=True) as inside:
            _create_schemas(inside)
        for service in SERVICES:
            _migrate(service, at(admin_url, service, passwords[service], DATABASE))


def at(url: str, user: str | None = None, password: str | None = None, database: str | None = None) -> str:
    """The same server's address for another user or database."""
    parts = urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    if user is not None:
        account = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    path = parts.path if database is None else f"/{quote(database, safe='')}"
    return urlunsplit((parts.scheme, f"{account}@{host}", path, parts.query, ""))


@contextmanager
def locked(admin_url: str) -> Iterator[psycopg.Connection]:
    """A connection that holds the provisioning lock; the server frees it when the connection ends."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        yield connection


def create_database(connection: psycopg.Connection) -> None:
    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
    if not found:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def create_role(connection: psycopg.Connection, service: str, password: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (service,)).fetchone()
    # The verifier is computed here: the password itself never reaches the server or its log.
    verifier = connection.pgconn.encrypt_password(password.encode(), service.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL(
            "{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {verifier}"
        ).format(
            verb=sql.SQL("ALTER" if found else "CREATE"),
            role=sql.Identifier(service),
            verifier=sql.Literal(verifier.decode()),
        )
    )
    connection.execute(sql.SQL("ALTER ROLE {0} SET search_path = {0}").format(sql.Identifier(service)))


def _close_databases(connection: psycopg.Connection) -> None:
    """The services' roles may enter the one database; PUBLIC may enter neither it nor the server's own two.

    Other databases of a shared server stay as their owners set them.
    """
    for name in (DATABASE, "postgres", "template1"):
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    roles = sql.SQL(", ").join(map(sql.Identifier, SERVICES))
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(DATABASE), roles))


def _create_schemas(connection: psycopg.Connection) -> None:
    connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for service in SERVICES:
        schema = sql.Identifier(service)
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {0} AUTHORIZATION {0}").format(schema))
        connection.execute(sql.SQL("ALTER SCHEMA {0} OWNER TO {0}").format(schema))
        connection.execute(sql.SQL("REVOKE ALL ON SCHEMA {} FROM PUBLIC").format(schema))
        for other in SERVICES:
            if other != service:
                connection.execute(sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, sql.Identifier(other)))


def _migrate(service: str, url: str) -> None:
    from shared.db import migrate

    migrate(service, url)


def _from_environment(environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    url = environment.get("MILLRACE_ADMIN_DATABASE_URL")
    if not url:
        raise ProvisionError("MILLRACE_ADMIN_DATABASE_URL is not set")
    return url, {service: environment.get(f"MILLRACE_{service.upper()}_PASSWORD", "") for service in SERVICES}


def main() -> int:
    """Exit code 0 when all is prepared, 2 when the settings are bad, 1 when the server refuses."""
    try:
        provision(*_from_environment(os.environ))
    except ProvisionError as error:
        sys.stderr.write(f"provision: {error}\n")
        return 2
    except psycopg.Error as error:
        sys.stderr.write(f"provision: {str(error).strip()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
