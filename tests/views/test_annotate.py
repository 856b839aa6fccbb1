import base64
import errno
import io
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from patchlens.errors import MissingExtra, OptionError
from patchlens.evaluation.answers import open_answers, read_answers
from patchlens.evaluation.question import Question
from patchlens.evaluation.ratings import people
from patchlens.evaluation.rubric import find_rubric
from patchlens.evaluation.verdict import Answer
from patchlens.views.annotate import _file_name, annotation_app, serve
from views import annotating

HOST = "127.0.0.1:8000"
ALL_UNRELATED = ["unrelated"] * 5


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return annotating.six()


Client = Callable[..., TestClient]


@pytest.fixture
def client(questions: list[Question], tmp_path: Path) -> Client:
    """Makes what a browser is to a server of the six questions, whose answers lie in tmp_path."""

    def make(asked: list[Question] | None = None, **options: Any) -> TestClient:
        app = annotation_app(questions if asked is None else asked, tmp_path, **options)
        return TestClient(app, base_url=f"http://{HOST}", headers={"Origin": f"http://{HOST}"})

    return make


def sheet(client: Any, name: str) -> dict[str, Any]:
    reply = client.get("/questions", params={"annotator": name})
    assert reply.status_code == 200, reply.text
    return reply.json()  # type: ignore[no-any-return]


def post(client: Any, name: str, question: str, answer: Any, before: Any = None, seconds: Any = 2.5) -> Any:
    record = {"question": question, "answer": answer, "before": before, "seconds": seconds}
    return client.post("/answers", params={"annotator": name}, json=record)


def order(client: Any, name: str) -> list[str]:
    return [asked["id"] for asked in sheet(client, name)["questions"]]


# ---------------------------------------------------------------- what is asked


def test_a_question_says_its_words_and_nothing_else(client: Client, questions: list[Question]) -> None:
    said = sheet(client(), "Anna")
    assert set(said) == {"annotator", "rubrics", "questions", "answers"}
    words = {question.id: [shown.word for shown in question.candidates] for question in questions}
    for asked in said["questions"]:
        assert set(asked) == {"id", "rubric", "candidates"}
        assert [word for _, word, _ in asked["candidates"]] == words[asked["id"]]
        assert {(before, after) for before, _, after in asked["candidates"]} == {("", "")}
    assert {asked["id"] for asked in said["questions"]} == set(words)


def test_the_order_given_cannot_be_told(client: Client, questions: list[Question]) -> None:
    """However the caller sorts them, by layer for instance, a person sees the same."""
    shuffled = random.Random(1).sample(questions, len(questions))
    one, other = client(), client([*shuffled, shuffled[0]])
    assert one.get("/questions?annotator=anna").content == other.get("/questions?annotator=anna").content


def test_everyone_has_an_order_of_their_own(client: Client, questions: list[Question]) -> None:
    names = [f"person {number}" for number in range(30)]
    orders = [tuple(order(client(), name)) for name in names]
    assert len(set(orders)) > 25  # of 720 possible ones
    assert all(sorted(one) == sorted(question.id for question in questions) for one in orders)
    firsts = {one[0] for one in orders}
    assert len(firsts) == 6  # no question is always early
    assert order(client(), "person 0") == list(orders[0])
    assert [order(client(seed=1), name) for name in names] != [list(one) for one in orders]


def test_a_sentence_is_cut_around_its_word(client: Client) -> None:
    said = sheet(client(annotating.in_sentences()), "Anna")
    (asked,) = said["questions"]
    assert ["A small ", "boat", " lies in the harbor."] in asked["candidates"]
    assert ["The ", "harbor", " is 🌊 quiet in the morning."] in asked["candidates"]
    rubric = said["rubrics"][asked["rubric"]]
    assert rubric.startswith("You help to find out")
    assert "{candidates}" in find_rubric("sentence").text
    assert "{" not in rubric


def test_pictures_are_those_that_every_judge_sees(client: Client, questions: list[Question]) -> None:
    for question in questions[:2]:
        for part, expected in (("marked", question.marked), ("crop", question.crop)):
            reply = client().get(f"/pictures/{question.id}/{part}.png")
            assert reply.headers["content-type"] == "image/png"
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(reply.content))), np.asarray(expected))


