"""The HTTP application of `notifications`."""

from fastapi import FastAPI

from services.notifications import routes
from services.notifications.settings import NotificationsSettings
from services.notifications.tasks import tasks
from shared.http import create_app


def create() -> FastAPI:
    return create_app("notifications", NotificationsSettings(), [routes.router], tasks=tasks)
