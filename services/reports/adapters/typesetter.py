"""Runs typst on one document, in a process of its own: `python -I typesetter.py TEMPLATE OUTPUT ROOT TIMESTAMP`,
the document as JSON on standard input.

Why a process: typst keeps what it has set for the next ten documents (a worker grew to 1,180 MB), and a panic
or a crash of it must fail one render and not the worker. It imports nothing of ours, so that it starts in
about 0.1 s, and it is given none of the service's environment, so that it holds no secrets.

Exit status 0: the PDF is written. 2: refused, with the reason on standard error.
"""

import resource
import sys
from pathlib import Path

CPU_SECONDS = 120
ADDRESS_BYTES = 4 * 1024**3


def main(template: str, output: str, root: str, timestamp: str) -> int:
    """Set the document and return the exit status. The root is an empty directory: there is no file to read."""
    import typst

    # If the worker dies, nobody waits for this process any more: the limit is then its end.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    try:
        compiler = typst.Compiler(
            Path(template).read_bytes(),
            root=root,
            sys_inputs={"document": sys.stdin.read()},
            package_path=root,
            package_cache_path=root,
        )
        compiler.compile(output=output, format="pdf", timestamp=int(timestamp))
    except typst.TypstError as error:
        sys.stderr.write(error.message)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
