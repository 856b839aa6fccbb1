import pytest

from evaluation.misbehaving import Time
from patchlens.evaluation.judges.wire import Pace, find_key, without_query


def test_requests_take_turns() -> None:
    now = Time()
    pace = Pace(30.0, now.sleep, now.clock)
    moments = []
    for _ in range(4):
        pace.wait()
        moments.append(now.now)
    assert moments == [0.0, 2.0, 4.0, 6.0]
    now.now = 20.0  # what was not used is not saved up
    pace.wait()
    pace.wait()
    assert now.now == 22.0


def test_without_a_limit_nothing_waits() -> None:
    now = Time()
    pace = Pace(None, now.sleep, now.clock)
    for _ in range(5):
        pace.wait()
    assert now.slept == []


def test_a_hold_counts_for_those_who_already_wait() -> None:
    now = Time()

    def sleep(seconds: float) -> None:
        if not now.slept:
            pace.hold(50.0)  # another thread is told to, meanwhile
        now.sleep(seconds)

    pace = Pace(6.0, sleep, now.clock)
    pace.wait()
    pace.wait()
    assert now.now == 50.0


def test_the_longest_hold_counts() -> None:
    now = Time()
    pace = Pace(None, now.sleep, now.clock)
    pace.hold(30.0)
    pace.hold(10.0)
    pace.wait()
    assert now.now == 30.0


def test_a_key_shows_itself_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "from-the-environment")
    found = find_key(None, "SOME_KEY")
    assert found.value == "from-the-environment"
    assert "from-the-environment" not in repr(found)
    assert find_key("given-in-the-call", "SOME_KEY").value == "given-in-the-call"
    assert find_key(None, "NO_SUCH_KEY").value is None
    assert found.hide("a from-the-environment b") == "a <key> b"
    assert find_key("none", "SOME_KEY").hide("none of these") == "none of these"  # as people give to Ollama


def test_what_may_be_secret_in_a_url() -> None:
    assert without_query("https://me:hush@host:80/v1?key=x#y") == "https://host:80/v1"
    assert without_query("https://host/v1/a@b") == "https://host/v1/a@b"
    assert without_query("http://[broken?x") == "http://[broken"
