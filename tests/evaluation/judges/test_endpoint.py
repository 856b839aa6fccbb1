import io
import json
import logging
import re
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.misbehaving import (
    Behavior,
    Endpoint,
    Received,
    Response,
    Time,
    after,
    answers,
    as_json,
    error,
    many,
    question,
    says,
    scene,
    text,
    verdicts_of,
)
from patchlens.errors import JudgeError, MissingExtra, OptionError
from patchlens.evaluation.answers import open_answers, read_answers
from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.judges.endpoint import EndpointJudge
from patchlens.evaluation.question import Question, Shown
from patchlens.evaluation.rubric import RUBRICS, find_rubric
from patchlens.evaluation.verdict import Answer

KEY = "sk-this-is-secret-0123456789"
PAGE = "<!DOCTYPE html><html><head><title>Welcome to  nginx!</title></head><body>hello</body></html>"

Start = Callable[..., Endpoint]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that end with the test."""
    running = []

    def run(*behaviors: Behavior, **options: bool) -> Endpoint:
        running.append(Endpoint(*behaviors, **options).__enter__())
        return running[-1]

    yield run
    for endpoint in running:
        endpoint.stop()


def judge_of(endpoint: Endpoint | str, **options: Any) -> EndpointJudge:
    now = Time()
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    return EndpointJudge(url, "m", **{"sleep": now.sleep, "clock": now.clock, **options})


def right(asked: Question) -> list[str]:
    return verdicts_of(asked.text)


# What is asked


def test_a_question_is_answered(start: Start) -> None:
    asked = question()
    answer = judge_of(start()).ask(asked)
    assert answer.content == right(asked)
    assert (answer.question, answer.undecided, answer.detail) == (asked.id, None, "")
    assert (answer.input_tokens, answer.output_tokens) == (1000, 50)
    assert answer.seconds > 0
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


def test_what_is_sent(start: Start) -> None:
    endpoint, asked = start(), question()
    judge = judge_of(endpoint, key=KEY, max_tokens=77, reasoning_effort="low", options={"seed": 5})
    judge.ask(asked)
    (received,) = endpoint.received
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    body = dict(received.body)
    (message,) = body.pop("messages")
    assert message["role"] == "user"
    assert body.pop("response_format") == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": asked.rubric.schema(asked)},
    }
    assert body == {"model": "m", "max_tokens": 77, "temperature": 0.0, "reasoning_effort": "low", "seed": 5}
    image, words, crop = message["content"]  # the order of the paper
    assert words["text"].startswith(asked.text)
    assert '"verdicts": {"1": "concrete" or "abstract" or "global" or "unrelated", "2"' in words["text"]
    for part, drawn in ((image, asked.marked), (crop, asked.crop)):
        kind, data = part["image_url"]["url"].split(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(b64decode(data))).tobytes() == drawn.tobytes()


def test_rubrics_on_the_whole_image_and_on_text_alone(start: Start) -> None:
    endpoint = start(says('{"mark": 7}'), says('{"claims": ["A dog is there."]}'))
    judge = judge_of(endpoint)
    marked = Question(find_rubric("mark"), scene(), question().region, texts={"description": "A square."})
    assert judge.ask(marked).content == 7
    (picture, words) = endpoint.received[0].body["messages"][0]["content"]
    sent = Image.open(io.BytesIO(b64decode(picture["image_url"]["url"].split(",")[1])))
    assert sent.tobytes() == replace(marked, region=None).marked.tobytes()  # without a frame
    assert "A square." in words["text"]
    claims = Question(find_rubric("claims"), texts={"description": "A dog."})
    assert judge.ask(claims).content == ["A dog is there."]
    assert isinstance(endpoint.received[1].body["messages"][0]["content"], str)


def test_the_temperature_is_left_out_when_asked(start: Start) -> None:
    endpoint = start()
    judge_of(endpoint, temperature=None).ask(question())
    assert "temperature" not in endpoint.received[0].body


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_url_may_end_in_several_ways(start: Start, ending: str) -> None:
    endpoint = start()
    judge = judge_of(endpoint.url + ending)
    judge.ask(question())
    assert endpoint.received[0].path == "/v1/chat/completions"
    assert judge.identity["url"] == endpoint.url


def test_a_query_is_sent_and_not_written_down(start: Start) -> None:
    endpoint = start()
    judge = judge_of(f"{endpoint.url}?api-version=3&secret=x")
    answer = judge.ask(question())
    assert endpoint.received[0].path == "/v1/chat/completions?api-version=3&secret=x"
    assert "secret" not in json.dumps([judge.identity, answer.to_json()])


def test_the_identity_is_what_answers_depend_on(start: Start) -> None:
    def identity(**options: Any) -> dict[str, Any]:
        return judge_of("http://host/v1", **options).identity

    same = ({"workers": 2}, {"label": "x"}, {"key": KEY}, {"tries": 9}, {"timeout": 3.0}, {"requests_per_minute": 5.0})
    other = ({"temperature": 0.5}, {"temperature": None}, {"max_tokens": 5}, {"options": {"seed": 1}})
    assert [identity(**options) == identity() for options in same] == [True] * len(same)
    assert [identity(**options) == identity() for options in other] == [False] * len(other)
    assert judge_of("http://host/v1").label == "m"
    assert judge_of("http://host/v1", label="mine").label == "mine"


def test_equal_requests_have_equal_idempotency_keys(start: Start) -> None:
    endpoint = start()
    for options in ({}, {}, {"temperature": 0.5}):
        judge_of(endpoint, **options).ask(question())
    judge_of(endpoint).ask(question(("other",)))
    first, again, warmer, other = (received.headers["idempotency-key"] for received in endpoint.received)
    assert first == again
    assert len({first, warmer, other}) == 3
    assert endpoint.received[0].question == question().id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "host/v1"}, "no address of an endpoint"),
        ({"url": "ftp://host/v1"}, "no address of an endpoint"),
        ({"url": "http://"}, "no address of an endpoint"),
        ({"url": "http://[host/v1"}, "no address of an endpoint"),
        ({"url": "http://host:port/v1"}, "no address of an endpoint"),
        ({"url": "https://me:hush@host/v1"}, "'https://host/v1' is no address.*without name and password"),
        ({"tries": 0}, "tries of an endpoint is 0"),
        ({"workers": 0}, "workers"),
        ({"timeout": 0.0}, "timeout"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute"),
        ({"input_price": -1.0, "output_price": 1.0}, "input_price"),
        ({"input_price": 1.0}, "One of an endpoint's two prices"),
        ({"options": {"messages": []}}, "'messages' is set by the judge"),
        ({"key": "sk secret"}, "holds blanks"),
        ({"key": ""}, "is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as raised:
        EndpointJudge(**{"url": "http://host/v1", "model": "m", **options})
    assert "hush" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_the_library_that_speaks_http_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtra, match=r"pip install 'patchlens\[judges\]'"):
        judge_of("http://host/v1")


# What goes wrong with one question


def undecided(answer: Answer) -> tuple[str | None, str]:
    assert answer.content is None
    return answer.undecided, answer.detail


CUT = '{"choices": [{"message": {"content": "{\\"reas'


@pytest.mark.parametrize(
    ("behavior", "reason", "detail", "times"),
    [
        (says("I would say that the first word is concrete."), "unreadable", "The reply has no JSON object", 3),
        (says('{"verdicts": {"1": "concrete", "2": "maybe", "3": "global"}}'), "unreadable", "'maybe'", 3),
        (says('{"verdicts": {"1": "concrete"}}'), "unreadable", "JSON object of another form", 3),
        (says(None), "unreadable", "no JSON object", 3),
        (says(""), "unreadable", "no JSON object", 3),
        (says('{"reasoning": "it is', finish="length"), "unreadable", "cut off after 2048 tokens", 1),
        (says(None, refusal="I cannot help with that."), "refused", r"refused \(I cannot help with that\.\)", 1),
        (says("", finish="content_filter"), "refused", "filtered", 1),
        (error("violates our content policy", 400), "refused", "400: violates our content policy", 1),
        (error("nope", 400, code="content_policy_violation"), "refused", "400: nope", 1),
        (error("Your input requires moderation", 403), "refused", "403", 1),
        (error("The server is overloaded", 503), "failed", "503: The server is overloaded", 3),
        (as_json({"error": "runner ended"}, 500), "failed", "500: runner ended", 3),
        (as_json({"detail": "Too long"}, 413), "failed", "413: Too long", 1),
        (as_json({"error": {"message": "upstream", "code": 502}}), "failed", "502: upstream", 3),
        (as_json({"error": {"message": "upstream", "code": "odd"}}), "failed", "500: upstream", 3),
        (as_json({"choices": []}), "failed", "no choice with a message", 3),
        (as_json({"choices": None}), "failed", "no choice with a message", 3),
        (as_json({}), "failed", "no choice with a message", 3),
        (text(CUT, kind="application/json"), "failed", "cut short or broken", 3),
        (lambda _: Response(CUT.encode(), missing=500), "failed", "broke off", 3),
        (lambda _: Response(b"", drop=True), "failed", "broke off", 3),
        (text(PAGE, kind="text/html"), "failed", r"a web page called 'Welcome to nginx!' \(status 200\)", 3),
        (text(PAGE, 502, kind="text/html"), "failed", r"a web page .*\(status 502\)", 3),
        (text("Internal Server Error", 500), "failed", "no API's reply but 'Internal Server Error'", 3),
        (text("", 503), "failed", "503: nothing", 3),
        (text("[1, 2]"), "failed", "no API's reply", 3),
        (lambda _: Response(b"\x1f\x8bnot gzip", headers={"Content-Encoding": "gzip"}), "failed", "broke off", 3),
    ],
)
def test_a_question_without_an_answer_is_undecided_and_all_is_kept(
    start: Start, behavior: Behavior, reason: str, detail: str, times: int
) -> None:
    endpoint, asked = start(answers, behavior), question()
    judge = judge_of(endpoint)
    assert judge.ask(question(("first",))).undecided is None  # the endpoint is known to be one
    answer = judge.ask(asked)
    found, why = undecided(answer)
    assert found == reason
    assert re.search(detail, why)
    assert why.endswith(".")
    assert len(endpoint.received) == 1 + times == 1 + len(answer.exchanges)
    sent = behavior(endpoint.received[-1])
    for exchange in answer.exchanges:
        request = exchange["request"]
        assert request["model"] == "m"
        assert asked.text in request["messages"][0]["content"][1]["text"]
        assert exchange["seconds"] > 0
        if not sent.drop:
            assert exchange["status"] == sent.status
        if not sent.drop and "Content-Encoding" not in sent.headers:
            assert exchange["body"] == sent.body.decode()
        assert (exchange["error"] is not None) == (sent.drop or sent.missing > 0 or "Content-Encoding" in sent.headers)
    json.dumps(answer.to_json())


def test_no_words_are_put_into_a_judges_mouth(start: Start) -> None:
    """What is not said is never counted as unrelated, whatever a reply is."""
    strange = [
        "",
        "{}",
        "[]",
        "null",
        '{"verdicts": {}}',
        '{"verdicts": null}',
        '{"verdicts": {"1": null}}',
        "{" * 3000,
    ]
    for content in (*strange, None, 3, {"verdicts": 1}, ["x"], [{"type": "text"}], [{"text": None}]):
        answer = judge_of(start(says(content)), tries=1).ask(question(("bank",)))
        assert undecided(answer)[0] == "unreadable"


def test_content_in_parts_is_read(start: Start) -> None:
    parts = [{"type": "text", "text": '{"verdicts": '}, {"type": "text", "text": '{"1": "global"}}'}]
    assert judge_of(start(says(parts))).ask(question(("bank",))).content == ["global"]


def test_prose_first_and_json_later(start: Start) -> None:
    endpoint, asked = start(says("Let me think."), answers), question()
    answer = judge_of(endpoint).ask(asked)
    assert answer.content == right(asked)
    assert (answer.input_tokens, answer.output_tokens) == (2000, 100)  # both were paid for
    assert len(answer.exchanges) == 2
    first, second = (received.headers["idempotency-key"] for received in endpoint.received)
    assert first != second  # or a gateway would send the same prose again


def test_errors_that_pass(start: Start) -> None:
    asked = question()
    passing = [error("overloaded", 500), text(PAGE, 502), lambda _: Response(b"", drop=True)]
    endpoint = start(*passing, answers)
    answer = judge_of(endpoint, tries=4).ask(asked)
    assert answer.content == right(asked)
    assert [exchange["status"] for exchange in answer.exchanges] == [500, 502, None, 200]
    assert len({received.headers["idempotency-key"] for received in endpoint.received}) == 1


def test_a_slow_reply_is_a_timeout(start: Start) -> None:
    endpoint = start(after(0.4))
    answer = judge_of(endpoint, timeout=0.1, tries=2).ask(question())
    assert undecided(answer) == ("timeout", "No whole reply came within 0.1 s (ReadTimeout).")
    assert [exchange["status"] for exchange in answer.exchanges] == [None, None]


def test_a_reply_that_never_ends_is_a_timeout(start: Start) -> None:
    """Every byte comes in time, all of them do not."""
    endpoint = start(lambda _: Response(b"{" + b" " * 10_000, dribble=0.05))
    started = time.monotonic()
    answer = judge_of(endpoint, timeout=0.2, tries=1).ask(question())
    assert time.monotonic() - started < 2
    assert undecided(answer)[0] == "timeout"
    assert answer.exchanges[0]["body"].startswith("{ ")


def test_an_endless_reply_is_cut(start: Start) -> None:
    answer = judge_of(start(lambda _: Response(b"x" * 5_000_000)), tries=1).ask(question())
    assert undecided(answer) == ("failed", "The reply did not end after 4000000 bytes.")
    assert len(answer.exchanges[0]["body"]) < 101_000


def test_pictures_are_kept_by_their_hash_and_long_bodies_in_part(start: Start) -> None:
    asked = question()
    whole = json.dumps({"verdicts": {"1": "global", "2": "global", "3": "global"}}) + " " * 150_000
    answer = judge_of(start(says(whole))).ask(asked)
    assert answer.content == ["global"] * 3  # all of it is read
    (exchange,) = answer.exchanges
    assert re.search(r" … \(\d+ more characters\)$", exchange["body"])
    assert len(exchange["body"]) < 101_000
    image, _, crop = exchange["request"]["messages"][0]["content"]
    for part, drawn in ((image, asked.marked), (crop, asked.crop)):
        file = io.BytesIO()
        drawn.save(file, "PNG")
        expected = {"sha256": sha256(file.getvalue()).hexdigest(), "size": [drawn.height, drawn.width]}
        assert part == {"type": "image_url", "image_url": expected}


def test_headers_that_matter_are_kept(start: Start) -> None:
    behavior = error("busy", 503)
    headers = {"Retry-After": "1", "X-Request-Id": "r1", "X-RateLimit-Remaining": "0", "Set-Cookie": "hush"}
    endpoint = start(lambda received: replace(behavior(received), headers=headers), answers)
    kept = judge_of(endpoint).ask(question()).exchanges[0]["headers"]
    assert kept.keys() >= {"retry-after", "x-request-id", "x-ratelimit-remaining"}
    assert "set-cookie" not in kept


def test_tokens_that_nobody_counted_are_estimated_and_said_to_be(start: Start) -> None:
    asked = question()
    content = json.dumps({"verdicts": {"1": "global", "2": "global", "3": "global"}})
    answer = judge_of(start(says(content, usage=None)), image_tokens=300).ask(asked)
    told = answer.exchanges[0]["request"]["messages"][0]["content"][1]["text"]
    assert answer.input_tokens == -(-len(told) // 4) + 600
    assert answer.output_tokens == -(-len(content) // 4)
    assert answer.exchanges[0]["tokens"]["estimated"] is True
    assert judge_of(start()).ask(asked).exchanges[0]["tokens"] == {"input": 1000, "output": 50, "estimated": False}


# Rate limits and pauses


def test_a_rate_limit_uses_up_no_tries(start: Start) -> None:
    now, asked = Time(), question()
    endpoint = start(*[error("slow down", 429)] * 6, answers)
    answer = judge_of(endpoint, tries=1, sleep=now.sleep, clock=now.clock).ask(asked)
    assert answer.content == right(asked)
    assert len(answer.exchanges) == 7
    for number, slept in enumerate(now.slept):
        assert 2.0**number * 0.5 <= slept <= 2.0**number * 1.5 + 1e-6


@pytest.mark.parametrize("status", [429, 503])
def test_the_endpoint_says_how_long_to_wait(start: Start, status: int) -> None:
    now = Time()
    endpoint = start(as_json({"error": {"message": "later"}}, status, Retry_After="17"), answers)
    judge_of(endpoint, sleep=now.sleep, clock=now.clock).ask(question())
    (slept,) = now.slept
    assert 17 <= slept <= 18.1


def test_it_may_say_so_by_a_date(start: Start) -> None:
    now = Time()
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    judge_of(start(text("", 429, Retry_After=until), answers), sleep=now.sleep, clock=now.clock).ask(question())
    (slept,) = now.slept
    assert 27 <= slept <= 31.1


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("86400", 120, 121.1),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 120, 121.1),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.1, 1.1),
        ("soon", 0.5, 1.5),
        ("-5", 0.5, 1.5),
        ("", 0.5, 1.5),
    ],
)
def test_however_it_says_so_the_wait_has_a_limit(start: Start, value: str, least: float, most: float) -> None:
    now = Time()
    judge_of(start(text("", 429, Retry_After=value), answers), sleep=now.sleep, clock=now.clock).ask(question())
    assert least <= sum(now.slept) <= most


def test_a_rate_limit_without_end_is_a_failure(start: Start) -> None:
    now = Time()
    endpoint = start(as_json({}, 429, Retry_After="100"))
    answer = judge_of(endpoint, sleep=now.sleep, clock=now.clock).ask(question())
    reason, detail = undecided(answer)
    assert reason == "failed"
    assert "rate limit was in the way" in detail
    assert 800 <= now.now <= 1000


def test_one_rate_limit_holds_all_threads(start: Start) -> None:
    """Four threads, of which one is told to wait while the others are still being answered."""
    arrived = []

    def behavior(received: Received) -> Response:
        arrived.append(time.monotonic())
        limited = as_json({}, 429, Retry_After="0.4")
        return (limited if len(arrived) == 1 else after(0.15))(received)

    judge = EndpointJudge(start(behavior).url, "m", workers=4)
    assert len(ask_all(judge, many(8))) == 8
    assert min(arrived[4:]) - arrived[0] >= 0.4


def test_requests_per_minute_are_shared_by_threads(start: Start) -> None:
    now = Time()
    endpoint = start()
    judge = judge_of(endpoint, workers=4, requests_per_minute=30.0, sleep=now.sleep, clock=now.clock)
    ask_all(judge, many(10))
    assert now.now >= 2.0 * 9 - 1e-6  # two seconds between two requests
    assert len(endpoint.received) == 10


def test_pauses_grow_between_failures(start: Start) -> None:
    now = Time()
    judge_of(start(error("busy", 500)), tries=4, sleep=now.sleep, clock=now.clock).ask(question())
    assert len(now.slept) == 3
    for number, slept in enumerate(now.slept):
        assert 2.0**number * 0.5 <= slept <= 2.0**number * 1.5


# What makes going on pointless


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        (error("Incorrect API key provided", 401), "key is missing, wrong.*401: Incorrect API key provided"),
        (text(PAGE, 403, kind="text/html"), "key is missing, wrong.*403: a web page"),
        (error("API key not valid. Please pass a valid API key.", 400), "key is missing, wrong"),
        (error("The model `m` does not exist", 404), "404: The model `m` does not exist.*knows no model 'm'.*/v1"),
        (error("m is not a valid model ID", 400), "knows no model 'm'"),
        (text(PAGE, 404, kind="text/html"), "404: a web page called 'Welcome to nginx!'.*usually ends in /v1"),
        (as_json({"detail": "Method Not Allowed"}, 405), "405: Method Not Allowed.*usually ends in /v1"),
        (error("You exceeded your quota", 429, code="insufficient_quota"), "no credit left.*exceeded your quota"),
        (text("", 402), "no credit left"),
        (
            error("'temperature' does not support 0.0", 400, param="temperature"),
            "does not take 'temperature'.*leave it",
        ),
        (as_json({"detail": [{"loc": ["body", "seed"], "msg": "bad", "input": "x"}]}, 422), "does not take 'seed'"),
    ],
)
def test_some_errors_stop_at_once(start: Start, behavior: Behavior, message: str) -> None:
    endpoint = start(behavior)
    with pytest.raises(JudgeError, match=message) as raised:
        judge_of(endpoint, options={"seed": 1}).ask(question())
    assert endpoint.url in str(raised.value)
    assert len(endpoint.received) == 1


def test_a_request_that_is_repeated_in_a_complaint_is_not_what_it_is_about(start: Start) -> None:
    echo = {"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": {"temperature": 0, "response_format": 1}}]}
    answer = judge_of(start(as_json(echo, 422))).ask(question())
    assert undecided(answer)[0] == "failed"
    assert len(answer.exchanges) == 1


def test_where_the_key_came_from(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = start(error("no", 401))
    with pytest.raises(JudgeError, match="No key was given: the environment variable OPENAI_API_KEY is not set"):
        judge_of(endpoint).ask(question())
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    with pytest.raises(JudgeError, match="came from the environment variable MY_KEY"):
        judge_of(endpoint, key_env="MY_KEY").ask(question())
    assert endpoint.received[1].headers["authorization"] == f"Bearer {KEY}"
    with pytest.raises(JudgeError, match="given in the call"):
        judge_of(endpoint, key=KEY).ask(question())
    assert "authorization" not in endpoint.received[0].headers


def test_the_key_is_written_nowhere(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even by an endpoint that repeats it in header, complaint and reply."""
    caplog.set_level(logging.INFO)
    repeats = as_json({"error": {"message": f"busy, {KEY}"}}, 500, X_Request_Id=KEY)
    endpoint = start(repeats, says(f"I was asked with {KEY}"), answers, error(f"Wrong key: {KEY}", 401))
    judge = judge_of(endpoint, key=KEY, workers=1)
    with open_answers(tmp_path / "a.jsonl", judge.identity) as kept, pytest.raises(JudgeError) as raised:
        ask_all(judge, [question(), question(("other",))], answers=kept)
    written = (tmp_path / "a.jsonl").read_text()
    assert "I was asked with <key>" in written
    for place in (written, str(raised.value), repr(judge.__dict__), json.dumps(judge.identity), caplog.text):
        assert KEY not in place
    assert all(received.headers["authorization"] == f"Bearer {KEY}" for received in endpoint.received)


