"""One service's database: transactions, the wake-up after a commit, migrations.

SQLAlchemy sessions for the services' own tables; the psycopg connection below them (`raw`) for the
ledger, whose statements are written out.
"""

import os
import select
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from shared.forks import ForkGate

Row = dict[str, Any]
Connection = psycopg.Connection[Row]


class Statements(Protocol):
    """Where the ledger's statements run: a connection of its own, or a session's transaction (`raw`)."""

    def execute(self, query: Any, params: Any = None) -> psycopg.Cursor[Row]: ...

    def cursor(self) -> psycopg.Cursor[Row]: ...


class _Raw:
    """A psycopg connection that SQLAlchemy lent: rows are dictionaries here and stay tuples there."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, query: Any, params: Any = None) -> psycopg.Cursor[Row]:
        return self.cursor().execute(query, params)

    def cursor(self) -> psycopg.Cursor[Row]:
        return self._connection.cursor(row_factory=dict_row)


def raw(session: Session) -> Statements:
    """The psycopg connection of the session's transaction. A session has one transaction: it is looked up once."""
    found: Statements | None = session.info.get("raw")
    if found is None:
        connection = session.connection().connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        found = session.info["raw"] = _Raw(connection)
    return found


class Lasting:
    """An autocommit connection that is made anew when the server has dropped it. For one thread.

    A statement that meets the dropped connection is sent once more, so only such as may be repeated.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None

    def execute(self, query: Any, params: Any = None) -> psycopg.Cursor[Row]:
        try:
            return self.cursor().execute(query, params)
        except psycopg.OperationalError:
            if self._connection is None or not self._connection.closed:
                raise
            return self.cursor().execute(query, params)

    def cursor(self) -> psycopg.Cursor[Row]:
        if self._connection is not None and self._connection.info.transaction_status is TransactionStatus.ACTIVE:
            self._connection.close()  # whoever was at a statement was interrupted: its answer is still to come
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection.cursor()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


_PASSING = ("08", "25006", "40", "53", "55P03", "57")
"""SQLSTATE classes: no connection, a standby, rolled back for others, no resources, lock, shut down."""


def _said(error: BaseException | None) -> BaseException | None:
    """What PostgreSQL's driver said, without SQLAlchemy's wrapping."""
    return error.orig if isinstance(error, DBAPIError) else error


def is_outage(error: BaseException | None) -> bool:
    """Whether PostgreSQL was away or busy, rather than refusing what it was asked: later it may go well."""
    error = _said(error)
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate.startswith(_PASSING)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout | OSError)


_PLANNING = "-c enable_seqscan=off"
"""Statements are prepared, and their plans kept: one made while a table was nearly empty would read the whole of it
ever after. Every statement of ours has an index."""
_TIMES: dict[str, Any] = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""Seconds; a machine at the other end that is gone is noticed after 25."""


def is_locked(error: BaseException | None) -> bool:
    """Whether somebody else held a row for longer than its lock was to be waited for."""
    return isinstance(_said(error), psycopg.errors.LockNotAvailable)


def is_away(error: BaseException | None) -> bool:
    """Whether the connection was lost or refused: whoever asked had no part in it. Not what PostgreSQL says to the same
    question each time (no memory, no disk), nor a pool of ours that is too small."""
    error = _said(error)
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate.startswith(("08", "25006", "53300", "57P0"))
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


class Database:
    """Connections of one process to its service's schema. Pools are per process: a fork starts afresh."""

    def __init__(self, url: str, *, application: str, pool_size: int = 5, silent_seconds: float = 0.0) -> None:
        """`silent_seconds`: the server ends a transaction in which it has heard nothing for so long, and with it
        the locks of a process that is frozen; 0 for never."""
        self.url = url
        self.application = application
        self.pool_size = pool_size
        self._options = f"{_PLANNING} -c idle_in_transaction_session_timeout={round(1000 * silent_seconds)}"
        self._engine: Engine | None = None
        self._pid = 0
        self._lock = threading.Lock()
        self._waker: Waker | None = None
        self._kept: dict[int, _Kept] = {}
        """By thread."""
        os.register_at_fork(after_in_child=partial(_after_fork, weakref.ref(self)))

    @property
    def engine(self) -> Engine:
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                self._engine, self._waker, self._pid = self._create_engine(), Waker(self), os.getpid()
            return self._engine

    def _create_engine(self) -> Engine:
        engine = create_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=self.pool_size,
            max_overflow=self.pool_size,
            pool_timeout=5,
            hide_parameters=True,  # errors are kept with jobs and shown; values may be secrets
            connect_args={
                "application_name": self.application,
                "options": self._options,
                "prepare_threshold": 1,
                **_TIMES,
            },
        )
        event.listen(engine, "checkout", _refuse_dropped)
        return engine

    @contextmanager
    def transaction(self, *, kept: bool = False, lock_seconds: float = 0.0, **info: Any) -> Iterator[Session]:
        """A session that commits at the end of the block, or rolls back. `info` goes to `session.info`. A lock that
        is not had within `lock_seconds` (0: waited for without limit) raises what `is_locked` knows. `kept`: for
        threads that live on and have many transactions, on a connection that the thread keeps.

        Work enqueued in it is announced after the commit, and only then: NOTIFY inside a transaction
        would take a lock that makes commits wait for each other. If the process dies before the
        announcement, the dispatcher's poll finds the work.
        """
        own = self._own() if kept else None
        with self._pooled(info) if own is None else own.transaction(info) as session:
            if lock_seconds:
                raw(session).execute("SELECT set_config('lock_timeout', %s, true)", (str(round(1000 * lock_seconds)),))
            yield session
        if session.info.get("wake") and self._waker is not None:
            self._waker.wake()

    @contextmanager
    def _pooled(self, info: Row) -> Iterator[Session]:
        with Session(self.engine, info=info, expire_on_commit=False) as session, session.begin():
            yield session

    def _own(self) -> "_Kept | None":
        """The calling thread's connection; None while it is in a transaction."""
        thread = threading.get_ident()
        own = self._kept.get(thread)
        if own is not None and own.is_busy:
            return None
        if own is not None and own.is_dropped():
            own.close()
            own = None
        if own is None:
            own = self._kept[thread] = _Kept(self.engine)
        return own

    def connect(self, *, synchronous_commit: bool = True) -> Connection:
        """A connection of its own, autocommit. The caller keeps and closes it."""
        options = self._options if synchronous_commit else f"{self._options} -c synchronous_commit=off"
        return psycopg.connect(
            self.url,
            autocommit=True,
            row_factory=dict_row,
            application_name=self.application,
            options=options,
            prepare_threshold=1,
            **_TIMES,
        )

    def dispose(self) -> None:
        """Close what is open. No thread is in a transaction any more."""
        with self._lock:
            for own in self._kept.values():
                own.close()
            self._kept = {}
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            if self._waker is not None:
                self._waker.stop()
            self._engine = self._waker = None


