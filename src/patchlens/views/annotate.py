"""Blind annotation: people answer in a browser, by keyboard, the questions that other judges are asked.

A question says nothing of lens, layer or rank, and neither does anything here: each person gets the questions in an
order that depends on their ids, the person's name and a seed alone. Answers are stored as those of any judge are, one
file for each person, and one that is on the disk is the only one that the page calls saved.

The page's own parts are in `web/`. Needs the extra `annotate`.
"""

import base64
import json
import math
import re
import socket
import threading
import unicodedata
import webbrowser
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from html import escape
from importlib.resources import files
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from patchlens.errors import MissingExtra, OptionError, PatchlensError
from patchlens.evaluation.answers import open_answers, read_answers
from patchlens.evaluation.question import Question, Shown
from patchlens.evaluation.ratings import PEOPLE
from patchlens.evaluation.rubric import Verdicts
from patchlens.evaluation.verdict import VERDICTS, Answer
from patchlens.provenance import JSON

__all__ = ["App", "annotation_app", "serve"]

App: TypeAlias = Callable[..., Awaitable[None]]
"""A web application, as ASGI has it."""

_MOST_BYTES = 65_536
"""Of one answer that is sent; those of fifty candidates have less than a thousand."""
_LONGEST_NAME = 80
_LONGEST_SECONDS = 86_400.0
_SKIPPED = "skipped"
_PARTS = ("marked", "crop")

_HEADERS = (
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class _Refusal(Exception):
    """A request that is not served; with an HTTP status, and what else the page is told."""

    def __init__(self, status: int, message: str, **more: JSON) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **more}


