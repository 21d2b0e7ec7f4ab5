"""The addresses of the server: what is asked over HTTP and WebSocket, and what is answered."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from dust.decode.deadline import Deadline, OutOfTime
from dust.deploy.serve.frames import SOURCE, PushedFrames
from dust.deploy.serve.guard import PROTOCOL, Guard, GuardMiddleware
from dust.deploy.serve.limits import Refused, main_file
from dust.deploy.serve.service import RETRY_AFTER_S, Options, Sample, Service, Stopped, shown, unless_gone
from dust.deploy.serve.upload import FILE, PATH, receive
from dust.utils.errors import DustError
from dust.utils.package import import_extra

logger = logging.getLogger(__name__)

EXTRA = "serve"
PAGE = Path(__file__).with_name("page")
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/show.js": ("show.js", "text/javascript; charset=utf-8"),
}
LARGEST_MESSAGE = 8 << 20  # bytes of a frame
SILENCE_TIMEOUT_S = 30.0  # seconds without a frame after which a stream ends
ABOUT = """\
Answers of a trained model about videos, as `predictions.json` of `dust predict` has them. Every error is
`{"error": "a sentence"}`. With a token, each request but those of the page and `/health` carries
`Authorization: Bearer TOKEN`."""
QUERY = ("path", "top", "threshold", "timeline", "window", "stride")
FORM = {
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    FILE: {
                        "type": "string",
                        "format": "binary",
                        "description": "A video. Several of these are one sample: a video and its series, cameras.",
                    },
                    PATH: {"type": "string", "description": "Instead: a file of the folder of --files."},
                },
            }
        }
    }
}


def check_extra() -> None:
    """Raise ConfigError if the extra ``serve`` is not installed."""
    for module in ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client"):
        import_extra(module, EXTRA, "dust serve")


def build_app(service: Service, guard: Guard) -> Any:
    """Return the ASGI application of a service; what it asks is asked by ``guard`` first.

    Raises:
        ConfigError: the extra ``serve`` is not installed.
    """
    check_extra()
    from fastapi import FastAPI

    import dust

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    # their pages of documentation fetch scripts from elsewhere
    app = FastAPI(
        title="dust serve",
        version=dust.__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_errors(app)
    _add_pages(app, service)
    _add_predict(app, service)
    _add_stream(app, service)
    app.add_middleware(GuardMiddleware, guard=guard)
    return app


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Any:
    """Return an answer. A byte of a file's name that is not UTF-8 is written as ``\\udcff``."""
    from starlette.responses import Response

    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(text, status, headers, "application/json")


def _add_errors(app: Any) -> None:
    """Answer every error with one sentence; what is our own fault is in the log, and not in the answer."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    def say(status: int, text: str) -> Any:
        return _json({"error": text}, status, {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {})

    async def refused(_: Any, error: Refused) -> Any:
        return say(error.status, str(error))

    async def bad(_: Any, error: DustError) -> Any:
        return say(422, str(error))

    async def late(_: Any, __: Exception) -> Any:
        return say(504, "the answer took longer than is allowed here (--timeout): send a shorter or smaller video")

    async def full(_: Any, error: OSError) -> Any:
        logger.error("a request failed: %s", error)
        return say(507, f"the server cannot store or read the video: {error.strerror or 'input/output error'}")

    async def gone(_: Any, __: Exception) -> Any:
        return say(499, "the client has left")

    async def invalid(_: Any, error: RequestValidationError) -> Any:
        words = [f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()]
        return say(422, "; ".join(words))

    async def http(_: Any, error: HTTPException) -> Any:
        return say(error.status_code, str(error.detail))

    async def fault(_: Any, __: Exception) -> Any:
        return say(500, "a fault of the server: its log says more")

    handlers: dict[Any, Callable[..., Any]] = {
        Refused: refused, DustError: bad, asyncio.TimeoutError: late, OutOfTime: late, OSError: full, Stopped: gone,
        ClientDisconnect: gone,
        RequestValidationError: invalid, HTTPException: http, Exception: fault,
    }  # fmt: skip
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _add_pages(app: Any, service: Service) -> None:
    """Add the page and its parts, and what says how the server is."""
    from starlette.responses import Response

    def page(name: str, kind: str) -> Callable[[], Any]:
        data = (PAGE / name).read_bytes()
        return lambda: Response(data, media_type=kind)

    for path, (name, kind) in PAGES.items():
        app.add_api_route(path, page(name, kind), include_in_schema=False)

    @app.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/model", summary="The model, its classes, and what this server takes")
    async def model() -> Any:
        return _json(service.describe())

    @app.get("/metrics", summary="Counters, in Prometheus' text form", response_class=Response)
    async def metrics() -> Any:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_predict(app: Any, service: Service) -> None:
    from fastapi import Query, Request
    from starlette.requests import ClientDisconnect

    async def answer(request: Any, path: str, options: Options) -> dict[str, Any]:
        if path:
            return await unless_gone(service.predict(service.named(path), options), _gone(request))
        with service.folder() as folder:
            sent = await receive(request.headers, request.stream(), folder, service.limits)
            if sent.files and PATH in sent.fields:
                raise Refused(400, f"send a video in {FILE!r} or name one in {PATH!r}, not both")
            if PATH in sent.fields:
                sample = service.named(sent.fields[PATH])
            elif sent.files:
                name, first = main_file(sent.files, service.kind)
                sample = Sample(first, name, folder)
            else:
                raise Refused(400, f"the form has no video: it comes in the field {FILE!r}")
            return await unless_gone(service.predict(sample, options), _gone(request))

    @app.post(
        "/predict", summary="The answer about one video", openapi_extra={"requestBody": FORM},
        responses={
            status: {"description": text} for status, text in {
                403: "not allowed", 413: "too large", 422: "it cannot be read; the answer says why",
                503: "all places are taken; Retry-After says when to come again", 504: "it took too long",
            }.items()
        },
    )  # fmt: skip
    async def predict(
        request: Request,
        path: Annotated[str, Query(description="a file of the folder of --files, instead of an upload")] = "",
        top: Annotated[int, Query(ge=0, description="list the K likeliest classes alone; 0: all")] = 0,
        threshold: Annotated[float | None, Query(ge=0, le=1, description='below it: "none of these"')] = None,
        timeline: Annotated[bool, Query(description="also what happens when")] = False,
        window: Annotated[float, Query(ge=0, le=600, description="seconds; 0: the training's")] = 0.0,
        stride: Annotated[float, Query(ge=0, le=600, description="seconds; 0: half a window")] = 0.0,
    ) -> Any:
        options = Options(top, threshold, timeline, window, stride)
        status = 500
        try:
            if unknown := sorted(set(request.query_params) - set(QUERY)):
                raise Refused(400, f"query {unknown[0]!r} is unknown: it takes {', '.join(QUERY)}")
            with service.place(), service.metrics.timed("/predict"):
                found = await asyncio.wait_for(answer(request, path, options), service.limits.timeout)
            status = 422 if "error" in found else 200
            return _json(found, status)
        except (asyncio.TimeoutError, OutOfTime):
            status = 504
            raise
        except (Stopped, ClientDisconnect):  # nobody waits any more
            status = 499
            raise
        except OSError:
            status = 507
            raise
        except DustError as error:
            status = getattr(error, "status", 422)
            raise
        finally:
            service.metrics.requests.labels("/predict", str(status)).inc()


def _gone(request: Any) -> Callable[[], Any]:
    """Return what waits until the client of a request has left."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass  # a body that nobody asked for

    return gone