class _Kept:
    """A connection that a thread keeps for its transactions, one at a time. It is none of the pool's, which so many
    threads would empty; and taking one out of the pool, and giving it back, costs more than a statement.

    SQLAlchemy is told of a transaction only when its session is used: statements that are written out (`raw`) begin it
    by themselves.
    """

    def __init__(self, engine: Engine) -> None:
        self.is_busy = False
        self._bound = engine.connect()
        self._bound.detach()
        driver = self._bound.connection.dbapi_connection
        assert isinstance(driver, psycopg.Connection)
        self._driver: psycopg.Connection[Any] = driver
        self._raw: Statements = _Raw(driver)

    def is_dropped(self) -> bool:
        return self._driver.closed or _is_readable(self._driver.fileno())

    @contextmanager
    def transaction(self, info: Row) -> Iterator[Session]:
        self.is_busy = True
        session = Session(self._bound, info={**info, "raw": self._raw}, expire_on_commit=False)
        try:
            yield session
            session.flush()
            if session.in_transaction():
                session.commit()
            self._driver.commit()  # nothing is sent if that was done just now
        finally:
            self._leave(session)

    def _leave(self, session: Session) -> None:
        """Undo what is not committed. A connection that cannot any more, or is in the midst of a statement, is closed,
        and with it go its locks."""
        with suppress(Exception):
            session.close()
            self._driver.rollback()
        if self._driver.info.transaction_status is not TransactionStatus.IDLE:
            self.close()
        self.is_busy = False

    def close(self) -> None:
        self._driver.close()


def _refuse_dropped(connection: Any, *_: Any) -> None:
    """A server that drops a connection says so, unasked: there is something to read before anything was sent.

    The pool then makes a new connection in its place. A question to the server instead (`pool_pre_ping`) costs a
    round trip, which a short transaction feels.
    """
    if connection.closed or _is_readable(connection.fileno()):
        raise DisconnectionError("dropped by the server")


def _is_readable(socket: int) -> bool:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def _after_fork(database: "weakref.ref[Database]") -> None:
    """A thread of the parent may have held the lock; in the child nobody would ever release it. Connections are the
    parent's."""
    found = database()
    if found is not None:
        found._lock = threading.Lock()
        found._kept = {}


_WAKING = ForkGate()
"""A worker replaces a dead pool process just when its keeper has taken a job back, and so has work to announce."""


class Waker:
    """Announces committed work to the dispatcher: one NOTIFY for all that was committed meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted = threading.Event()
        self._pending = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        self._pending = True
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="waker", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """What is still to be announced is, for at most a few seconds."""
        self._stopped = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        connection: Connection | None = None
        while self._pending or not self._stopped:
            self._wanted.wait()
            self._wanted.clear()
            if not self._pending:
                continue
            self._pending = False
            try:
                with _WAKING:
                    connection = connection or self._database.connect()
                    connection.execute(NOTIFY)
            except psycopg.Error:
                connection = None  # the poll finds the work; the next wake connects again
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()


NOTIFY = "SELECT pg_notify('millrace_' || current_schema(), '')"
"""The channel is the schema's: a dispatcher hears its own service alone."""


def migrate(service: str, url: str) -> None:
    """Bring the schema of `service` to the newest revision. Safe to run from several processes at once."""
    from alembic import command
    from alembic.config import Config

    root = Path(__file__).resolve().parent.parent
    config = Config()
    config.set_main_option("script_location", str(root / "services" / service / "migrations").replace("%", "%%"))
    config.attributes["url"] = url
    command.upgrade(config, "head")


def run_migrations() -> None:
    """What every service's `migrations/env.py` calls."""
    from alembic import context

    engine = create_engine(context.config.attributes["url"].replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        # Transaction-scoped: two containers that start at once migrate one after the other.
        context.configure(connection=connection, target_metadata=None, version_table="schema_version")
        with context.begin_transaction():
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('migrate ' || current_schema()))")
            context.run_migrations()
    engine.dispose()
