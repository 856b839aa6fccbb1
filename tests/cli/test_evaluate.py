"""`patchlens evaluate`: a judge over readings that are there already."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evaluation.misbehaving import Endpoint
from patchlens.picturebook import EMBEDDED

assert EMBEDDED.examples is not None
EXAMPLES = EMBEDDED.examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from patchlens.capture.capture import capture
    from patchlens.lenses.embedding import EmbeddingLens
    from patchlens.lenses.logit import LogitLens
    from patchlens.lenses.reading import Readings
    from patchlens.models.loading import load_model

    model = load_model("picturebook")
    states = [capture(model, path, layers="0,4") for path in sorted(EXAMPLES.glob("*.png"))]
    readings = Readings.join([lens.read(each) for each in states for lens in (LogitLens(model), EmbeddingLens(model))])
    return readings.save(tmp_path_factory.mktemp("readings") / "three")


def test_by_truth(run, folder: Path, tmp_path: Path) -> None:
    ended = run("evaluate", folder, "--truth", EXAMPLES, "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert "EmbeddingLens, another image" in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines() if not line.startswith("Verdicts"))
    rows = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    assert len(rows) == 3 * 2 * 2 * 2 * 5  # images, lenses, layers, own and another's, candidates
    places = {(row["image"], row["row"], row["column"]) for row in rows}
    assert len(places) == 3  # the same patch for all lenses and layers
    told = run("evaluate", folder, "--truth", EXAMPLES, "--out", tmp_path / "out", "--json", "--no-baseline").json
    assert {tally["baseline"] for tally in told["tallies"]} == {None}


def test_by_an_endpoint(run, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("THE_KEY", "secret")
    with Endpoint() as endpoint:
        judge = ("--judge-url", endpoint.url, "--judge-model", "m", "--judge-key-env", "THE_KEY")
        words = ("evaluate", folder, "--out", tmp_path / "out", *judge)
        ended = run(*words, "--dry-run")
        assert ended.status == 0, ended.err
        assert "not known without prices" in ended.out
        assert endpoint.received == []
        assert not (tmp_path / "out").exists()
        assert run(*words, "--n", 2, "--seed", 1).status == 0
        asked = len(endpoint.received)
        assert run(*words, "--n", 2, "--seed", 1).status == 0
        assert len(endpoint.received) == asked > 0
        rows = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
        assert len({row["image"] for row in rows}) == 2
        assert {row["judge"] for row in rows} == {"m"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "Say who judges"),
        (("--truth", EXAMPLES, "--judge-url", "http://127.0.0.1:1/v1"), "Say who judges"),
        (("--judge-url", "http://127.0.0.1:1/v1"), "needs --judge-url and --judge-model"),
        (("--truth", EXAMPLES, "--n", "9"), "9 images were to be judged; these readings have 3"),
        (("--truth", EXAMPLES, "--rubric", "poem"), "no rubric called 'poem'"),
        (("--truth", "nowhere"), "Nothing is known of the image"),
    ],
)
def test_what_is_refused(run, folder: Path, tmp_path: Path, options: tuple[object, ...], complaint: str) -> None:
    ended = run("evaluate", folder, "--out", tmp_path / "out", *options)
    assert ended.status == 2
    assert complaint in ended.err
