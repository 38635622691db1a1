"""How a process is known to be ready."""

import http.client
from typing import Final
from urllib.parse import urlsplit

from infra.local.process import Probe, Running

_SECONDS: Final = 0.8


def answers(url: str) -> Probe:
    """Ready when a GET of the URL is answered with 200."""
    parts = urlsplit(url)

    def probe(running: Running) -> bool:
        connection = http.client.HTTPConnection(parts.netloc, timeout=_SECONDS)
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return probe


def logged(text: str) -> Probe:
    """Ready when this start has written the text to its log: the way of processes that serve no port."""
    wanted = text.encode()

    def probe(running: Running) -> bool:
        with open(running.log, "rb") as log:
            log.seek(running.log_start)
            return wanted in log.read()

    return probe
