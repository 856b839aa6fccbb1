"""`patchlens study`: its templates, its plan, endpoints that misbehave, and what is refused."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evaluation.misbehaving import Endpoint, answers, error, says
from patchlens.study import run as study

FILE = """
[study]
title = "four scenes"
layers = [0, 5]
survey = 1
baselines = []
[images]
embedded = "picturebook"
count = 4
[[models]]
name = "picturebook"
[[lenses]]
lens = "latent"
[[lenses]]
lens = "embedding"
"""


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tests/study draws; here they would take most of the time."""
    monkeypatch.setattr(study, "write_findings", lambda folder, findings: {each.name: "<svg/>" for each in findings})
    monkeypatch.setattr(study, "write_report", lambda path, **parts: path.write_text("\n".join(parts["notes"])))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("name", ["picturebook", "paper"])
def test_templates_are_printed(run, name: str, tmp_path: Path) -> None:
    ended = run("study", "--template", name)
    assert ended.status == 0
    (tmp_path / "images").mkdir()
    (tmp_path / "study.toml").write_text(ended.out)
    refused = run("study", tmp_path / "study.toml")
    assert "needs a file and a folder" in refused.err


def test_an_unknown_template(run) -> None:
    ended = run("study", "--template", "picturebok")
    assert (ended.status, "Did you mean 'picturebook'?" in ended.err) == (2, True)


def test_an_unknown_key_is_named_with_the_nearest(run, file: Path, tmp_path: Path) -> None:
    file.write_text(FILE.replace("survey = 1", "servey = 1"))
    ended = run("study", file, "--out", tmp_path / "out")
    assert ended.status == 2
    assert "servey" in ended.err
    assert "'survey'" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(run, file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Endpoint() as endpoint:
        judge = ("--judge-url", endpoint.url, "--judge-model", "m", "--input-price", 1.0, "--output-price", 2.0)
        told = run("study", file, "--out", tmp_path / "out", "--dry-run", "--json", *judge).json
        steps = {step["what"]: step for step in told["steps"]}
        assert steps["Read pictures with picturebook"]["left"] == 4
        assert steps["Ask m"]["left"] == 4 * 2 * 2  # pictures, lenses, layers
        assert told["cost"] > 0
        ended = run("study", file, "--out", tmp_path / "out", "--dry-run", *judge)
        assert "at most" in " ".join(ended.out.split())
        assert all(len(line) <= 80 for line in ended.out.splitlines())
        assert endpoint.received == []
    assert not (tmp_path / "out").exists()


def test_an_endpoint_judges_and_is_not_asked_twice(run, file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    out = tmp_path / "out"
    with Endpoint() as endpoint:
        words = ("study", file, "--out", out, "--judge-url", endpoint.url, "--judge-model", "m", "--json")
        assert run(*words).json["report"] == str(out / "report.html")
        asked = [received.question for received in endpoint.received]
        assert len(set(asked)) == len(asked) > 0
        rows = pq.read_table(out / "rows" / "verdicts.parquet")
        assert set(rows["question"].to_pylist()) == set(asked)
        assert rows["verdict"].null_count == 0
        plan = run(*words, "--dry-run").json
        assert [(step["what"], step["left"], step["total"]) for step in plan["steps"]] == [("Ask m", 0, len(asked))]
        before = (out / "rows" / "verdicts.parquet").read_bytes()
        assert run(*words).status == 0
        assert len(endpoint.received) == len(asked)
        assert (out / "rows" / "verdicts.parquet").read_bytes() == before
    assert b"secret" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_wrong_key_stops_and_what_was_answered_is_kept(run, file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    out = tmp_path / "out"
    with Endpoint(answers, answers, error("no such key", 401)) as endpoint:
        words = ("study", file, "--out", out, "--judge-url", endpoint.url, "--judge-model", "m")
        ended = run(*words)
        assert ended.status == 2
        assert "Not all was asked" in (out / "report.html").read_text()
        assert "OPENAI_API_KEY" in ended.err
        assert "secret" not in ended.err
        (kept,) = (out / "answers").iterdir()
        answered = [json.loads(line)["question"] for line in kept.read_text().splitlines()[1:]]
        endpoint.then(answers)
        first = len(endpoint.received)
        assert run(*words).status == 0
        assert not set(answered) & {received.question for received in endpoint.received[first:]}


def test_a_budget_stops_before_it_is_spent(run, file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with Endpoint() as endpoint:  # 1000 tokens sent and 50 back, for each question
        judge = ("--judge-url", endpoint.url, "--judge-model", "m", "--input-price", 1000.0, "--output-price", 0.0)
        ended = run("study", file, "--out", tmp_path / "out", *judge, "--budget", 3.5)
        assert ended.status == 2
        assert "budget of 3.5" in ended.err
        assert len(endpoint.received) <= 3


def test_an_undecided_reply_is_beside_the_share_and_can_be_asked_again(
    run, file: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    out = tmp_path / "out"
    with Endpoint(answers, says("I would rather talk about the weather.")) as endpoint:
        words = ("study", file, "--out", out, "--judge-url", endpoint.url, "--judge-model", "m")
        run(*words)
        endpoint.then(answers)
        assert run(*words).status == 0
        rows = pq.read_table(out / "rows" / "verdicts.parquet")
        undecided = rows["verdict"].null_count
        assert run(*words, "--again").status == 0
        assert pq.read_table(out / "rows" / "verdicts.parquet")["verdict"].null_count == 0
        assert undecided == rows["undecided"].null_count - rows.num_rows + 2 * undecided  # each has its reason


def test_half_a_judge(run, file: Path, tmp_path: Path) -> None:
    ended = run("study", file, "--out", tmp_path / "out", "--judge-url", "http://127.0.0.1:1/v1")
    assert (ended.status, "--judge-model" in ended.err) == (2, True)
