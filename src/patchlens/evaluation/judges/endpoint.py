"""A language model behind any OpenAI-compatible endpoint as a judge: hosted services, vLLM, Ollama alike.

Whatever the endpoint does, a question ends in the answer that was given, in an undecided one that says why, or, where
going on would be pointless, in a JudgeError. Knows nothing of budgets and files, and the key is written nowhere.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from patchlens.errors import JudgeError, OptionError
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.judges.complaint import Complaint, find_complaint, parse
from patchlens.evaluation.judges.talk import LAYOUT, Broken, Picture, Talk, Trouble, shown, tokens, told
from patchlens.evaluation.judges.wire import Pace, Reply, Wire, find_key, without_query
from patchlens.evaluation.question import Question
from patchlens.evaluation.rubric import RUBRICS
from patchlens.evaluation.verdict import Answer
from patchlens.provenance import JSON

__all__ = ["EndpointJudge"]

_FORCED = ("json_schema", "json_object", None)
"""How an endpoint is made to reply in JSON; one that refuses a way is asked in the next from then on."""
_OURS = ("model", "messages", "response_format", "max_tokens", "max_completion_tokens", "stream", "n")
"""What the judge puts into each request, so that options cannot."""

_FIRST_PAUSE = 1.0  # seconds; doubled after each further failure
_LONGEST_PAUSE = 120.0  # seconds, whatever the endpoint asks for
_PATIENCE = 900.0  # seconds that one question waits for rate limits, all in all
_IN_A_ROW = 5  # questions that fail before the endpoint counts as down
_PASSING = (408, 409, 425)  # faults of a request that it may not have the next time

_OUTPUT_GUESS = 250
"""Tokens of a reply before any was measured: a few sentences of reasoning, and the verdicts."""


class EndpointJudge(Judge):
    """Sends the rubric with the marked image and the crop, asks for JSON of the rubric's schema, and reads the reply.

    Every request carries an Idempotency-Key that depends on its content alone: a gateway that honors it neither
    answers nor bills twice what was asked by a process that was killed before it heard.

    Args:
        url: Base address, usually up to and with "/v1"; "/chat/completions" is added.
        model: What the service calls the model.
        key: The key; None to take it from the environment.
        key_env: Environment variable with the key; services on one's own machine want none.
        label: What rows and tables call the judge; None for the model's name.
        temperature: Of sampling; None leaves it to the service, for models that refuse it.
        max_tokens: Of a reply, hidden reasoning among them; one that is cut off is unreadable.
        reasoning_effort: Sent if given: "low", "medium" or what the model knows.
        options: What else is put into each request.
        timeout: Seconds to wait for a reply.
        tries: Times that a question is sent before it is left undecided; waiting for a rate limit is none of them.
        workers: Questions under way at once.
        requests_per_minute: Limit of the service, where it should not be found out by running into it.
        input_price: Of a million tokens sent.
        output_price: Of a million tokens that come back.
        image_tokens: Tokens that a picture is counted as until some were measured.
        sleep: Waits so many seconds; tests give another one.
        clock: Seconds from any start; tests give another one.

    Raises:
        OptionError: The URL is none, or a value is out of its range.
        MissingExtra: The library that speaks HTTP is not installed.
    """

    name: ClassVar[str] = "endpoint"
    rubrics: ClassVar[tuple[str, ...]] = tuple(RUBRICS)

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        label: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 2048,
        reasoning_effort: str | None = None,
        options: Mapping[str, JSON] | None = None,
        timeout: float = 120.0,
        tries: int = 3,
        workers: int = 8,
        requests_per_minute: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        image_tokens: int = 400,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _refuse_less_than(1, max_tokens=max_tokens, tries=tries, workers=workers)
        _refuse_less_than(0.001, timeout=timeout, requests_per_minute=requests_per_minute)
        _refuse_less_than(0, input_price=input_price, output_price=output_price, image_tokens=image_tokens)
        if taken := [name for name in options or {} if name in _OURS]:
            raise OptionError(f"Options of an endpoint: {taken[0]!r} is set by the judge itself. Leave it out.")
        if (input_price is None) != (output_price is None):
            raise OptionError(
                "One of an endpoint's two prices was given. Give that of input and of output, or neither."
            )
        self.model = model
        self.workers = workers
        self._label = model if label is None else label
        self._max_tokens = max_tokens
        self._settings: dict[str, JSON] = {
            **({} if temperature is None else {"temperature": temperature}),
            **({} if reasoning_effort is None else {"reasoning_effort": reasoning_effort}),
            **(options or {}),
        }
        self._tries = tries
        self._requests_per_minute = requests_per_minute
        self._prices = None if input_price is None or output_price is None else (input_price, output_price)
        self._image_tokens = image_tokens
        self._sleep = sleep
        self._pace = Pace(requests_per_minute, sleep, clock)
        self._wire = Wire(url, find_key(key, key_env), timeout, workers)
        self._lock = threading.Lock()
        self._dialect = _Dialect()
        self._speaks = False  # whether anything that came from there was of an API
        self._failures = 0  # questions in a row

    @property
    def label(self) -> str:
        """The model's name, unless another was given."""
        return self._label

    @property
    def identity(self) -> dict[str, JSON]:
        """What goes into each request, and where it goes."""
        return {
            "judge": self.name,
            "url": self._wire.shown,
            "model": self.model,
            "max_tokens": self._max_tokens,
            "settings": dict(self._settings),
            "layout": LAYOUT,
        }

    def ask(self, question: Question) -> Answer:
        """Ask until there is an answer, at most `tries` times.

        Raises:
            JudgeError: The key, the model or a setting is refused, the URL is no endpoint's, or the endpoint has failed
                for several questions in a row.
        """
        talk = Talk(question, self._image_tokens)
        tried, limited, waited = 0, 0, 0.0
        while True:
            self._pace.wait()
            try:
                content = self._once(talk)
            except _Retold:
                continue
            except _Limited as limit:
                pause = _pause(limited, limit.after)
                limited, waited = limited + 1, waited + pause
                if waited > _PATIENCE:
                    why = f"its rate limit was in the way for {waited:.0f} s ({limit})"
                    return self._failed(talk, Broken("failed", why))
                self._pace.hold(pause)
            except Trouble as trouble:
                tried += 1
                if trouble.final or tried == self._tries:
                    return self._failed(talk, trouble)
                if isinstance(trouble, Broken):
                    self._sleep(_pause(tried - 1, trouble.after))
            else:
                self._failures = 0
                return talk.answer(content)

    def estimate(self, questions: Sequence[Question], answered: Sequence[Answer] = ()) -> Estimate:
        """Tokens, time and cost from the mean of earlier answers; before the first by guess, and without a time."""
        number = len(questions)
        if measured := [answer for answer in answered if answer.input_tokens]:
            sent = number * _mean([answer.input_tokens for answer in measured])
            back = number * _mean([answer.output_tokens for answer in measured])
            each = _mean([answer.seconds for answer in measured]) / self.workers
            seconds: float | None = number * max(each, 60 / (self._requests_per_minute or math.inf))
            basis = f"the mean of {len(measured)} answers"
        else:
            sent = sum(tokens(told(question)) + self._image_tokens * shown(question) for question in questions)
            back = number * _OUTPUT_GUESS
            seconds = None if questions else 0.0
            basis = f"a guess: 4 characters a token, {self._image_tokens} tokens a picture, {_OUTPUT_GUESS} a reply"
        cost = None if self._prices is None else self._cost(sent, back)
        return Estimate(number, len(answered), math.ceil(sent), math.ceil(back), seconds, cost, basis)

    def cost(self, answer: Answer) -> float:
        """Of its tokens in all tries; 0 where no price is known."""
        return self._cost(answer.input_tokens, answer.output_tokens)

    def _cost(self, sent: int | float, back: int | float) -> float:
        input_price, output_price = self._prices or (0.0, 0.0)
        return (sent * input_price + back * output_price) / 1_000_000

    @property
    def _judging(self) -> str:
        return f"Judging with {self.label} at {self._wire.shown}"

    def _once(self, talk: Talk) -> JSON:
        """Send a question once and read what comes back.

        Raises:
            _Retold: The endpoint does not know something in the request, which is said otherwise from now on.
            _Limited: It has had too many requests.
            Trouble: There is no answer.
            JudgeError: There will be none to any question.
        """
        dialect = self._dialect
        request: dict[str, JSON] = {
            "model": self.model,
            "messages": [{"role": "user", "content": talk.content(Picture.record)}],
            dialect.limit: self._max_tokens,
            **_response_format(dialect.forced, talk.question),
            **self._settings,
        }
        sent: dict[str, JSON] = {**request, "messages": [{"role": "user", "content": talk.content(Picture.url)}]}
        reply = self._wire.post(sent, talk.idempotency_key(request))
        talk.keep(request, reply)
        if reply.error is not None:
            nothing = reply.status is None and not reply.slow
            raise Broken("timeout" if reply.slow else "failed", reply.error, stranger=nothing)
        try:
            data = parse(reply)
        except (ValueError, LookupError) as error:
            raise Broken("failed", str(error), stranger=isinstance(error, LookupError)) from error
        self._speaks = self._speaks or data is not None
        if (complaint := find_complaint(reply, data)) is not None:
            raise self._consequence(complaint, reply, dialect)
        return talk.read(data or {}, self._max_tokens)

    def _consequence(self, complaint: Complaint, reply: Reply, dialect: "_Dialect") -> Exception:
        """What is to be done about an error that the endpoint reports."""
        if complaint.of_credit:
            return JudgeError(f"{self._judging}: the account has no credit left ({complaint}). Add some and go on.")
        if complaint.status == 429:
            return _Limited(str(complaint), reply.after)
        if complaint.of_policy:
            return Trouble("refused", f"the service would not let it be answered ({complaint})", final=True)
        if complaint.of_key:
            return JudgeError(
                f"{self._judging}: the key is missing, wrong, or may not use this model ({complaint}). "
                f"{self._wire.key.origin} Give one that is valid there."
            )
        if (other := dialect.without(complaint)) is not None:
            with self._lock:
                self._dialect = self._dialect.joined(other)
            return _Retold()
        if complaint.of_model:
            return JudgeError(
                f"{self._judging}: {complaint}. Either it knows no model {self.model!r}, or it is elsewhere: the URL "
                "usually ends in /v1. Check both."
            )
        if complaint.status in (400, 422) and (unwanted := [name for name in self._settings if complaint.names(name)]):
            return JudgeError(
                f"{self._judging}: the model does not take {unwanted[0]!r} as it is sent ({complaint}). Change it, or "
                "leave it out."
            )
        if 300 <= complaint.status < 400:
            return JudgeError(
                f"{self._judging}: it sends one on to {without_query(reply.headers.get('location', 'nowhere'))}, and "
                "neither key nor pictures are sent on. If you trust that place, give its address as the URL."
            )
        final = complaint.of_request and complaint.status not in _PASSING
        return Broken("failed", f"the endpoint reported an error ({complaint})", after=reply.after, final=final)

    def _failed(self, talk: Talk, trouble: Trouble) -> Answer:
        """The undecided answer.

        Raises:
            JudgeError: It is the endpoint's fault, and it has never answered, or failed for several questions in a row.
        """
        if not isinstance(trouble, Broken):
            self._failures = 0
            return talk.undecided(trouble)
        if trouble.stranger and not self._speaks:
            raise JudgeError(
                f"{self._judging}: {trouble}, each of {len(talk.exchanges)} times. No endpoint has answered there yet. "
                "Check that it runs, and the URL, which usually ends in /v1."
            )
        with self._lock:
            self._failures += 1
            failures = self._failures
        if failures >= _IN_A_ROW:
            raise JudgeError(
                f"{self._judging}: {failures} questions in a row have failed; for the last, {trouble}. Look after the "
                "endpoint and run it again, asking those again that were left undecided."
            )
        return talk.undecided(trouble)


