"""What may be in the repository: our own text, true on every machine."""

import re
import subprocess

from tests.architecture.tree import ROOT, files, relative

BYTES = 512 * 1024
# Spelled so that this file passes its own test.
HOSTS = [
    *("pypi[.]org", "pythonhosted[.]org", "npmjs[.](?:org|com)", "ghcr[.]io", "quay[.]io", "gcr[.]io", "docker[.]io"),
    *("proxy[.]golang", "registry[.]k8s", "deb[.]debian[.]org", "artifac[t]ory", "nexu[s][.-]"),
]
PLACES = [r"(?<![\w.<{}$/])/(?:work|root|home|Users)/\w", r"/tmp/(?:boot|brief)\b", r"\b[A-Z]:\\\\?Users\b"]
THIRD_PARTY = (".min.js", ".min.css", ".whl", ".tar.gz", ".jar", ".so", ".woff", ".woff2", ".ttf", ".pyc")


def lines(pattern: str) -> list[str]:
    matcher = re.compile(pattern)
    return [
        f"{relative(path)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if matcher.search(line)
    ]


def test_no_host_of_a_package_registry_is_written_down():
    assert lines("|".join(HOSTS)) == []


def test_no_path_of_somebodys_machine_is_written_down():
    own = relative(ROOT / "tests/architecture/test_tree.py")
    assert [line for line in lines("|".join(PLACES)) if not line.startswith(own)] == []


def test_no_conflict_is_left_unresolved():
    assert lines(r"^(<{7}|>{7}) ") == []


def test_no_bundle_of_others_is_committed():
    assert [relative(path) for path in files() if path.name.endswith(THIRD_PARTY)] == []
    assert [relative(path) for path in files() if path.stat().st_size > BYTES] == []


def test_secrets_and_state_are_ignored():
    kept_out = [".env", ".millrace/secrets.json", ".venv/bin/python", "signing-key.pem.log"]
    for name in kept_out:
        ran = subprocess.run(["git", "-c", "safe.directory=*", "check-ignore", "--quiet", name], cwd=ROOT)
        assert ran.returncode == 0, f"{name} is not ignored"


def test_no_private_key_is_committed():
    key = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}")
    assert [relative(path) for path in files() if key.search(path.read_text(errors="replace"))] == []
