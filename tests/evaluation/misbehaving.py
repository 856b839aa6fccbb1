"""A real HTTP server that answers as an OpenAI-compatible endpoint does, or misbehaves in a way that a test chooses."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from PIL import Image, ImageDraw

from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import Rubric, find_rubric
from patchlens.evaluation.verdict import VERDICTS
from patchlens.inputs.image import ImageInput, open_image

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Received:
    """A request as the server got it."""

    path: str
    headers: Headers
    """By names in lower case."""
    body: dict[str, Any]

    @property
    def text(self) -> str:
        content = self.body["messages"][0]["content"]
        return content if isinstance(content, str) else next(part["text"] for part in content if "text" in part)

    @property
    def question(self) -> str:
        """The id of the question, which the Idempotency-Key begins with."""
        return self.headers["idempotency-key"].split("-")[0]


@dataclass(frozen=True)
class Response:
    """What the server sends."""

    body: bytes
    status: int = 200
    headers: Headers = field(default_factory=dict)
    missing: int = 0
    """Bytes that the Content-Length promises and that never come."""
    drop: bool = False
    """Close the connection without a word."""
    dribble: float = 0.0
    """Seconds between two bytes."""


Behavior = Callable[[Received], Response]


def as_json(value: object, status: int = 200, **headers: str) -> Behavior:
    found = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda _: Response(json.dumps(value).encode(), status, found)


def text(body: str, status: int = 200, kind: str = "text/plain", **headers: str) -> Behavior:
    found = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda _: Response(body.encode(), status, found)


def error(message: str, status: int, **more: object) -> Behavior:
    return as_json({"error": {"message": message, **more}}, status)


def says(
    content: object, *, finish: str | None = "stop", usage: tuple[int, int] | None = (1000, 50), **message: object
) -> Behavior:
    """A reply whose message is this."""
    whole: dict[str, object] = {
        "choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}]
    }
    if usage is not None:
        whole["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return as_json(whole)


def verdicts_of(prompt: str) -> list[str]:
    """What a well-behaved server thinks of the words in a prompt: anything, as long as it stays the same."""
    words = re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE)
    return [VERDICTS[hashlib.sha256(word.encode()).digest()[0] % len(VERDICTS)] for word in words]


def answers(received: Received) -> Response:
    """The behavior of a good endpoint."""
    given = {str(number): verdict for number, verdict in enumerate(verdicts_of(received.text), start=1)}
    return says(json.dumps({"reasoning": "it is so", "verdicts": given}))(received)


def after(seconds: float, behavior: Behavior = answers) -> Behavior:
    def wait(received: Received) -> Response:
        threading.Event().wait(seconds)
        return behavior(received)

    return wait


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients are killed and lose patience here; that is no error."""


class Endpoint:
    """The server, in a thread of its own; used as a context manager.

    Args:
        behaviors: What it does with each request in turn; the last one goes on forever.
        remembers: Whether it honors the Idempotency-Key: for a key that it has seen it sends the same reply again.
    """

    def __init__(self, *behaviors: Behavior, remembers: bool = False) -> None:
        self.received: list[Received] = []
        self.generated: Counter[str] = Counter()
        """How often a reply was made for each Idempotency-Key."""
        self._behaviors = behaviors or (answers,)
        self._remembers = remembers
        self._memory: dict[str, Response] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self.arrived = threading.Condition(self._lock)
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> "Endpoint":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def then(self, *behaviors: Behavior) -> None:
        """From now on."""
        with self._lock:
            self._behaviors = (*self._behaviors[: len(self.received)], *behaviors)

    def _respond(self, received: Received) -> Response:
        key = received.headers.get("idempotency-key", "")
        with self._lock:
            behavior = self._behaviors[min(len(self.received), len(self._behaviors) - 1)]
            self.received.append(received)
            self.arrived.notify_all()
            one_at_a_time = self._locks.setdefault(key, threading.Lock())
        if not self._remembers:
            return behavior(received)
        with one_at_a_time:
            if key not in self._memory:
                self.generated[key] += 1
                self._memory[key] = behavior(received)
            return self._memory[key]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # which would hold every body back for a twenty-fifth of a second

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                length = int(headers.get("content-length", 0))
                body = self.rfile.read(length)
                if len(body) < length or not headers.get("idempotency-key"):  # the client was killed in it
                    self.close_connection = True
                    return
                self._send(endpoint._respond(Received(self.path, headers, json.loads(body or b"{}"))))

            do_GET = do_POST  # as which a redirection may arrive

            def _send(self, response: Response) -> None:
                try:
                    if not response.drop:
                        self.send_response(response.status)
                        for name, value in response.headers.items():
                            self.send_header(name, value)
                        self.send_header("Content-Length", str(len(response.body) + response.missing))
                        self.end_headers()
                        self._write(response)
                except (BrokenPipeError, ConnectionResetError):  # the client was killed, or had enough
                    self.close_connection = True
                if response.drop or response.missing:
                    self.close_connection = True

            def _write(self, response: Response) -> None:
                if not response.dribble:
                    self.wfile.write(response.body)
                    return
                for byte in response.body:
                    self.wfile.write(bytes([byte]))
                    threading.Event().wait(response.dribble)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class Time:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds

    def clock(self) -> float:
        return self.now


def scene() -> ImageInput:
    """A red square in a green field, 96 × 64 pixels."""
    image = Image.new("RGB", (96, 64), (40, 160, 60))
    ImageDraw.Draw(image).rectangle((32, 16, 63, 47), fill=(200, 30, 30))
    return open_image(image, name="scene")


def question(
    words: Iterable[str] = ("square", "red", "bank"), rubric: Rubric | None = None, image: ImageInput | None = None
) -> Question:
    """The square's region and some words."""
    region = Region("scene", 0, 1, 2, (16.0, 32.0, 48.0, 64.0))
    return ask_about(rubric or find_rubric("patch"), image or scene(), region, [Shown(word) for word in words])


def many(number: int) -> list[Question]:
    """Different questions."""
    image, rubric = scene(), find_rubric("patch")
    return [question((f"word {each}", f"other {each}"), rubric, image) for each in range(number)]
