"""The HTTP side of the service: routes, limits on requests, status codes, and the page that describes them (`/docs`)."""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, File, Form, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_sqa import __version__
from hf_sqa.cells import finite
from hf_sqa.scoring import Settings
from hf_sqa.scoring.items import Refusal
from hf_sqa.serve.service import Limits, Service
from hf_sqa.serve.urls import RefusedURL, fetch

#: HTTP status for the `code` of a row. Other codes give 422: the recording was read, but it holds nothing to judge.
HTTP_STATUS = {
    "bad_request": 400,
    "url_refused": 403,
    "too_large": 413,
    "too_long": 413,
    "too_many": 413,
    "out_of_memory": 413,
    "undecodable": 415,
    "unsupported": 415,
    "score_not_finite": 500,
    "service_failed": 500,
    "busy": 503,
    "timed_out": 504,
}
UNPROCESSABLE = 422
BUSY_SECONDS = "2"
#: Seconds between two keep-alive messages while a stream waits for its scores.
SIGN_OF_LIFE_SECONDS = 10.0
#: Environment variable with the settings of processes that uvicorn starts, as JSON.
ENVIRONMENT = "HF_SQA_SERVE"
#: Ends of the classes of the histograms: seconds of a request, recordings in a batch.
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16)


class Row(BaseModel):
    """One recording: its scores, or why it has none. The same row that `hf-sqa score` writes."""

    model_config = ConfigDict(extra="allow")
    file: str
    status: str
    code: str | None
    reason: str | None
    warnings: list[str]
    duration_seconds: float | None
    sampling_rate: int | None


class Health(BaseModel):
    """Whether the service can score, and with which model."""

    status: str
    version: str
    scores: list[str]
    model: dict[str, Any]
    waiting: int


class Interval(BaseModel):
    """The interval to add to the scores of a row."""

    interval: float | None = Field(
        default=None,
        ge=0.01,
        le=0.99,
        description="Add the ends of an interval, `mos_low` and `mos_high`, in which the mean rating of listeners lies for this "
        "share of recordings, such as 0.9; of models that are calibrated. Rounded to two decimals.",
    )


class Asked(Interval):
    """What to add to a row."""

    segments: bool = Field(default=False, description="Add the score of every window.")
    timeline: bool = Field(default=False, description="Add the quality of every half second, the worst stretch and the faults.")


REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Row} for status in sorted({*HTTP_STATUS.values(), UNPROCESSABLE} - {500})
}


async def _only_one(
    request: Request,
    file: Annotated[UploadFile | None, File(description="The recording: WAV, FLAC, Ogg, Opus, MP3, ...")] = None,
    url: Annotated[str | None, Form(description="Or where it is, if the service reads URLs.")] = None,
) -> UploadFile | str:
    """Return the only recording of a form; if there are several, FastAPI would silently pass on the last."""
    form = await request.form()  # read already
    number, sent = len(form.getlist("file")) + len(form.getlist("url")), url if file is None else file
    if number != 1 or sent is None:
        raise HTTPException(400, f"expected one recording, in the field `file` or `url` of a form, got {number or 'none'}")
    return sent


Sent = Annotated[UploadFile | str, Depends(_only_one)]


class Metrics:
    """Counters of one process for Prometheus. If `PROMETHEUS_MULTIPROC_DIR` names a folder, several processes are summed."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("hf_sqa_requests", "Requests answered.", ["path", "http_status"], **kept)
        self.seconds = Histogram("hf_sqa_request_seconds", "Time from request to answer.", ["path"], buckets=SECONDS, **kept)
        self.recordings = Counter("hf_sqa_recordings", "Rows given, by `status` and `code`.", ["status", "code"], **kept)
        self.audio_seconds = Counter("hf_sqa_audio_seconds", "Seconds of the recordings that were scored.", **kept)
        self.batches = Histogram("hf_sqa_batch_recordings", "Recordings given to the model together.", buckets=SIZES, **kept)
        self.waiting = Gauge("hf_sqa_waiting", "Recordings that wait or are scored.", multiprocess_mode="livesum", **kept)

    def text(self) -> bytes:
        """Return all counters in the text format of Prometheus."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)


