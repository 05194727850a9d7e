"""Serves the live page, on this computer alone."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sightloop.report.run import image_file
from sightloop.terminal import printable, say
from sightloop.view.board import Board
from sightloop.view.live_page import live_page, view_file
from sightloop.view.samples import SampleQuery, credited, pairs, same
from sightloop.view.try_models import TryModels

HOST = "127.0.0.1"
"""Whoever wants to look from elsewhere forwards the port over ssh; there is no password here."""
_MAX_ASKED = 64 << 20
"""Bytes of a request with an image."""
_HEADERS = {
    # The page shows what the run wrote; nothing in it may load or run anything else.
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; script-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_KINDS = {".js": "text/javascript", ".css": "text/css"}


def serve(folders: Sequence[Path], port: int) -> None:
    """Serve the page of these runs until the command is ended; port 0 is any free one.

    Raises:
        ValueError: a folder is no run, or the port is taken.
    """
    board = Board(folders)
    for place in {-1 if len(folders) > 1 else 0, *range(len(folders))}:
        board.sections(place)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"--port {port}: {error.strerror}; choose another, or 0 for any free one"
            ) from error
        # Whoever comes before the server is ready waits instead of being refused.
        listening.listen()
        say(f"http://{HOST}:{listening.getsockname()[1]} (this computer alone; end with Ctrl-C)")
        config = uvicorn.Config(application(board), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


def application(board: Board) -> Starlette:
    """The program behind the page."""
    pages = _Pages(board)
    routes = [
        Route("/", pages.home),
        Route("/run/{place:int}", pages.run),
        Route("/state/{place}", pages.state),
        Route("/part/{place}/{anchor}", pages.part),
        Route("/found/{place}/{what}", pages.found),
        Route("/image/{place:int}/{image:path}", pages.image),
        Route("/try/{place:int}", pages.tried, methods=["POST"]),
        *(Route(f"/{name}", pages.file) for name in ("page.js", "view.js", "view.css")),
    ]
    # A page of somebody else, under a name that leads here, is not answered.
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[guard, Middleware(GZipMiddleware, compresslevel=1)])


class _Pages:
    def __init__(self, board: Board) -> None:
        self._board = board
        self._models = TryModels()

    async def home(self, _request: Request) -> Response:
        place = -1 if len(self._board.runs) > 1 else 0
        return _html(await run_in_threadpool(live_page, self._board, place))

    async def run(self, request: Request) -> Response:
        place = request.path_params["place"]
        if place >= len(self._board.runs):
            return _missing()
        return _html(await run_in_threadpool(live_page, self._board, place))

    async def state(self, request: Request) -> Response:
        place = self._place(request)
        if place is None:
            return _missing()
        return JSONResponse(await run_in_threadpool(self._board.state, place), headers=_HEADERS)

    async def part(self, request: Request) -> Response:
        place = self._place(request)
        if place is None:
            return _missing()
        parts = await run_in_threadpool(self._board.sections, place)
        text = parts.get(request.path_params["anchor"])
        return _missing() if text is None else _html(printable(text))

    async def found(self, request: Request) -> Response:
        place, what = self._place(request), request.path_params["what"]
        query = SampleQuery.of(request.query_params)
        if place is not None and place < 0 and what == "same":
            return _html(printable(await run_in_threadpool(same, self._board.records, query)))
        make = {"pairs": pairs, "credit": credited}.get(what)
        if place is None or place < 0 or make is None:
            return _missing()
        return _html(printable(await run_in_threadpool(make, self._board.records[place], query)))

    async def image(self, request: Request) -> Response:
        place = request.path_params["place"]
        if place >= len(self._board.runs):
            return _missing()
        path = image_file(self._board.records[place].path, request.path_params["image"])
        # Images never change under their names, and a gallery holds thousands.
        kept = {**_HEADERS, "Cache-Control": "max-age=3600"}
        return _missing() if path is None else FileResponse(path, headers=kept)

    async def tried(self, request: Request) -> Response:
        place = request.path_params["place"]
        # Pages of others cannot send this kind without asking first, which nothing here allows.
        if request.headers.get("content-type") != "application/json" or place >= len(self._board.runs):
            return _missing()
        body = await _limited(request)
        if body is None:
            return JSONResponse({"error": f"the image has more than {_MAX_ASKED >> 20} MB"}, headers=_HEADERS)
        return JSONResponse(await run_in_threadpool(self._answers, place, body), headers=_HEADERS)

    async def file(self, request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        return Response(view_file(name), media_type=_KINDS[name[name.index(".") :]], headers=_HEADERS)

    def _answers(self, place: int, body: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise ValueError("ask with one JSON object")
            return {"answers": self._models.answers(self._board.runs[place].folder, asked)}
        except (ValueError, OSError) as error:
            return {"error": printable(error)}

    def _place(self, request: Request) -> int | None:
        text = request.path_params["place"]
        several = len(self._board.runs) > 1
        if text == "-1" and several:
            return -1
        return int(text) if text.isdecimal() and int(text) < len(self._board.runs) else None


async def _limited(request: Request) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_ASKED:
            return None
    return bytes(body)


def _html(text: str) -> Response:
    return HTMLResponse(text, headers=_HEADERS)


def _missing() -> Response:
    return PlainTextResponse("not found", status_code=404, headers=_HEADERS)