def annotation_app(
    questions: Iterable[Question],
    folder: Path,
    *,
    seed: int = 0,
    title: str = "Which words fit?",
    annotator: str = "",
    hosts: Iterable[str] = (),
) -> App:
    """The page that people annotate on, and what stands behind it, for `serve`.

    Args:
        questions: Of the rubrics `patch` and `sentence`, in any order; equal ones are asked once, and those without a
            candidate not at all.
        folder: Where answers are kept, a file for each person; it is made with the first answer.
        seed: Another seed gives everyone another order.
        title: Headline of the page.
        annotator: Who is asked unless the address says otherwise (`?annotator=anna`); without it the page asks for a
            name.
        hosts: Names beside `localhost` by which browsers may call this machine; numbers always do.

    Raises:
        OptionError: There is nothing to ask, or a question without a region or of another rubric.
        MissingExtra: Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise _missing() from error
    desk = _Desk(questions, folder, seed)
    text, policy = _page(title, annotator)

    def page(request: Request) -> Response:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    def sheet(request: Request) -> Response:
        name = _cleaned(request.query_params.get("annotator", ""))
        return JSONResponse(desk.sheet(name), headers={"Cache-Control": "no-store"})

    def picture(request: Request) -> Response:
        found = desk.picture(request.path_params["id"], request.path_params["part"])
        return Response(found, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    async def answer(request: Request) -> Response:
        _check_origin(request.headers)
        said = bytearray()
        async for part in request.stream():
            said += part
            if len(said) > _MOST_BYTES:
                raise _Refusal(413, f"An answer has at most {_MOST_BYTES} bytes.")
        name = _cleaned(request.query_params.get("annotator", ""))
        await run_in_threadpool(desk.store, name, _record(bytes(said)))
        return JSONResponse({})

    def nothing(request: Request) -> Response:
        return Response(status_code=204)

    def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, _Refusal):
            return JSONResponse(error.body, error.status)
        return JSONResponse({"error": str(error)}, 503)

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/questions", sheet),
            Route("/pictures/{id}/{part}.png", picture),
            Route("/answers", answer, methods=["POST"]),
            Route("/favicon.ico", nothing),
        ],
        exception_handlers={_Refusal: refused, PatchlensError: refused},
    )
    strange = JSONResponse({"error": "This server is not called by that name. Use the address that it gave."}, 421)
    return _guarded(app, strange, frozenset(host.casefold() for host in hosts))


def serve(
    app: App,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = False,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until Ctrl-C, which comes out as KeyboardInterrupt. Answers are safe at any moment, however it ends.

    Args:
        app: From `annotation_app`.
        host: The address to listen at. By default only this machine is served. There are no passwords: whoever reaches
            another address can read the questions and answer under any name.
        port: The port to listen at; 0 for a free one.
        open_browser: Open the page.
        started: Called with the page's address once connections are taken.

    Raises:
        OptionError: The machine has no such address, or the port is taken.
        MissingExtra: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise _missing() from error
    with _listening(host, port) as listener:
        url = _url(host, listener.getsockname()[1])
        started(url)
        if open_browser:  # some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # to be started again at the same port
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError, UnicodeError) as error:
        listener.close()
        raise OptionError(
            f"Listening at {host}, port {port}, failed ({error}). Give an address of this machine, and a port from 1 "
            "to 65535 that nothing else uses, or 0 for a free one."
        ) from error
    return listener


def _missing() -> MissingExtra:
    return MissingExtra("Annotation by people needs an extra: pip install 'patchlens[annotate]'.")


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # all addresses is none to go to
    return f"http://[{reachable}]:{port}/" if ":" in reachable else f"http://{reachable}:{port}/"


class _Desk:
    """Questions on one side, a file for each person on the other; knows nothing of HTTP but its refusals."""

    def __init__(self, questions: Iterable[Question], folder: Path, seed: int) -> None:
        self._questions = {question.id: question for question in questions if question.candidates}
        self._folder = folder
        self._seed = seed
        self._lock = threading.Lock()
        if not self._questions:
            raise OptionError("There is no question with a candidate to annotate. Give questions made by ask_about.")
        for question in self._questions.values():
            if question.image is None or question.region is None or not isinstance(question.rubric, Verdicts):
                raise OptionError(
                    f"People cannot annotate a question of the rubric {question.rubric.name!r} here. Give questions "
                    "with an image and a region, of the rubrics patch or sentence."
                )

    def sheet(self, name: str) -> dict[str, JSON]:
        """All that a person is asked, in their order, and what they have answered."""
        path = self._path(name)
        with self._lock:
            label = _label(path, name)
            answers = read_answers(path)[1] if path.exists() else {}
        rubrics = {question.rubric.hash: question.rubric for question in self._questions.values()}
        return {
            "annotator": label,
            "rubrics": {hash: re.sub(r"\{\w+\}", "…", rubric.text).strip() for hash, rubric in rubrics.items()},
            "questions": [_asked(self._questions[id]) for id in self._order(name)],
            "answers": {id: _said(answer) for id, answer in answers.items() if id in self._questions},
        }

    def picture(self, id: str, part: str) -> bytes:
        """A question's picture as PNG: "marked" or "crop"."""
        if part not in _PARTS:
            raise _Refusal(404, f"A question has no picture {part!r}, only {' and '.join(_PARTS)}.")
        question = replace(self._question(id))  # a copy, for a question keeps the pictures that it has drawn
        file = BytesIO()
        (question.marked if part == "marked" else question.crop).save(file, "PNG")
        return file.getvalue()

    def store(self, name: str, record: Mapping[str, Any]) -> None:
        """Store an answer, unless it is there already. It is refused if the page did not know of the one before it."""
        question = self._question(record.get("question"))
        said, seconds = _checked(question, record)
        path = self._path(name)
        with self._lock, open_answers(path, {"judge": PEOPLE, "label": _label(path, name)}) as answers:
            before = _said(answers.get(question.id))
            if said == before:
                return
            if before != record.get("before"):
                raise _Refusal(409, "This question was answered in another tab meanwhile.", answer=before)
            content, undecided = (None, _SKIPPED) if said == _SKIPPED else (said, None)
            answers.add(Answer(question.id, content, undecided, seconds=seconds))

    def _order(self, name: str) -> list[str]:
        order = f"{self._seed} {_folded(name)}"
        return sorted(self._questions, key=lambda id: sha256(f"{order} {id}".encode()).digest())

    def _question(self, id: object) -> Question:
        question = self._questions.get(id) if isinstance(id, str) else None
        if question is None:
            raise _Refusal(404, "This server does not ask that question. Reload the page to see those that it asks.")
        return question

    def _path(self, name: str) -> Path:
        return self._folder / _file_name(name)


def _asked(question: Question) -> dict[str, JSON]:
    """All that the page is told of a question."""
    return {
        "id": question.id,
        "rubric": question.rubric.hash,
        "candidates": [list(_pieces(candidate)) for candidate in question.candidates],
    }