@dataclass(frozen=True)
class Reader:
    """Takes a recording from a request and returns its row."""

    service: Service
    metrics: Metrics

    async def checked(self, asked: Asked) -> Asked:
        """Round the interval to two decimals, so that clients cannot fill the memory; refuse one that the model does not have."""
        if asked.interval is None:
            return asked
        interval = round(asked.interval, 2)
        if why_not := await self.service.why_no_interval(interval):
            raise HTTPException(400, why_not)
        return asked.model_copy(update={"interval": interval})

    async def row(self, sent: UploadFile | str, asked: Asked) -> dict[str, Any]:
        """Return the row of an upload or a URL."""
        with_timeline = asked.timeline or self.service.names_worst
        options = {"return_segments": asked.segments, "return_timeline": with_timeline, "interval": asked.interval}
        name, limits = (sent if isinstance(sent, str) else sent.filename) or "recording", self.service.limits
        try:
            if isinstance(sent, str) and not limits.allow_urls:
                raise RefusedURL("url_refused", "this service reads no URLs; send the file")
            audio = await fetch(sent, limits.max_bytes, limits.private_hosts) if isinstance(sent, str) else sent.file
            row = await self.service.row(name, audio, options)
        except RefusedURL as refused:
            row = self.service.refused(name, refused.refusal, options)
        self.metrics.recordings.labels(row["status"], row["code"] or "").inc()
        self.metrics.audio_seconds.inc(row["duration_seconds"] if row["status"] == "ok" else 0)
        if not asked.timeline:
            row.pop("timeline", None)
        return finite(row)


