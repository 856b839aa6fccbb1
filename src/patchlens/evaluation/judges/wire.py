"""Requests to an endpoint over HTTP: one client, one key and one pace for all threads.

Whatever happens on the way comes back as a `Reply`. Knows nothing of questions, nor of what a reply means.
"""

import json
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from patchlens.errors import MissingExtra, OptionError
from patchlens.provenance import JSON

__all__ = ["Key", "Pace", "Reply", "Wire", "find_key", "without_query"]

_CONNECT = 10.0  # seconds
_MOST_READ = 4_000_000  # bytes of a reply
_LEAST_SECRET = 8  # characters: replacing a shorter "key" would garble replies and hide nothing
_KEPT = re.compile(r"content-type|date|location|retry-after|(x-)?request-id|cf-ray|x-ratelimit-.*")


@dataclass(frozen=True)
class Key:
    """What an endpoint knows its customers by."""

    value: str | None = field(repr=False)
    """The key; None for none."""
    origin: str
    """Where it came from, in a sentence."""

    def hide(self, text: str) -> str:
        """A text without the key: services repeat it in their complaints."""
        if self.value is None or len(self.value) < _LEAST_SECRET:
            return text
        return text.replace(self.value, "<key>")


def find_key(key: str | None, variable: str) -> Key:
    """The key that was given, or else that of the environment, or none.

    Raises:
        OptionError: It holds characters that no key has.
    """
    if key is not None:
        found = Key(key.strip(), "The key was given in the call.")
    elif value := os.environ.get(variable, "").strip():
        found = Key(value, f"The key came from the environment variable {variable}.")
    else:
        found = Key(None, f"No key was given: the environment variable {variable} is not set.")
    if found.value is not None and not re.fullmatch(r"[\x21-\x7e]+", found.value):
        raise OptionError(
            f"{found.origin} It is empty, or holds blanks or characters beyond ASCII, which no key has. Copy it again."
        )
    return found


@dataclass(frozen=True)
class Reply:
    """What came of one request."""

    status: int | None
    """HTTP status; None where there was no reply at all."""
    headers: Mapping[str, str]
    """Those that say something about the exchange, in lower case."""
    text: str
    """The body, as far as it came."""
    seconds: float
    """Until all of it was there."""
    error: str | None = None
    """What went wrong on the way, as a clause; None when the reply is whole."""
    slow: bool = False
    """Whether it went wrong for want of time."""

    @property
    def after(self) -> float | None:
        """Seconds that the endpoint asks to wait, which it says as a number or as a date; None if it does not."""
        asked = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d*)?", asked):
            return float(asked)
        try:
            until = parsedate_to_datetime(asked)
        except (ValueError, OverflowError):
            return None
        now = datetime.now(UTC if until.tzinfo else None)
        return max(0.0, (until - now).total_seconds())


class Wire:
    """Posts requests to one address, each with the key.

    Redirections are not followed: the key and the pictures go where they were meant to go, or nowhere.

    Args:
        url: Base address of the service; "/chat/completions" is added.
        key: Sent with each request, and taken out of whatever comes back.
        timeout: Seconds until a reply must be there.
        connections: Kept open at most.

    Raises:
        OptionError: The URL is none, or has a password in it.
        MissingExtra: The library that speaks HTTP is not installed.
    """

    def __init__(self, url: str, key: Key, timeout: float, connections: int) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtra("Asking an endpoint needs an extra: pip install 'patchlens[judges]'.") from error
        base = _split(url)
        self.shown = without_query(base.geturl())
        """The base address, for messages and records."""
        self.key = key
        self._http = httpx2
        self._timeout = timeout
        self._address = base._replace(path=f"{base.path}/chat/completions").geturl()
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(timeout, connect=min(_CONNECT, timeout), pool=None),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={} if key.value is None else {"Authorization": f"Bearer {key.value}"},
            follow_redirects=False,
        )
        weakref.finalize(self, self._client.close)

    def post(self, body: Mapping[str, JSON], idempotency_key: str) -> Reply:
        """Send one request and wait for all of its reply."""
        started = time.monotonic()
        status: int | None = None
        headers: dict[str, str] = {}
        data = bytearray()
        error: str | None = None
        slow = False
        sent = {"Content-Type": "application/json", "User-Agent": "patchlens", "Idempotency-Key": idempotency_key}
        try:
            with self._client.stream("POST", self._address, content=json.dumps(body), headers=sent) as response:
                status = response.status_code
                headers = {name: value for name, value in response.headers.items() if _KEPT.fullmatch(name)}
                for part in response.iter_bytes():
                    data += part
                    if len(data) > _MOST_READ:
                        error = f"the reply did not end after {_MOST_READ} bytes"
                        break
                    if time.monotonic() - started > self._timeout:  # each part came in time, all of them do not
                        raise self._http.ReadTimeout("the reply goes on and on")
        except self._http.TimeoutException as problem:
            slow = True
            error = f"no whole reply came within {self._timeout:g} s ({type(problem).__name__})"
            if isinstance(problem, self._http.ConnectTimeout):
                error = f"no connection was made within {min(_CONNECT, self._timeout):g} s"
        except self._http.RequestError as problem:
            error = f"the exchange broke off ({problem or type(problem).__name__})"
        headers = {name: self.key.hide(value) for name, value in headers.items()}
        text = self.key.hide(data.decode("utf-8", "replace"))
        return Reply(status, headers, text, time.monotonic() - started, error, slow)


class Pace:
    """When requests may be sent, for all threads: so many a minute, and none while the endpoint asks to wait.

    Args:
        per_minute: Requests at most; None for no limit.
        sleep: Waits so many seconds.
        clock: Seconds from any start.
    """

    def __init__(self, per_minute: float | None, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._interval = 0.0 if per_minute is None else 60 / per_minute
        self._sleep = sleep
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -math.inf
        self._held = -math.inf

    def wait(self) -> None:
        """Return when the next request may be sent."""
        with self._lock:
            turn = max(self._clock(), self._next, self._held)
            self._next = turn + self._interval
        while (rest := max(turn, self._held) - self._clock()) > 0:
            self._sleep(rest)

    def hold(self, seconds: float) -> None:
        """Let no request be sent for so long."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)


def without_query(url: str) -> str:
    """A URL without what may be secret in it."""
    return re.sub(r"(?<=//)[^/]*@", "", re.split(r"[?#]", url, maxsplit=1)[0])


def _split(url: str) -> SplitResult:
    """The base address in its parts."""
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and parts.username is None
    except ValueError:
        good = False
    if not good:
        raise OptionError(
            f"{without_query(url)!r} is no address of an endpoint. Expected one such as https://host/v1 or "
            "http://localhost:8000/v1, without name and password: a key is taken from the environment."
        )
    return parts._replace(path=parts.path.rstrip("/").removesuffix("/chat/completions"), fragment="")