class _Limited(Exception):
    """The endpoint has had too many requests."""

    def __init__(self, why: str, after: float | None) -> None:
        super().__init__(why)
        self.after = after


class _Retold(Exception):
    """The question is to be put in another dialect."""


@dataclass(frozen=True)
class _Dialect:
    """What endpoints call things, as far as they differ; learned from what they refuse."""

    way: int = 0
    """Which of `_FORCED` makes them reply in JSON."""
    newer: bool = False
    """Whether the limit of a reply has its newer name."""

    @property
    def forced(self) -> str | None:
        return _FORCED[self.way]

    @property
    def limit(self) -> str:
        return "max_completion_tokens" if self.newer else "max_tokens"

    def without(self, complaint: Complaint) -> "_Dialect | None":
        """The dialect without what is complained about; None if that is something else."""
        if complaint.of_request and not self.newer and "max_completion_tokens" in complaint.words:
            return replace(self, newer=True)
        if complaint.of_format and self.forced is not None:
            return replace(self, way=self.way + 1)
        return None

    def joined(self, other: "_Dialect") -> "_Dialect":
        """What two threads have learned."""
        return _Dialect(max(self.way, other.way), self.newer or other.newer)


def _response_format(forced: str | None, question: Question) -> dict[str, JSON]:
    match forced:
        case "json_schema":
            schema: JSON = {"name": "answer", "strict": True, "schema": question.rubric.schema(question)}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "json_object":
            return {"response_format": {"type": "json_object"}}
    return {}


def _pause(number: int, asked: float | None) -> float:
    """Seconds until the next try: what the endpoint asks for, or more after each failure; never the same twice."""
    if asked is not None:
        return min(asked, _LONGEST_PAUSE) + random.uniform(0.1, 1.0)
    return min(_FIRST_PAUSE * 2.0 ** min(number, 10), _LONGEST_PAUSE) * random.uniform(0.5, 1.5)


def _mean(numbers: Sequence[int] | Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _refuse_less_than(least: int | float, **values: int | float | None) -> None:
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise OptionError(f"The {name} of an endpoint is {value}. Expected {least:g} or more.")