def test_pictures_are_not_kept_in_memory(client: Client) -> None:
    asked = annotating.six()
    browser = client(asked)
    assert browser.get(f"/pictures/{asked[0].id}/marked.png").status_code == 200
    assert not any(isinstance(value, Image.Image) for question in asked for value in vars(question).values())


# ---------------------------------------------------------------- what is stored


def test_a_person_is_a_judge_like_any_other(client: Client, questions: list[Question], tmp_path: Path) -> None:
    asked = questions[0].id
    verdicts = ["concrete", "abstract", "global", "unrelated", "unrelated"]
    assert post(client(), "Anna", asked, verdicts).status_code == 200
    identity, answers = read_answers(tmp_path / "anna.jsonl")
    assert identity == {"judge": "people", "label": "Anna"}
    assert answers == {asked: Answer(asked, verdicts, seconds=2.5)}


def test_skipped_is_undecided(client: Client, questions: list[Question], tmp_path: Path) -> None:
    asked = questions[0].id
    assert post(client(), "Anna", asked, "skipped").status_code == 200
    assert read_answers(tmp_path / "anna.jsonl")[1] == {asked: Answer(asked, None, "skipped", seconds=2.5)}


def test_nothing_is_written_until_something_is_answered(client: Client, tmp_path: Path) -> None:
    sheet(client(), "Anna")
    client().get("/")
    assert list(tmp_path.iterdir()) == []


def test_a_later_server_knows_what_was_answered(client: Client, questions: list[Question]) -> None:
    first = client()
    ids = order(first, "Anna")
    post(first, "Anna", ids[0], ALL_UNRELATED)
    post(first, "Anna", ids[3], "skipped")
    later = sheet(client(), "Anna")
    assert [asked["id"] for asked in later["questions"]] == ids
    assert later["answers"] == {ids[0]: ALL_UNRELATED, ids[3]: "skipped"}
    assert sheet(client(), "Ben")["answers"] == {}
    left = [question for question in questions if question.id != ids[0]]
    assert sheet(client(left), "Anna")["answers"] == {ids[3]: "skipped"}


def test_the_last_answer_wins_and_the_first_is_kept(client: Client, questions: list[Question], tmp_path: Path) -> None:
    browser, asked = client(), questions[0].id
    changed = ["concrete", *ALL_UNRELATED[1:]]
    post(browser, "Anna", asked, ALL_UNRELATED)
    assert post(browser, "Anna", asked, changed, before=ALL_UNRELATED).status_code == 200
    assert sheet(browser, "Anna")["answers"] == {asked: changed}
    with open_answers(tmp_path / "anna.jsonl", {"judge": "people", "label": "Anna"}) as answers:
        assert [answer.content for answer in answers.history()] == [ALL_UNRELATED, changed]


def test_an_answer_sent_twice_is_stored_once(client: Client, questions: list[Question], tmp_path: Path) -> None:
    browser, asked = client(), questions[0].id
    assert [post(browser, "Anna", asked, ALL_UNRELATED).status_code for _ in range(3)] == [200] * 3
    assert len((tmp_path / "anna.jsonl").read_text().splitlines()) == 2  # who, and what


@pytest.mark.parametrize("stale", [None, "skipped", ["concrete"] * 5])
def test_a_stale_tab_overwrites_nothing(client: Client, questions: list[Question], stale: Any) -> None:
    browser, asked = client(), questions[0].id
    post(browser, "Anna", asked, ALL_UNRELATED)
    reply = post(browser, "Anna", asked, ["abstract"] * 5, before=stale)
    assert (reply.status_code, reply.json()["answer"]) == (409, ALL_UNRELATED)
    assert sheet(browser, "Anna")["answers"] == {asked: ALL_UNRELATED}


def test_one_person_may_spell_the_name_in_two_cases(client: Client, questions: list[Question], tmp_path: Path) -> None:
    browser = client()
    post(browser, " Anna   Müller ", questions[0].id, ALL_UNRELATED)
    post(browser, "ANNA MÜLLER", questions[1].id, ALL_UNRELATED)
    assert sheet(browser, "anna müller")["annotator"] == "Anna Müller"
    assert [(label, len(answers)) for label, answers in people(tmp_path).items()] == [("Anna Müller", 2)]