def test_nothing_is_sent_on(start: Start) -> None:
    other = start()
    endpoint = start(text("", 307, Location=f"{other.url}/chat/completions?token=hush"))
    with pytest.raises(JudgeError, match=f"sends one on to {other.url}/chat/completions, and neither key") as raised:
        judge_of(endpoint, key=KEY).ask(question())
    assert other.received == []
    assert "hush" not in str(raised.value)


def test_nobody_is_there(start: Start) -> None:
    endpoint = start()
    endpoint.stop()
    with pytest.raises(JudgeError, match=r"refused.*each of 3 times.*No endpoint has answered there yet") as raised:
        judge_of(endpoint).ask(question())
    assert endpoint.url in str(raised.value)


@pytest.mark.parametrize("status", [200, 400, 502])
def test_the_first_question_finds_no_api(start: Start, status: int) -> None:
    endpoint = start(text(PAGE, status, kind="text/html"))
    with pytest.raises(JudgeError, match=r"a web page called 'Welcome to nginx!' .* usually ends in /v1"):
        judge_of(endpoint).ask(question())
    assert len(endpoint.received) == 3


def test_an_endpoint_that_goes_down_stops_the_run_after_a_few_questions(start: Start, tmp_path: Path) -> None:
    endpoint, asked = start(*[answers] * 3, error("down", 503)), many(12)
    judge = judge_of(endpoint, workers=1)
    path = tmp_path / "a.jsonl"
    with (
        open_answers(path, judge.identity) as kept,
        pytest.raises(JudgeError, match=r"5 questions in a row have failed.*503: down.*7 of 12 .* \(4 undecided\)"),
    ):
        ask_all(judge, asked, answers=kept)
    found = read_answers(path)[1]
    assert [answer.undecided for answer in found.values()] == [None] * 3 + ["failed"] * 4
    endpoint.then(answers)
    with open_answers(path, judge.identity) as kept:
        whole = ask_all(judge, asked, answers=kept, again=True)
    assert [whole[each.id].content for each in asked] == [right(each) for each in asked]


