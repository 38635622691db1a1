"""Container health: exit code 0 when the process beside this one does its work, else 1 and one line why.

`python -m infra.docker.health http [PATH]` asks the container's own HTTP server. `… worker SERVICE` pings this
container's worker through the broker: what comes back has been consumed, which an open connection does not
prove. `… beat SERVICE` looks whether the service's leading Beat has done a round lately; a Beat that stands by
is healthy while another one leads.
"""

import os
import socket
import sys
import urllib.request
from collections.abc import Callable
from importlib import import_module

PORT = 8000
"""Where every image's HTTP server listens."""
ROUND_SECONDS = 30
"""A leader does a round at least every second."""


class Unhealthy(Exception):
    """Says what is wrong."""


def http(path: str = "/readyz") -> None:
    # A proxy of the environment has no business here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{PORT}{path}", timeout=5):
        return


def worker(service: str) -> None:
    app = import_module(f"services.{service}.worker").app
    name = f"{service}@{socket.gethostname()}"
    if not app.control.inspect(destination=[name], timeout=5.0).ping():
        raise Unhealthy(f"{name} does not answer")


def beat(service: str) -> None:
    import psycopg

    with psycopg.connect(os.environ["MILLRACE_DATABASE_URL"], autocommit=True, connect_timeout=5) as connection:
        found = connection.execute(
            """SELECT 1 FROM pg_stat_activity WHERE usename = current_user AND application_name = %s
               AND state_change > now() - make_interval(secs => %s)""",
            (f"millrace-{service}-leader", ROUND_SECONDS),
        ).fetchone()
    if found is None:
        raise Unhealthy(f"no Beat of {service} has done a round in {ROUND_SECONDS} s")


CHECKS: dict[str, Callable[..., None]] = {"http": http, "worker": worker, "beat": beat}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in CHECKS:
        sys.stderr.write(f"health: name a check: {', '.join(CHECKS)}\n")
        return 2
    try:
        CHECKS[arguments[0]](*arguments[1:])
    except Exception as error:  # whatever it is, the container is not healthy
        sys.stderr.write(f"health: {type(error).__name__}: {str(error).strip()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
