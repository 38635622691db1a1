"""The HTTP side: the inbox page, the same as JSON, and webhook receivers that verify signatures.

Every route needs the key, as a Bearer token or as the password of HTTP Basic (any user name), so that a
browser can ask for it. Two exceptions: `/healthz`, and posting to a hook, which its signature authenticates.
"""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as FromPath
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict

from infra.local.mailbox.mail import Attachment, Mail, Reader
from infra.local.mailbox.pages import Pages
from infra.local.mailbox.store import Arrival, Hooks, Messages, NotFound

ASSETS = Path(__file__).resolve().parent / "assets"
MAX_HOOK_BODY = 1024 * 1024  # bytes
PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; frame-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A mail's own HTML: no script, no form, nothing from the network, no access to the page around it.
MAIL_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
Number = Annotated[int, FromPath(ge=0, le=10_000)]
Limit = Annotated[int, Query(ge=1, le=1000)]


class NewSecret(BaseModel):
    model_config = ConfigDict(extra="forbid")

    secret: str


def create(directory: Path, key: str, smtp_address: str) -> FastAPI:
    """The app over a directory; `smtp_address` is what an empty inbox says mail can be sent to."""
    messages, hooks = Messages(directory), Hooks(directory)
    reader = Reader(messages)
    app = FastAPI(title="mailbox", docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, key)
    app.add_exception_handler(NotFound, _not_found)
    _add_messages(app, messages, reader)
    _add_hooks(app, hooks)
    _add_pages(app, Pages(messages, reader, hooks, smtp_address))
    return app


def _guard(app: FastAPI, key: str) -> None:
    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if _is_open(request) or _carries(request.headers.get("authorization", ""), key):
            response = await answer(request)
        else:
            response = PlainTextResponse("the mailbox's key is needed\n", 401)
            response.headers["www-authenticate"] = 'Basic realm="mailbox", charset="UTF-8"'
        for name, value in (
            ("content-security-policy", PAGE_POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ):
            response.headers.setdefault(name, value)
        return response

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}


def _is_open(request: Request) -> bool:
    path = request.url.path
    return path == "/healthz" or (request.method == "POST" and path.startswith("/hooks/"))


def _carries(authorization: str, key: str) -> bool:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            credentials = base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(credentials.encode(), key.encode())


async def _not_found(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 404)


def _add_messages(app: FastAPI, messages: Messages, reader: Reader) -> None:
    @app.get("/messages")
    def list_messages(limit: Limit = 200) -> list[dict[str, Any]]:
        return [_summary(mail) for mail in reader.newest(limit)]

    @app.get("/messages/{entry}")
    def get_message(entry: str) -> dict[str, Any]:
        mail = reader.get(entry)
        return {**_summary(mail), "headers": mail.headers, "text": mail.text, "html": mail.html}

    @app.get("/messages/{entry}/html")
    def get_html(entry: str) -> HTMLResponse:
        return HTMLResponse(reader.get(entry).html or "", headers={"content-security-policy": MAIL_POLICY})

    @app.get("/messages/{entry}/source")
    def get_source(entry: str) -> Response:
        return _download(f"{entry}.eml", "message/rfc822", messages.read(entry))

    @app.get("/messages/{entry}/attachments/{number}")
    def get_attachment(entry: str, number: Number) -> Response:
        attachments = reader.get(entry).attachments
        if number >= len(attachments):
            raise NotFound("no such attachment")
        file = attachments[number]
        return _download(file.filename, file.media_type, file.content)


def _summary(mail: Mail) -> dict[str, Any]:
    return {
        "id": mail.id,
        "from": mail.sender,
        "to": mail.to,
        "recipients": mail.recipients,
        "subject": mail.subject,
        "message_id": mail.message_id,
        "received_at": mail.received_at,
        "attachments": [_file(attachment) for attachment in mail.attachments],
    }


def _file(attachment: Attachment) -> dict[str, Any]:
    return {
        "filename": attachment.filename,
        "bytes": len(attachment.content),
        "media_type": attachment.media_type,
    }


def _download(filename: str, media_type: str, content: bytes) -> Response:
    """Never shown in the page's origin, whatever type the mail gives it."""
    disposition = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
    headers = {"content-disposition": disposition, "content-security-policy": "sandbox; default-src 'none'"}
    return Response(content, media_type=media_type, headers=headers)


def _add_hooks(app: FastAPI, hooks: Hooks) -> None:
    @app.get("/hooks")
    def list_hooks() -> list[str]:
        return hooks.names()

    @app.put("/hooks/{name}", status_code=204)
    def put_hook(name: str, body: NewSecret) -> None:
        if not is_secret(body.secret):
            raise HTTPException(422, "secret must be whsec_ and 24 to 64 bytes in base64")
        hooks.set_secret(name, body.secret)

    @app.post("/hooks/{name}")
    async def receive(name: str, request: Request) -> Response:
        secret = hooks.secret(name)  # no secret, no receiver: strangers cannot fill the disk
        body = await _bounded_body(request)
        headers = {key: value for key, value in request.headers.items() if key != "authorization"}
        problem = signature_problem(secret, headers, body)
        # Kept before it is answered: 204 means that it can be seen.
        await asyncio.to_thread(hooks.add, name, headers, body.decode("utf-8", "replace"), problem)
        if problem is None:
            return Response(status_code=204)
        return PlainTextResponse(f"{problem}\n", 401, headers={"www-authenticate": "StandardWebhooks"})

    @app.get("/hooks/{name}")
    def list_arrivals(name: str, limit: Limit = 200) -> list[Arrival]:
        return [hooks.get(name, entry) for entry in hooks.ids(name)[:limit]]


async def _bounded_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_HOOK_BODY:
            raise HTTPException(413, f"a webhook has at most {MAX_HOOK_BODY} bytes here")
    return body


def is_secret(secret: str) -> bool:
    """Whether it is a Standard Webhooks secret: whsec_ and 24 to 64 bytes in base64."""
    try:
        entropy = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return secret.startswith("whsec_") and 24 <= len(entropy) <= 64


def signature_problem(secret: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """Why a request is not what the secret's holder signed (Standard Webhooks 1.0); None when it is."""
    from standardwebhooks import Webhook, WebhookVerificationError

    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except WebhookVerificationError as error:
        return str(error)
    except ValueError:  # a malformed signature header, or a body that is not UTF-8
        return "Malformed signature or body"
    return None


def _add_pages(app: FastAPI, pages: Pages) -> None:
    @app.get("/")
    def inbox() -> HTMLResponse:
        return HTMLResponse(pages.inbox(None, "html"))

    @app.get("/view/{entry}")
    def view(entry: str, show: Literal["html", "text", "headers"] = "html") -> HTMLResponse:
        return HTMLResponse(pages.inbox(entry, show))

    @app.get("/webhooks")
    def webhooks() -> HTMLResponse:
        return HTMLResponse(pages.webhooks(None, None))

    @app.get("/webhooks/{name}/{entry}")
    def webhook(name: str, entry: str) -> HTMLResponse:
        return HTMLResponse(pages.webhooks(name, entry))

    @app.get("/assets/{name}")
    def asset(name: Literal["mailbox.css", "mailbox.js"]) -> FileResponse:
        return FileResponse(ASSETS / name)
