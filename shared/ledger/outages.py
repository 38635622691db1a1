"""What the leading Beat cannot reach, told to those who ask why a job waits."""

from shared.db import Row, Statements

FRESH_SECONDS = 30
"""A leader whose broker is away tries it every few seconds; an older note is a dead leader's and says nothing."""


def note(connection: Statements, name: str, detail: str) -> None:
    """It is away now; since when, the first note of it says."""
    connection.execute(
        """INSERT INTO outage (name, detail) VALUES (%s, %s)
           ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp(), detail = excluded.detail,
             since = CASE WHEN outage.seen_at > clock_timestamp() - make_interval(secs => %s)
                          THEN outage.since ELSE clock_timestamp() END""",
        (name, detail, FRESH_SECONDS),
    )


def clear(connection: Statements, name: str) -> None:
    """It is there again."""
    connection.execute("DELETE FROM outage WHERE name = %s", (name,))


def find(connection: Statements, name: str) -> Row | None:
    """`since` and `detail`, while it is away."""
    return connection.execute(
        """SELECT since, detail FROM outage
           WHERE name = %s AND seen_at > clock_timestamp() - make_interval(secs => %s)""",
        (name, FRESH_SECONDS),
    ).fetchone()