def create_app(service: Service) -> FastAPI:
    """Make the application, which any ASGI server can run. The service is started and ended with it."""
    metrics = Metrics()
    reader = Reader(service, metrics)
    # Counted as it happens: with several workers, only one of them answers a request for /metrics.
    service.on_batch, service.on_waiting = metrics.batches.observe, metrics.waiting.set

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with service:
            yield

    app = FastAPI(title="hf-sqa", version=__version__, summary="How good does this speech sound?", lifespan=lifespan)
    app.add_middleware(BodyLimit, max_bytes=service.limits.max_bytes, refuse=service.refused)

    @app.middleware("http")
    async def count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        path = getattr(request.scope.get("route"), "path", "other")  # never text that a client typed
        metrics.requests.labels(path, str(response.status_code)).inc()
        metrics.seconds.labels(path).observe(time.perf_counter() - started)
        return response

    @app.exception_handler(HTTPException)
    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 400)
        code = "too_large" if status == 413 else "bad_request"
        problems = error.errors() if isinstance(error, RequestValidationError) else []
        reason = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
        row = service.refused("", Refusal("failed", code, reason or str(getattr(error, "detail", ""))))
        return JSONResponse(row, status, headers=getattr(error, "headers", None))

    @app.post("/score", response_model=Row, responses=REFUSED)
    async def score(sent: Sent, asked: Annotated[Asked, Query()]) -> Response:
        """Score one recording."""
        return _answer(await reader.row(sent, await reader.checked(asked)))

    @app.post("/score/batch", response_model=list[Row], responses={400: {"model": Row}, 413: {"model": Row}})
    async def score_batch(
        files: Annotated[list[UploadFile], File(description="The recordings.")], asked: Annotated[Asked, Query()]
    ) -> Response:
        """Score several recordings. Returns one row for each, in the order sent; the status is 200 whatever the rows say."""
        most = service.limits.max_files
        if len(files) > most:
            reason = f"expected at most {most} recordings, got {len(files)}"
            return _answer(service.refused("", Refusal("failed", "too_many", reason)))
        asked = await reader.checked(asked)
        return JSONResponse(await asyncio.gather(*(reader.row(file, asked) for file in files)))

    @app.post(
        "/timeline",
        response_class=StreamingResponse,
        responses=REFUSED | {200: {"content": {"text/event-stream": {}}, "description": "`point` events, then one `row`."}},
    )
    async def timeline(sent: Sent, asked: Annotated[Interval, Query()]) -> Response:
        """Quality over time, as server-sent events: one `point` (`start`, `end`, scores) after the other, then the `row`."""
        options = await reader.checked(Asked(timeline=True, interval=asked.interval))
        scored = asyncio.ensure_future(reader.row(sent, options))
        done, _ = await asyncio.wait({scored}, timeout=SIGN_OF_LIFE_SECONDS)
        if done and scored.result()["status"] != "ok":
            return _answer(scored.result())
        return StreamingResponse(_events(scored), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> Response:
        """200 while the service can score, else 503."""
        is_alive = service.is_alive
        told = Health(
            status="ok" if is_alive else "failed",
            version=__version__,
            scores=service.score_names,
            model={**service.identity, "sampling_rate": service.scorer.model.config.sampling_rate},
            waiting=service.num_waiting,
        )
        return JSONResponse(told.model_dump(), 200 if is_alive else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


class BodyLimit:
    """Refuses requests above a size, by their stated and by their actual length; `refuse` makes the row of the answer."""

    def __init__(self, app: ASGIApp, max_bytes: int, refuse: Callable[[str, Refusal], dict[str, Any]]):
        self._app, self._max_bytes, self._refuse = app, max_bytes, refuse
        self._reason = f"expected at most {max_bytes:,} bytes in a request; send fewer or shorter recordings"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if stated.isdigit() and int(stated) > self._max_bytes:
            await _answer(self._refuse("", Refusal("failed", "too_large", self._reason)))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise HTTPException(413, self._reason)
            return message

        await self._app(scope, counted, send)


async def _events(scored: asyncio.Future[dict[str, Any]]) -> AsyncIterator[str]:
    while not (await asyncio.wait({scored}, timeout=SIGN_OF_LIFE_SECONDS))[0]:
        yield ": still scoring\n\n"
    row = scored.result()
    for point in row.pop("timeline"):
        yield f"event: point\ndata: {json.dumps(point, allow_nan=False)}\n\n"
    yield f"event: row\ndata: {json.dumps(row, allow_nan=False)}\n\n"


def _answer(row: Mapping[str, Any]) -> Response:
    status = 200 if row["status"] == "ok" else HTTP_STATUS.get(row["code"], UNPROCESSABLE)
    return JSONResponse(row, status, headers={"Retry-After": BUSY_SECONDS} if row["code"] == "busy" else None)


def run(settings: Settings, limits: Limits, *, host: str, port: int, workers: int = 1, num_decoders: int = 1) -> None:
    """Serve until interrupted, with `workers` processes that each have a model, and `num_decoders` more that decode for each."""
    options: dict[str, Any] = {"host": host, "port": port, "log_level": "warning"}
    if workers == 1:
        uvicorn.run(create_app(Service(settings, limits, num_decoders)), **options)
        return
    told = {"settings": asdict(settings), "limits": asdict(limits), "num_decoders": num_decoders}
    with tempfile.TemporaryDirectory(prefix="hf-sqa-metrics-") as folder:
        os.environ |= {ENVIRONMENT: json.dumps(told), "PROMETHEUS_MULTIPROC_DIR": folder}
        uvicorn.run("hf_sqa.serve.app:app_from_environment", factory=True, workers=workers, **options)


def app_from_environment() -> FastAPI:
    """Make the application in a process that uvicorn started for [`run`]."""
    told = json.loads(os.environ[ENVIRONMENT])
    return create_app(Service(Settings(**told["settings"]), Limits(**told["limits"]), told["num_decoders"]))
