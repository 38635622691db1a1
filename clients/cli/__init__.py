"""The `millrace` command."""

import sys
from typing import Final, NoReturn

INTERRUPTED: Final = 130
"""Exit code of a command that Ctrl-C or SIGTERM ended; typer answers it too."""


def main() -> NoReturn:
    """Runs the command. Exit codes: 0 done, 1 it could not be done, 2 bad input, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command with these arguments and returns its exit code; failures are one line on stderr."""
    import typer

    from clients.cli.app import app
    from clients.cli.errors import CommandError
    from clients.problems import ProblemError, Unreachable, Unsendable
    from infra.local.errors import BadInputError, StackError

    try:
        code = int(app(arguments or ["--help"], prog_name="millrace", standalone_mode=False) or 0)
    except typer.TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except CommandError as error:
        return _fail(str(error), error.code)
    except StackError as error:
        return _fail(str(error), 2 if isinstance(error, BadInputError) else 1)
    except ProblemError as error:
        said = f"{error.title}: {error.detail}" if error.detail else error.title
        return _fail(said, 2 if error.is_callers else 1)
    except Unsendable as error:
        return _fail(str(error), 2)
    except UnicodeEncodeError as error:
        return _fail(f"half a character was given: {error}", 2)
    except Unreachable as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # `millrace logs | head` has had enough.
        from clients.cli.screen import discard

        discard(sys.stdout)
        return 0
    return _fail("interrupted", code) if code == INTERRUPTED else code


def _fail(message: str, code: int) -> int:
    line = f"millrace: {' '.join(message.split())}"
    print(line.encode(errors="backslashreplace").decode(), file=sys.stderr)
    return code
