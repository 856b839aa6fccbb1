"""What an endpoint says in the place of an answer, in whichever form it says so.

Knows nothing of what is to be done about it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patchlens.evaluation.judges.wire import Reply

__all__ = ["Complaint", "find_complaint", "look", "parse", "short"]

_SAYS_ALL = (401, 402, 403, 404, 405, 429)
"""Statuses that need no words."""

_POLICY = re.compile(r"content[_ -]?(policy|filter|management)|moderation|safety system|ResponsibleAI", re.IGNORECASE)
_FORMAT = re.compile(r"response_?format|json_?schema|json_?object|json mode|structured output|guided", re.IGNORECASE)
_MODEL = re.compile(r"model_not_found|model\b.{0,80}not (exist|found|available)|not a valid model", re.IGNORECASE)
_KEY = re.compile(
    r"api[_ -]?key.{0,40}(not valid|invalid|missing)|(invalid|incorrect).{0,9}api[_ -]?key", re.IGNORECASE
)
_CREDIT = "insufficient_quota"


@dataclass(frozen=True)
class Complaint:
    """An error that an endpoint reports."""

    status: int
    """HTTP status, or the one that the error itself says to have."""
    message: str
    """What it says, on one line."""
    words: str = ""
    """All that it says, with the error's code and type."""
    parameter: str | None = None
    """Which part of the request it is about, if it says so."""

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"

    @property
    def of_request(self) -> bool:
        """Whether it is the request that the endpoint finds fault with."""
        return 400 <= self.status < 500

    @property
    def of_credit(self) -> bool:
        """Whether nobody pays for it any more."""
        return self.status == 402 or _CREDIT in self.words

    @property
    def of_key(self) -> bool:
        """Whether the key is missing or wrong, or may not do this."""
        return self.status in (401, 403) or (self.status == 400 and _KEY.search(self.words) is not None)

    @property
    def of_policy(self) -> bool:
        """Whether the service will not have this asked."""
        return self.of_request and _POLICY.search(self.words) is not None

    @property
    def of_model(self) -> bool:
        """Whether there is no such model, or nothing at all at the address."""
        return self.status in (404, 405) or (self.status == 400 and _MODEL.search(self.words) is not None)

    @property
    def of_format(self) -> bool:
        """Whether it cannot be made to reply in JSON this way."""
        return self.of_request and _FORMAT.search(self.words) is not None

    def names(self, setting: str) -> bool:
        """Whether it is about a part of the request."""
        return self.parameter == setting or any(f"{mark}{setting}{mark}" in self.words for mark in "'\"`")


def find_complaint(reply: Reply, data: Mapping[str, Any] | None) -> Complaint | None:
    """The error in a reply; None if there is none.

    Endpoints write {"error": {"message", "type", "code", "param"}}, {"error": "…"}, {"message": "…"} or {"detail": "…"
    or a list of complaints}; some do so with status 200.

    Args:
        reply: With a status.
        data: From `parse`.
    """
    status, data = reply.status or 0, data or {}
    error = data.get("error")
    if 200 <= status < 300:
        if not error:
            return None
        status = _status_in(error)
    parts = error if isinstance(error, dict) else {"message": error}
    said = parts.get("message") or data.get("message") or _listed(data.get("detail")) or look(reply.text)
    words = " ".join(str(part) for part in (said, *(parts.get(name) for name in ("code", "type", "param"))) if part)
    parameter = parts.get("param")
    return Complaint(status, short(str(said)), words, parameter if isinstance(parameter, str) else None)


def parse(reply: Reply) -> dict[str, Any] | None:
    """The JSON object of a reply; None for another body where the status says all.

    Raises:
        ValueError: It is no JSON object; the message says what is wrong with one that was begun.
        LookupError: It is something else altogether; the message says what it looks like.
    """
    problem: Exception | None = None
    try:
        data = json.loads(reply.text)
        if isinstance(data, dict):
            return data
    except (ValueError, RecursionError) as error:
        problem = error
    status = reply.status or 0
    if 300 <= status < 400 or status in _SAYS_ALL or (status >= 500 and not reply.text.strip()):
        return None
    if reply.text.lstrip().startswith("{"):
        raise ValueError(f"the endpoint's JSON is cut short or broken ({problem})") from problem
    raise LookupError(f"what came was no API's reply but {look(reply.text)} (status {status})") from problem


def look(text: str) -> str:
    """What a body that is no JSON looks like, in a few words."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    if title:
        return f"a web page called {short(title[1])!r}"
    if re.match(r"\s*<(!doctype|html)", text, re.IGNORECASE):
        return "a web page"
    return repr(short(text)) if text.strip() else "nothing"


def short(text: str) -> str:
    """A text on one line, and not too long for a message."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def _status_in(error: Any) -> int:
    """The status that an error says to have though it came with 200; 500 if it says none."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch(r"[45]\d\d", code) else 500


def _listed(detail: Any) -> str:
    """A "detail" without the request, which some endpoints repeat in it."""
    if isinstance(detail, list):
        return "; ".join(f"{each.get('msg')} {each.get('loc')}" for each in detail if isinstance(each, dict))
    return str(detail or "")
