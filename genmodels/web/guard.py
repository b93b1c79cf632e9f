"""What stands before gradio: loopback, the paths that the page needs, small requests, and no other sites."""

import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MOST_BYTES = 100_000  # of a request
_HOSTS = re.compile(r"(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?")
# No files, uploads, proxies, streams, or ways around the queue.
_PATHS = re.compile(
    r"/(config/?|theme\.css|robots\.txt|favicon\.ico|manifest\.json|pwa_icon(/\d+)?"
    r"|(assets|static|svelte)/[^?]*"
    r"|gradio_api/(info/?|app_id/?|startup-events|theme\.css|cancel|reset/?|queue/(join|data)"
    r"|heartbeat/\w+|call/(v2/)?\w+(/\w+)?))?"
)
_HEADERS = {
    # gradio compiles templates in the browser: scripts may be made there, but none may come from elsewhere.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """An ASGI application that hands on to another one what may pass, and refuses the rest in a line of text.

    A page of another site that calls a server on loopback has its own Origin; one that has its name resolve
    to loopback has its own Host. Neither passes.
    """

    def __init__(self, app: App) -> None:
        """Stand before `app`."""
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refused = _refused(scope) if scope["type"] == "http" else (403, "no such protocol here")
        if refused is not None:
            await _say(send, *refused)
            return
        body = await _body(receive) if scope["method"] == "POST" else b""
        if body is None:
            await _say(send, 413, f"a request has at most {MOST_BYTES} bytes")
            return
        if body and not _is_json(body):
            await _say(send, 400, "the body of a request is JSON")
            return
        answer = _Answer(send)
        try:
            await self.app(scope, _again(body, receive), answer.send)
        except Exception as error:  # the outer edge: what is asked for may be anything
            if os.environ.get("GENMODELS_DEBUG"):
                raise
            said = (str(error) or type(error).__name__).splitlines()[0]
            print(f"genmodels: {scope['method']} {scope['path'][:80]!r}: {said}", file=sys.stderr)
            await answer.end()


def _refused(scope: Message) -> tuple[int, str] | None:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", "")
    if not _HOSTS.fullmatch(host):
        return 403, "this page is served on loopback only"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return 403, "another site's page may not use this one"
    if scope["method"] not in ("GET", "HEAD", "POST"):
        return 405, "no such method here"
    if not _PATHS.fullmatch(scope["path"]):
        return 404, "there is nothing here"
    return None


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body, None if it is too long."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > MOST_BYTES:
            return None
    return b"".join(parts)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what hands out a body that was read already, and then what there is to receive."""
    waiting = [body]

    async def received() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return received


class _Answer:
    """What is sent: with more headers, and to its end even where the application fails on the way."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun, self.ended = send, False, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            kept = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in _HEADERS]
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*kept, *added]}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        if not self.begun:
            await _say(self._send, 500, "this could not be answered")
        elif not self.ended:
            await self._send({"type": "http.response.body"})


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