def _pieces(candidate: Shown) -> tuple[str, str, str]:
    """What stands before the word, the word, and what stands after it."""
    if candidate.sentence is None or candidate.span is None:
        return "", candidate.word, ""
    start, end = candidate.span
    return candidate.sentence[:start], candidate.sentence[start:end], candidate.sentence[end:]


def _said(answer: Answer | None) -> JSON:
    """An answer as the page has it: verdicts, "skipped", or None where there is none."""
    if answer is None:
        return None
    return _SKIPPED if answer.content is None else answer.content


def _record(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refusal(400, f"An answer must be JSON, and this is not ({error}). Reload the page.") from error
    if not isinstance(record, dict):
        raise _Refusal(400, "An answer must be a JSON object. Reload the page.")
    return record


def _checked(question: Question, record: Mapping[str, Any]) -> tuple[JSON, float]:
    """What was answered and how long it took."""
    said, seconds = record.get("answer"), record.get("seconds")
    verdicts = said if isinstance(said, list) else []
    if said != _SKIPPED and (
        len(verdicts) != len(question.candidates) or any(verdict not in VERDICTS for verdict in verdicts)
    ):
        raise _Refusal(
            400,
            f"An answer must have one of {', '.join(VERDICTS)} for each of the {len(question.candidates)} candidates, "
            f"or be {_SKIPPED!r}. Reload the page.",
        )
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        raise _Refusal(400, "An answer must say how many seconds it took. Reload the page.")
    return said, min(float(seconds), _LONGEST_SECONDS)


def _cleaned(name: str) -> str:
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name:
        raise _Refusal(400, "Every person needs a name. Type any; the same one continues where you stopped.")
    if len(name) > _LONGEST_NAME or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise _Refusal(400, f"A name has at most {_LONGEST_NAME} letters, and no control characters. Type another one.")
    return name


def _folded(name: str) -> str:
    """Equal for spellings that only differ in case or width: one person who types them on two days."""
    return unicodedata.normalize("NFKC", name).casefold()


def _file_name(name: str) -> str:
    """Safe on any file system, and different for different people."""
    folded = _folded(name)
    letters = unicodedata.normalize("NFKD", folded).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:40]
    if plain != folded:
        plain = f"{plain}-{sha256(folded.encode()).hexdigest()[:8]}".strip("-")
    return f"{plain}.jsonl"


def _label(path: Path, name: str) -> str:
    """The name as the person first spelled it."""
    if not path.exists():
        return name
    known = str(read_answers(path)[0].get("label", name))
    return known if _folded(known) == _folded(name) else name


def _check_origin(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another site makes a browser send; it can neither set this type nor hide where it is."""
    if urlsplit(headers.get("origin", "")).netloc != headers.get("host"):
        raise _Refusal(403, "Answers are taken from this server's own page alone.")
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refusal(415, "An answer must be sent as application/json.")


def _guarded(app: App, strange: App, hosts: frozenset[str]) -> App:
    """The app, for requests that call this machine by a name of its own; headers are added to all that it says.

    A page of another site can have its name point here (DNS rebinding) and would then pass for ours; it cannot make a
    browser call us by a number.
    """

    async def guarded(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)

        async def sealed(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        called = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        return await (app if _is_ours(called, hosts) else strange)(scope, receive, sealed)

    return guarded


def _is_ours(called: str, hosts: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{called}").hostname or ""
        if name in hosts or name == "localhost":
            return True
        ip_address(name)
    except ValueError:
        return False
    return True


def _page(title: str, annotator: str) -> tuple[str, str]:
    """The page, and the policy that it is to be served with: nothing runs in it but its own script."""
    style, script = _part("annotate.css"), _part("annotate.js")
    policy = (
        f"default-src 'none'; img-src 'self'; connect-src 'self'; style-src '{_integrity(style)}'; "
        f"script-src '{_integrity(script)}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    fill = {"title": escape(title), "annotator": escape(annotator), "style": style, "script": script}
    # One pass, so that nothing filled in is searched for further marks.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: fill[mark[1]], _part("annotate.html")), policy


def _part(name: str) -> str:
    return (files("patchlens.views") / "web" / name).read_text(encoding="utf-8")


def _integrity(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
