from patchlens.models.embedded import Embedded


def test_families_and_embedded_models(run, storybook: Embedded) -> None:
    out = run("models").out
    assert "storybook" in out
    assert "[with brackets]" in out
    assert "llava" in out
    assert "causal" in out
    assert max(map(len, out.splitlines())) <= 80


def test_as_json(run, storybook: Embedded) -> None:
    told = run("models", "--json").json
    assert told["embedded"] == [{"name": "storybook", "summary": storybook.summary, "folder": str(storybook.folder)}]
    kinds = {family["family"]: family for family in told["families"]}
    assert kinds["llava"]["takes"] == ["image", "text"]
    assert "llama" in kinds["causal"]["model_types"]


def test_nothing_embedded(run, monkeypatch) -> None:
    from patchlens.models import embedded

    monkeypatch.setattr(embedded, "entry_points", lambda **wanted: [])
    assert "none installed" in run("models").out