def test_failures_with_answers_between_them_stop_nothing(start: Start) -> None:
    behaviors = [*[error("down", 503)] * 4, answers] * 3
    given = ask_all(judge_of(start(*behaviors), workers=1, tries=1), many(15))
    assert sum(answer.undecided == "failed" for answer in given.values()) == 12


# What endpoints do not know


def refuses(*names: str, otherwise: Behavior = answers) -> Behavior:
    """Refuses requests that have one of these ways to ask for JSON."""

    def behavior(received: Received) -> Response:
        kind = received.body.get("response_format", {}).get("type")
        if kind in names:
            return error(f"response_format of type {kind} is not supported", 400)(received)
        return otherwise(received)

    return behavior


@pytest.mark.parametrize("refused", [("json_schema",), ("json_schema", "json_object")])
def test_an_endpoint_that_knows_no_schema_is_asked_without(start: Start, refused: tuple[str, ...]) -> None:
    endpoint = start(refuses(*refused))
    judge = judge_of(endpoint, tries=1)
    asked = many(3)
    for each in asked:
        assert judge.ask(each).content == right(each)
    kinds = [received.body.get("response_format", {}).get("type") for received in endpoint.received]
    ways = ["json_schema", "json_object", None]
    known = ways[len(refused)]
    assert kinds == [*ways[: len(refused)], known, known, known]  # found out once
    assert all("JSON" in received.text for received in endpoint.received)
    keys = [received.headers["idempotency-key"] for received in endpoint.received]
    assert len(set(keys)) == len(keys)  # another request is another key


