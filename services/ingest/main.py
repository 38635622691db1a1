"""The HTTP application of `ingest`: data in."""

from fastapi import FastAPI

from services.ingest import routes
from services.ingest.settings import IngestSettings
from shared.http import create_app


def create() -> FastAPI:
    return create_app("ingest", IngestSettings(), [routes.router], streams=lambda path: path == "/v1/datasets")
