"""The version of this code: what attempts and workers record, and what the HTTP API says of itself."""

VERSION = "0.1.0"
"""That of the distribution (pyproject.toml); a test holds them together. Images are built without its metadata."""