NAMES = (
    "anna",
    "Ben",
    "anna b",
    "anna-b",
    "Müller",
    "muller",
    "日本",
    "日曜",
    "../../etc/passwd",
    ".",
    "/",
    "a" * 80,
    "a" * 79,
)


def test_names_become_safe_files_of_their_own() -> None:
    files = [_file_name(name) for name in NAMES]
    assert len(set(files)) == len(NAMES)
    assert all(re.fullmatch(r"[a-z0-9-]{1,50}\.jsonl", file) for file in files)
    assert files[:2] == ["anna.jsonl", "ben.jsonl"]


def test_names_stay_whole(client: Client, questions: list[Question], tmp_path: Path) -> None:
    browser = client()
    for name in NAMES:
        assert post(browser, name, questions[0].id, ALL_UNRELATED).status_code == 200
    assert set(people(tmp_path)) == set(NAMES)
    assert [path.parent for path in tmp_path.rglob("*")] == [tmp_path] * len(NAMES)


def test_many_at_once_lose_nothing(client: Client, questions: list[Question], tmp_path: Path) -> None:
    browser = client()
    asked = [(name, question.id) for name in ("Anna", "Ben", "Cem") for question in questions]
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: replies.append(post(browser, *one, ALL_UNRELATED).status_code))
        for one in asked
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [200] * 18
    assert {name: len(answers) for name, answers in people(tmp_path).items()} == {"Anna": 6, "Ben": 6, "Cem": 6}


