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


def test_one_model_without_its_weights(run, llava_folder, tmp_path) -> None:
    folder = llava_folder()
    (copy := tmp_path / "model").mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":  # no weight is needed
            (copy / file.name).write_bytes(file.read_bytes())
    ended = run("models", copy, "--size", "640x480", "--size", "100×300")
    assert ended.status == 0, ended.err
    assert "4 blocks: layers 0 to 4" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    told = run("models", copy, "--size", "640x480", "--dtype", "bfloat16", "--json").json
    assert (told["family"], told["layers"], told["d_model"]) == ("llava", 4, 32)
    (image,) = told["images"]
    assert (image["width"], image["height"], image["visual_tokens"]) == (640, 480, 16)
    assert image["capture_bytes"] == 16 * 5 * 32 * 2
    from patchlens.models.loading import load_model

    whole = load_model(folder)
    assert told["parameters"] == sum(parameter.numel() for parameter in whole.network.parameters())
    assert told["weight_bytes"] == 2 * told["parameters"]


def test_one_text_model(run, causal_folder) -> None:
    told = run("models", causal_folder(), "--json").json
    assert (told["family"], told["takes"], told["images"]) == ("causal", ["text"], [])


def test_sizes_and_models_that_are_none(run, llava_folder, tmp_path) -> None:
    for size in ("big", "10", "0x5", "1x40"):
        ended = run("models", llava_folder(), "--size", size)
        assert ended.status == 2
        assert "Traceback" not in ended.err
    assert run("models", tmp_path / "none").status == 2
    assert "int3" in run("models", llava_folder(), "--dtype", "int3").err