def test_many_threads_find_it_out_together(start: Start) -> None:
    endpoint = start(refuses("json_schema", "json_object"))
    asked = many(12)
    given = ask_all(judge_of(endpoint, workers=6), asked)
    assert [given[each.id].content for each in asked] == [right(each) for each in asked]


def test_the_newer_name_of_the_limit(start: Start) -> None:
    def behavior(received: Received) -> Response:
        if "max_tokens" in received.body:
            return error("'max_tokens' is not supported. Use 'max_completion_tokens' instead.", 400)(received)
        assert received.body["max_completion_tokens"] == 99
        return answers(received)

    endpoint = start(behavior)
    judge = judge_of(endpoint, max_tokens=99, tries=1)
    for each in many(2):
        assert judge.ask(each).content == right(each)
    assert len(endpoint.received) == 3


# What it will cost


def test_the_estimate_before_the_first_answer() -> None:
    judge = judge_of("http://host/v1", input_price=2.0, output_price=10.0, image_tokens=300)
    asked = [*many(3), Question(find_rubric("claims"), texts={"description": "A dog."})]
    estimate = judge.estimate(asked)
    letters = [len(judge_text(each)) for each in asked]
    expected = sum(-(-number // 4) for number in letters) + 3 * 2 * 300
    assert (estimate.questions, estimate.answered, estimate.input_tokens) == (4, 0, expected)
    assert estimate.output_tokens == 4 * 250
    assert estimate.seconds is None
    assert estimate.cost == pytest.approx((expected * 2.0 + 1000 * 10.0) / 1e6)
    assert estimate.basis.startswith("a guess")
    assert judge_of("http://host/v1").estimate(asked).cost is None
    assert judge.estimate([]).seconds == 0.0


def judge_text(asked: Question) -> str:
    return f"{asked.text}\n\nAnswer with one JSON object and nothing else, in this form:\n{asked.rubric.example(asked)}"


def test_the_estimate_afterwards_is_measured() -> None:
    judge = judge_of("http://host/v1", input_price=2.0, output_price=10.0, workers=4)
    before = [
        Answer("a", ["global"], input_tokens=1000, output_tokens=100, seconds=2.0),
        Answer("b", ["global"], input_tokens=2000, output_tokens=300, seconds=4.0),
        Answer("c", None, "failed", seconds=90.0),
    ]
    estimate = judge.estimate(many(8), before)
    assert (estimate.answered, estimate.input_tokens, estimate.output_tokens) == (3, 12_000, 1_600)
    assert estimate.seconds == pytest.approx(6.0)
    assert estimate.cost == pytest.approx((12_000 * 2.0 + 1_600 * 10.0) / 1e6)
    assert estimate.basis == "the mean of 2 answers"
    limited = judge_of("http://host/v1", workers=4, requests_per_minute=6.0)
    assert limited.estimate(many(8), before).seconds == pytest.approx(80.0)
    assert judge.cost(before[0]) == pytest.approx(0.003)
    assert limited.cost(before[0]) == 0.0


def test_every_rubric_that_ships_can_be_asked() -> None:
    assert EndpointJudge.rubrics == tuple(RUBRICS)
    evidence = {"evidence": "A dog.", "description": "A dog.", "candidates": ""}
    for name in RUBRICS:
        asked = Question(find_rubric(name), candidates=(Shown("A dog is there."),), texts=evidence)
        assert "{" not in judge_text(asked).split("in this form:")[0]