def _add_stream(app: Any, service: Service) -> None:
    from fastapi import Query, WebSocket
    from starlette.websockets import WebSocketDisconnect

    @app.websocket("/stream")
    async def stream(
        socket: WebSocket,
        top: Annotated[int, Query(ge=0)] = 0,
        threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        window: Annotated[float, Query(ge=0, le=600)] = 0.0,
        stride: Annotated[float, Query(ge=0, le=600)] = 0.0,
        fps: Annotated[float, Query(gt=0, le=1000)] = 25.0,
    ) -> None:
        offered = socket.scope.get("subprotocols") or []
        await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        options, frames = Options(top, threshold, False, window, stride), PushedFrames(fps)
        try:
            with service.place():
                await _converse(socket, service, options, frames)
            await socket.close()
        except (WebSocketDisconnect, Stopped):
            pass
        except DustError as error:
            busy = getattr(error, "status", 422) == 503
            with contextlib.suppress(RuntimeError):  # the client has left meanwhile
                await socket.send_json({"error": str(error), **({"retry_after": RETRY_AFTER_S} if busy else {})})
                await socket.close(1013 if busy else 1008)


async def _converse(socket: Any, service: Service, options: Options, frames: PushedFrames) -> None:
    """Take frames and send answers until the client says ``end`` or leaves."""
    loop = asyncio.get_running_loop()
    answers: asyncio.Queue[Any] = asyncio.Queue()

    def tell(message: Any) -> None:
        loop.call_soon_threadsafe(answers.put_nowait, message)

    def predict(deadline: Deadline) -> None:
        try:
            found = service.stream(SOURCE, options, opener=frames.opener, retries=0)
            for one in found:
                if not deadline.left():
                    return
                service.metrics.windows.inc()
                tell({**shown(one, options.top), **({} if one.delay is None else {"delay": one.delay})})
            if frames.ended:
                tell({"notes": found.notes})
        finally:
            tell(None)

    async def send() -> None:
        while (message := await answers.get()) is not None:
            await socket.send_json(message)

    async def take() -> None:
        try:
            while True:
                message = await asyncio.wait_for(socket.receive(), SILENCE_TIMEOUT_S)
                if message["type"] == "websocket.disconnect":
                    raise Stopped
                if message.get("text") == "end":
                    return await asyncio.to_thread(frames.end)
                if message.get("bytes") is None:
                    raise Refused(422, "a message is a frame, or the text end")
                await asyncio.to_thread(frames.push, message["bytes"])
        except asyncio.TimeoutError as error:
            raise Refused(408, f"no frame came for {SILENCE_TIMEOUT_S:g} s") from error

    tasks = [asyncio.ensure_future(one) for one in (service.in_thread(predict), take(), send())]
    try:
        await asyncio.gather(*tasks)
    finally:
        frames.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def build_server(app: Any, *, tls_cert: str = "", tls_key: str = "") -> Any:
    """Return the uvicorn server of an application; ``run(sockets=[...])`` it."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, access_log=False, ws_max_size=LARGEST_MESSAGE,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=5,
            ssl_certfile=tls_cert or None, ssl_keyfile=tls_key or None,
        )
    )  # fmt: skip
