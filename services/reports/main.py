"""The HTTP application of `reports`: definitions, renders, files."""

from fastapi import FastAPI

from services.reports import routes
from services.reports.settings import ReportsSettings
from services.reports.tasks import tasks
from shared.http import create_app


def create() -> FastAPI:
    return create_app("reports", ReportsSettings(), [routes.router], tasks=tasks)
