"""All that is said between a judge and an endpoint about one question: what is sent, what is kept, what a reply says.

Knows nothing of tries, nor of how it is sent.
"""

import base64
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from patchlens.evaluation.judges.complaint import short
from patchlens.evaluation.judges.wire import Reply
from patchlens.evaluation.question import Question
from patchlens.evaluation.rubric import Unreadable
from patchlens.evaluation.verdict import Answer
from patchlens.provenance import JSON

__all__ = ["LAYOUT", "Broken", "Picture", "Talk", "Trouble", "shown", "tokens", "told"]

LAYOUT = 1
"""Version of how a question becomes a message: another one may get other answers."""

_FORM = "Answer with one JSON object and nothing else, in this form:"
_MOST_KEPT = 100_000  # characters of a reply


class Trouble(Exception):
    """Why there is no answer to a question, as a clause; the endpoint itself works."""

    def __init__(self, undecided: str, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.undecided = undecided
        """What the answer will be if it stays so."""
        self.final = final
        """Whether asking again is pointless."""


class Broken(Trouble):
    """The endpoint does not work, at least for this question."""

    def __init__(
        self, undecided: str, why: str, *, after: float | None = None, final: bool = False, stranger: bool = False
    ) -> None:
        super().__init__(undecided, why, final=final)
        self.after = after
        """Seconds that the endpoint asks to wait."""
        self.stranger = stranger
        """Whether nothing came, or nothing that an API would say."""


@dataclass(frozen=True)
class Picture:
    """A picture as it is sent, and what is kept of it."""

    png: bytes
    """The file."""
    size: tuple[int, int]
    """(height, width) in pixels."""

    def url(self) -> dict[str, JSON]:
        """The picture itself."""
        return {"url": f"data:image/png;base64,{base64.b64encode(self.png).decode()}"}

    def record(self) -> dict[str, JSON]:
        """Enough to know it by."""
        return {"sha256": hashlib.sha256(self.png).hexdigest(), "size": list(self.size)}


class Talk:
    """One question's exchanges.

    Args:
        question: What is asked.
        picture_tokens: What a picture is counted as where the endpoint counts nothing.
    """

    def __init__(self, question: Question, picture_tokens: int) -> None:
        self.question = question
        self.exchanges: list[dict[str, JSON]] = []
        self._pictures = _pictures(question)
        self._picture_tokens = picture_tokens
        self._replies = 0  # that the model gave
        self._input_tokens = 0
        self._output_tokens = 0
        self._started = 0.0
        self._ended = 0.0

    def content(self, show: Callable[[Picture], JSON]) -> JSON:
        """The message: the first picture, the text, the second picture, as in arXiv 2602.00462, App. C."""
        words = told(self.question)
        if not self._pictures:
            return words
        first, *others = [{"type": "image_url", "image_url": show(picture)} for picture in self._pictures]
        return [first, {"type": "text", "text": words}, *others]

    def idempotency_key(self, request: Mapping[str, JSON]) -> str:
        """The same for the same request, unless its reply was read and is wanted anew."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:24]
        return f"{self.question.id}-{digest}-{self._replies}"

    def keep(self, request: Mapping[str, JSON], reply: Reply) -> None:
        """Take down an exchange."""
        self._ended = time.monotonic()
        if not self.exchanges:
            self._started = self._ended - reply.seconds
        more = len(reply.text) - _MOST_KEPT
        self.exchanges.append(
            {
                "request": dict(request),
                "status": reply.status,
                "headers": dict(reply.headers),
                "body": reply.text if more <= 0 else f"{reply.text[:_MOST_KEPT]} … ({more} more characters)",
                "seconds": reply.seconds,
                "error": reply.error,
            }
        )

    def read(self, data: Mapping[str, Any], max_tokens: int) -> JSON:
        """What a reply without an error says.

        Raises:
            Trouble: It is no answer.
        """
        match data.get("choices"):
            case [{"message": {} as message} as choice, *_]:
                pass
            case _:
                raise Broken("failed", "the endpoint's reply has no choice with a message")
        self._replies += 1
        said = _text(message.get("content"))
        self._count(data.get("usage"), said)
        if message.get("refusal"):
            raise Trouble("refused", f"the model refused ({short(str(message['refusal']))})", final=True)
        match choice.get("finish_reason"):
            case "content_filter":
                raise Trouble("refused", "the service filtered the reply out", final=True)
            case "length":
                why = f"the reply was cut off after {max_tokens} tokens; raise max_tokens"
                raise Trouble("unreadable", why, final=True)
        try:
            return self.question.rubric.read(self.question, said)
        except Unreadable as error:
            raise Trouble("unreadable", f"the reply has {error}") from error

    def answer(self, content: JSON) -> Answer:
        """The decided answer."""
        return self._made(content)

    def undecided(self, trouble: Trouble) -> Answer:
        """The undecided answer."""
        why = str(trouble)
        return self._made(None, trouble.undecided, f"{why[:1].upper()}{why[1:]}.")

    def _count(self, usage: Any, said: str) -> None:
        match usage:
            case {"prompt_tokens": int() as sent, "completion_tokens": int() as back}:
                estimated = False
            case _:
                estimated = True
                sent = tokens(told(self.question)) + len(self._pictures) * self._picture_tokens
                back = tokens(said)
        self._input_tokens += sent
        self._output_tokens += back
        self.exchanges[-1]["tokens"] = {"input": sent, "output": back, "estimated": estimated}

    def _made(self, content: JSON, undecided: str | None = None, detail: str = "") -> Answer:
        return Answer(
            self.question.id,
            content,
            undecided,
            detail,
            tuple(self.exchanges),
            self._input_tokens,
            self._output_tokens,
            self._ended - self._started,
        )


def shown(question: Question) -> int:
    """How many pictures a question shows."""
    if question.image is None:
        return 0
    return 2 if question.region is not None and question.rubric.shows_region else 1


def told(question: Question) -> str:
    """The rubric and the form of the reply, which models that are not held to a schema have to know."""
    return f"{question.text}\n\n{_FORM}\n{question.rubric.example(question)}"


def tokens(text: str) -> int:
    """About as many as a text has."""
    return math.ceil(len(text) / 4)


def _pictures(question: Question) -> list[Picture]:
    if not shown(question):
        return []
    if shown(question) == 1:
        return [_picture(replace(question, region=None).marked)]
    copy = replace(question)  # a question keeps what it has drawn, and there are thousands of them
    return [_picture(copy.marked), _picture(copy.crop)]


def _picture(image: Image.Image) -> Picture:
    file = io.BytesIO()
    image.save(file, "PNG")
    return Picture(file.getvalue(), (image.height, image.width))


def _text(content: Any) -> str:
    """A message's text; some endpoints give it in parts, some give none."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