def test_a_full_disk_is_told_and_costs_nothing(
    client: Client, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = client()
    post(browser, "Anna", questions[0].id, ALL_UNRELATED)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        reply = post(browser, "Anna", questions[1].id, ALL_UNRELATED)
    assert reply.status_code == 503
    assert "No space left" in reply.json()["error"]
    assert set(sheet(browser, "Anna")["answers"]) == {questions[0].id}
    assert post(browser, "Anna", questions[1].id, ALL_UNRELATED).status_code == 200


def test_a_file_that_another_process_writes(client: Client, questions: list[Question], tmp_path: Path) -> None:
    browser = client()
    with open_answers(tmp_path / "anna.jsonl", {"judge": "people", "label": "Anna"}):
        reply = post(browser, "Anna", questions[0].id, ALL_UNRELATED)
        assert (reply.status_code, sheet(browser, "Anna")["answers"]) == (503, {})
    assert "another process" in reply.json()["error"]
    assert post(browser, "Anna", questions[0].id, ALL_UNRELATED).status_code == 200


def test_a_damaged_file_is_told(client: Client, questions: list[Question], tmp_path: Path) -> None:
    (tmp_path / "anna.jsonl").write_text("not an answer\n")
    assert "anna.jsonl" in client().get("/questions?annotator=anna").json()["error"]
    assert post(client(), "Anna", questions[0].id, ALL_UNRELATED).status_code == 503
    assert (tmp_path / "anna.jsonl").read_text() == "not an answer\n"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"question": "f" * 32}, 404, "does not ask that question"),
        ({"question": ["x"]}, 404, "does not ask that question"),
        ({"question": None}, 404, "does not ask that question"),
        ({"answer": ALL_UNRELATED[:4]}, 400, "each of the 5 candidates"),
        ({"answer": [*ALL_UNRELATED, "unrelated"]}, 400, "each of the 5 candidates"),
        ({"answer": [*ALL_UNRELATED[:4], "none"]}, 400, "each of the 5 candidates"),
        ({"answer": [*ALL_UNRELATED[:4], {}]}, 400, "each of the 5 candidates"),
        ({"answer": None}, 400, "each of the 5 candidates"),
        ({"answer": "refused"}, 400, "each of the 5 candidates"),
        ({"seconds": None}, 400, "how many seconds"),
        ({"seconds": -1}, 400, "how many seconds"),
        ({"seconds": True}, 400, "how many seconds"),
        ({"seconds": "1"}, 400, "how many seconds"),
    ],
)
def test_answers_that_make_no_sense(
    client: Client, questions: list[Question], tmp_path: Path, change: dict[str, Any], status: int, told: str
) -> None:
    record = {"question": questions[0].id, "answer": ALL_UNRELATED, "before": None, "seconds": 1} | change
    reply = client().post("/answers?annotator=anna", json=record)
    assert (reply.status_code, list(tmp_path.iterdir())) == (status, [])
    assert told in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 60_000, 400),
        (b'{"question": "ID", "answer": "skipped", "seconds": NaN}', 400),
        (b'{"question": "ID", "answer": "skipped", "seconds": 1e999}', 400),
        (b" " * 65_537, 413),
        (b'{"question": "ID", "answer": "skipped", "seconds": 1}' + b" " * 60_000, 200),
    ],
)
def test_bodies_that_are_no_answer(client: Client, questions: list[Question], body: bytes, status: int) -> None:
    body = body.replace(b"ID", questions[0].id.encode())
    reply = client().post("/answers?annotator=anna", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status


@pytest.mark.parametrize("name", ["", "   ", "a" * 81, "a\x00b", "a\x1b[2Jb", "\n"])
def test_names_that_are_none(client: Client, questions: list[Question], tmp_path: Path, name: str) -> None:
    assert client().get("/questions", params={"annotator": name}).status_code == 400
    assert post(client(), name, questions[0].id, ALL_UNRELATED).status_code == 400
    assert list(tmp_path.iterdir()) == []


def test_a_request_without_a_name(client: Client) -> None:
    assert client().get("/questions").status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/pictures/ID/crop.png", 200),
        ("/pictures/ID/mask.png", 404),
        ("/pictures/ID/marked.jpg", 404),
        (f"/pictures/{'0' * 32}/marked.png", 404),
        ("/pictures/..%2F..%2Fetc/passwd.png", 404),
        ("/pictures/../../../../etc/passwd", 404),
        ("/answers", 405),
        ("/anna.jsonl", 404),
        ("/favicon.ico", 204),
    ],
)
def test_addresses(client: Client, questions: list[Question], path: str, status: int) -> None:
    assert client().get(path.replace("ID", questions[0].id)).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("192.168.3.4:80", 200),
        ("Lab-3.example:8000", 200),
        ("evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_only_our_own_names_are_answered_to(client: Client, host: str, status: int) -> None:
    """A page elsewhere can let its own name point to this machine; the browser then calls us by that name."""
    browser = client(hosts=["lab-3.Example"])
    for path in ("/", "/questions?annotator=anna"):
        assert browser.get(path, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9000"}, 403),
        ({"Origin": "http://localhost:8000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
    ],
)
def test_only_our_own_page_can_answer(
    client: Client, questions: list[Question], tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    body = json.dumps({"question": questions[0].id, "answer": "skipped", "seconds": 1})
    headers = {"Content-Type": "application/json; charset=utf-8"} | headers
    reply = client().post("/answers?annotator=anna", content=body, headers=headers)
    assert (reply.status_code, len(list(tmp_path.iterdir()))) == (status, int(status == 200))


def test_nothing_but_the_pages_own_script_and_style_runs(client: Client) -> None:
    reply = client().get("/")
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for tag in ("script", "style"):
        ((text,),) = [re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", reply.text, re.DOTALL)]
        digest = base64.b64encode(sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert (policy["frame-ancestors"], policy["form-action"], policy["img-src"]) == ("'none'", "'none'", "'self'")
    assert not re.search(r"\s(on\w+|style)=", reply.text.split("<script>")[0])


@pytest.mark.parametrize("path", ["/", "/questions?annotator=anna", "/questions", "/none", "/pictures/x/crop.png"])
def test_headers_are_on_everything(client: Client, path: str) -> None:
    headers = client().get(path).headers
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_title_and_name_are_escaped(client: Client) -> None:
    text = client(title="<b>{{script}}</b>", annotator="\"><script>alert('x')</script>").get("/").text
    assert "<h1>&lt;b&gt;{{script}}&lt;/b&gt;</h1>" in text
    assert 'data-annotator="&quot;&gt;&lt;script&gt;' in text
    assert text.count("<script>") == 1


def test_questions_that_cannot_be_asked(questions: list[Question], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no question with a candidate"):
        annotation_app([], tmp_path)
    empty = Question(questions[0].rubric, questions[0].image, questions[0].region)
    with pytest.raises(OptionError, match="no question with a candidate"):
        annotation_app([empty], tmp_path)
    claims = Question(find_rubric("support"), questions[0].image, None, questions[0].candidates)
    with pytest.raises(OptionError, match="rubric 'support'"):
        annotation_app([*questions, claims], tmp_path)


def test_questions_without_candidates_are_left_out(client: Client, questions: list[Question]) -> None:
    empty = Question(questions[0].rubric, questions[0].image, questions[0].region)
    assert empty.id not in order(client([*questions, empty]), "Anna")


@pytest.mark.parametrize("name", ["starlette.applications", "uvicorn"])
def test_a_missing_extra_is_named(
    name: str, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = annotation_app(questions, tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    again = (lambda: serve(app)) if name == "uvicorn" else (lambda: annotation_app(questions, tmp_path))
    with pytest.raises(MissingExtra, match=r"pip install 'patchlens\[annotate\]'"):
        again()


# ---------------------------------------------------------------- a server that runs


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., annotating.Served]]:
    running: list[annotating.Served] = []

    def start(**options: Any) -> annotating.Served:
        running.append(annotating.start(tmp_path, **options))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.join()


def calling(url: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers={"Origin": url.rstrip("/")}, timeout=20)


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 0), ("no such host", 0), ("x" * 300, 0)]
)
def test_addresses_that_cannot_be_served(questions: list[Question], tmp_path: Path, host: str, port: int) -> None:
    with pytest.raises(OptionError, match=f"Listening at {host}, port {port}, failed"):
        serve(annotation_app(questions, tmp_path), host=host, port=port)


def test_a_port_that_is_taken(questions: list[Question], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OptionError, match="nothing else uses"):
        serve(annotation_app(questions, tmp_path), port=taken.getsockname()[1])


def test_only_this_machine_is_served_and_ctrl_c_ends_it(served: Callable[..., annotating.Served]) -> None:
    server = served()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server.url)
    with calling(server.url) as browser:
        assert len(order(browser, "Anna")) == 6
        assert "server" not in browser.get("/").headers
        os.kill(server.process.pid, signal.SIGINT)
        server.process.join(10)
    assert not server.process.is_alive()


def test_what_was_confirmed_survives_kill_9(served: Callable[..., annotating.Served], tmp_path: Path) -> None:
    """Four times in the middle of answering; of the answer that was on its way, all is there or nothing."""
    server = served()
    port = int(server.url.rstrip("/").rpartition(":")[2])
    moments = random.Random(0)
    confirmed: dict[str, Any] = {}
    for _ in range(4):
        timer = threading.Timer(moments.uniform(0.02, 0.3), server.kill)
        with calling(server.url) as browser:
            timer.start()
            try:
                while True:
                    asked = moments.choice(order(browser, "Anna"))
                    answer = moments.choices(["concrete", "abstract", "global", "unrelated"], k=5)
                    assert post(browser, "Anna", asked, answer, confirmed.get(asked)).status_code == 200
                    confirmed[asked] = answer
            except httpx2.TransportError:
                timer.join()
        server = served(port=port)
        with calling(server.url) as browser:
            found = sheet(browser, "Anna")["answers"]
            assert {id: found[id] for id in confirmed if id != asked} == {
                id: given for id, given in confirmed.items() if id != asked
            }
            assert found.get(asked) in (confirmed.get(asked), answer)
            confirmed = found
    assert set(people(tmp_path)) == {"Anna"}


def test_a_browser_is_opened_on_request(
    questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    opened: list[str] = []
    told: list[str] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: time.sleep(0.2))
    monkeypatch.setattr("webbrowser.open", opened.append)
    serve(annotation_app(questions, tmp_path), open_browser=True, started=told.append)
    serve(annotation_app(questions, tmp_path), host="0.0.0.0", started=told.append)
    assert opened == told[:1]
    assert all(url.startswith("http://127.0.0.1:") for url in told)
