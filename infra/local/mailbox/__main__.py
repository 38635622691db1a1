"""`python -m infra.local.mailbox`: an SMTP server and its web page in one process."""

import argparse
import asyncio
import os
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

KEY_VARIABLE = "MAILBOX_KEY"


def main() -> int:
    """Serve until SIGINT or SIGTERM; exit code 2 with one line for what cannot be started."""
    options = _arguments()
    key = os.environ.get(KEY_VARIABLE, "")
    if len(key) < 16:
        return _refuse(f"{KEY_VARIABLE} must hold the key that opens the page, of at least 16 characters")
    with ExitStack() as sockets:
        try:
            options.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            smtp = sockets.enter_context(_listen(options.host, options.smtp_port))
            http = sockets.enter_context(_listen(options.host, options.http_port))
        except OSError as error:
            return _refuse(str(error))
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(options.directory, key, smtp, http))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.local.mailbox", description=__doc__)
    parser.add_argument("--smtp-port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--http-port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--directory", type=Path, required=True, help="where mail and webhooks are kept")
    parser.add_argument("--host", default="127.0.0.1")
    return parser.parse_args()


def _refuse(problem: str) -> int:
    sys.stderr.write(f"mailbox: {problem}\n")
    return 2


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError that names the port when it cannot be had."""
    if not 0 <= port <= 65535:
        raise OSError(f"{port} is no port: 0 to 65535")
    try:
        return socket.create_server((host, port), backlog=100)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise OSError(f"{host}:{port} cannot be listened on: {reason}") from None


async def _serve(directory: Path, key: str, smtp: socket.socket, http: socket.socket) -> None:
    import uvicorn

    from infra.local.mailbox.smtp import protocol
    from infra.local.mailbox.store import Messages
    from infra.local.mailbox.web import create

    (host, port), (_, http_port) = smtp.getsockname()[:2], http.getsockname()[:2]
    app = create(directory, key, f"{host}:{port}")
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
    mail = await asyncio.get_running_loop().create_server(protocol(Messages(directory)), sock=smtp)
    sys.stdout.write(f"mailbox: mail at smtp://{host}:{port}, page at http://{host}:{http_port}/\n")
    sys.stdout.flush()
    async with mail:
        await uvicorn.Server(config).serve(sockets=[http])


if __name__ == "__main__":
    sys.exit(main())
