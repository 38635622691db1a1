"""What ends a command: one line for the user and an exit code."""


class CommandError(Exception):
    """The command could not do its work; exit code 1."""

    code = 1


class BadInput(CommandError):
    """What the user gave cannot be used; exit code 2."""

    code = 2
