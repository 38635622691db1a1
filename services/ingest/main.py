"""The HTTP application of `ingest`: data in."""

from fastapi import FastAPI

from services.ingest import routes
from services.ingest.settings import IngestSettings
from services.ingest.tasks import tasks
from shared.http import create_app


def create() -> FastAPI:
    return create_app("ingest", IngestSettings(), [routes.router], tasks=tasks, streams=_streams)


def _streams(path: str) -> bool:
    return path == "/v1/datasets"
