"""Named failures of the embedded stack; each message is one line that a user can act on."""

from pathlib import Path


class StackError(Exception):
    """The embedded stack cannot do what was asked."""


class BadInputError(StackError):
    """What the user gave cannot be used."""


class PortTaken(BadInputError):
    """A configured TCP port is in use by another program."""

    def __init__(self, setting: str, port: int, holder: str | None) -> None:
        self.setting, self.port, self.holder = setting, port, holder
        by = f" by {holder}" if holder else ""
        super().__init__(
            f"port {port} ({setting}) is taken{by}: choose another with --{setting}-port N or --port-base N"
        )


class BadPort(BadInputError):
    """A port number that cannot be used."""


class AlreadyRunning(BadInputError):
    """Another process holds the state folder."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.folder, self.pid = folder, pid
        who = f" (process {pid})" if pid else ""
        super().__init__(
            f"a stack is already running on {folder}{who}: "
            "see `millrace status`, end it with `millrace stop`, or choose another folder with --state"
        )


class NotRunning(StackError):
    """No stack runs on the state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(f"no stack is running on {folder}: start one with `millrace up`")


class StartFailed(StackError):
    """A process of the stack did not become ready."""

    def __init__(self, name: str, reason: str, log: Path) -> None:
        self.name, self.reason, self.log = name, reason, log
        super().__init__(f"{name} did not start: {reason} (log: {log})")


class BadState(BadInputError):
    """The state folder cannot be used."""
