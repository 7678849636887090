"""The server of the page: files, events, and a health check, read-only.

It runs in a thread of its own, so that the thread that reads Kafka waits for no browser.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from demo.page import Page

PORT = 8080
CONNECTIONS, STREAMS = 256, 40
"""The most at a time; any more are refused with status 503."""
REQUEST_SECONDS = 5
"""A client that has not sent a whole request after this long is disconnected."""
STALLED_MS = 20_000
"""A client that accepts nothing for this long is disconnected."""
HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
    ("Connection", "close"),  # each request has a connection, and so a deadline, of its own
]


class OneRequest(H11Protocol):
    """A connection for one request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the deadline."""
        super().connection_made(transport)
        self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if not self.cycle:
            self.transport.close()


class Events(StreamingResponse):
    """A stream of events, counted from the moment at which it is granted."""

    def __init__(self, page: Page) -> None:
        headers = {"Cache-Control": "no-store"}
        super().__init__(page.events(), media_type="text/event-stream", headers=headers)
        self.page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until the browser goes."""
        self.page.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.page.streams -= 1


class PageError(Exception):
    """The page cannot be served; the message says why."""


def application(page: Page) -> Starlette:
    """Return the ASGI application: the page's files, its events, and `/health`."""

    async def events(_: Request) -> Response:
        if page.streams >= STREAMS:
            return PlainTextResponse("too many pages are open: close one\n", 503)
        return Events(page)

    async def health(_: Request) -> Response:
        age = time.time() - (page.rows[-1][0] or 0)
        return PlainTextResponse(f"the newest figures are {age:.0f} s old\n", 200 if age < 20 else 503)

    return Starlette(
        routes=[
            Route("/events", events),
            Route("/health", health),
            Mount("/", StaticFiles(directory=Path(__file__).with_name("static"), html=True)),
        ],
        # No other site's page can read this one by a name of its own for this address.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1"], www_redirect=False)],
    )


@contextmanager
def serving(page: Page, host: str, port: int) -> Iterator[None]:
    """Serve the page in a thread, for the duration of the block. Raises PageError if the port is taken."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS; connections have it from the listener
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            why = f"{getattr(error, 'strerror', error)}: give it a free port in WEB_PORT"
            raise PageError(f"the page cannot be served at {host}:{port}: {why}") from None
        listener.listen()
        config = uvicorn.Config(
            application(page),
            headers=HEADERS,
            http=OneRequest,
            ws="none",
            lifespan="off",
            server_header=False,
            access_log=False,
            log_level="critical",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(5)
