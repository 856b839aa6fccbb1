"""The page in a real browser: what it shows, how it is used, and that nothing runs or leaves it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from lenses import synthetic
from patchlens.lenses.reading import Readings
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.tile import Tile
from patchlens.views.page import page, write_page
from patchlens.views.show import _display

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium"),
    pytest.mark.skipif(sync_playwright is None, reason="playwright is not installed: pip install playwright"),
]

HOSTILE = "</script><img src=x onerror=\"document.title='run'\">"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens readings in a new tab; at the end, no error, no complaint and no request may have been seen."""
    complaints: list[str] = []
    tabs = []

    def open_page(readings: Readings, hash: str = "", **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"} | options
        tab = chromium.new_page(**options)
        tabs.append(tab)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda request: _note(complaints, request.url))
        path = write_page(readings, tmp_path / "page.html")
        tab.goto(path.as_uri() + hash)
        tab.wait_for_selector("html[data-ready]")
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    assert complaints == []


def _note(complaints: list[str], url: str) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        complaints.append(url)


def cards(tab: Any, lens: str) -> list[str]:
    return tab.locator(f".column[data-lens={lens}] .card .word").all_inner_texts()  # type: ignore[no-any-return]


def place(tab: Any) -> str:
    return tab.locator("#place").inner_text()  # type: ignore[no-any-return]


def over(tab: Any, row: int, column: int, rows: int = 4, columns: int = 6) -> tuple[float, float]:
    box = tab.locator("#stage").bounding_box()
    return box["x"] + (column + 0.5) / columns * box["width"], box["y"] + (row + 0.5) / rows * box["height"]


def with_text_token(scene: Readings) -> Readings:
    """The readings and one more: a text token before the picture, whose word fits best of all."""
    said = {"position": 0, "kind": "text", "rank": 1, "word": "describe", "token": "▁describe", "similarity": 2.0}
    found = [
        synthetic.table(
            {name: [value] for name, value in ({"image": "scene", "lens": "latent", "layer": layer} | said).items()}
        )
        for layer in scene.layers
    ]
    return Readings(pa.concat_tables([scene.table, *found]), images=scene.images, tiles=scene.tiles, provenance=[])


def focused(tab: Any) -> list[str]:
    """The id of the box that the focused button is in, and the button's text."""
    found = "(a => [a.closest('[id]')?.id, a === document.body ? '' : a.textContent])(document.activeElement)"
    return tab.evaluate(found)  # type: ignore[no-any-return]


def test_shows_what_the_readings_say(opened: Open) -> None:
    scene = synthetic.readings()
    tab = opened(scene, "#layer=1&patch=2,3")
    assert place(tab).startswith("Row 2, column 3")
    for lens in scene.lenses:
        assert cards(tab, lens) == list(scene.at(layer=1, row=2, column=3, lens=lens).words)
    assert tab.locator(".column").first.get_attribute("data-lens") == "latent"
    best = tab.locator(".column[data-lens=latent] .card").first
    assert best.locator("mark").inner_text() == "dog"
    assert best.locator(".unread").inner_text() == " stands near the garden gate"
    assert best.locator(".badge").inner_text() == "layer 1"
    similarity = scene.at(layer=1, row=2, column=3, lens="latent").candidates[0].similarity
    assert best.locator(".value").inner_text() == f"{similarity:.3f}"
    assert "tiny" in tab.locator("footer").inner_text()
    assert "picturebook (1,000 contexts" in tab.locator("footer").inner_text()


def test_hover_previews_and_click_pins(opened: Open) -> None:
    tab = opened(synthetic.readings(), "#layer=1&patch=0,0")
    tab.mouse.move(*over(tab, 3, 5))
    assert place(tab).startswith("Row 3, column 5")
    tab.mouse.move(5, 5)
    assert place(tab).startswith("Row 0, column 0")
    tab.mouse.click(*over(tab, 3, 5))
    tab.mouse.move(5, 5)
    assert place(tab).startswith("Row 3, column 5")
    assert "patch=3,5" in tab.evaluate("location.href")


def test_boxes_are_the_patch_grids_own(opened: Open) -> None:
    """A grid over the middle of the image: outside it there is no patch."""

    scene = synthetic.readings(rows=4, columns=4)
    grid = PatchGrid(4, 4, (64, 96), (0.0, 16.0, 64.0, 80.0))
    cropped = Readings(scene.table, images=scene.images, tiles={"scene": [Tile(grid)]}, provenance=[])
    tab = opened(cropped, "#patch=3,3")
    box = tab.locator("#stage").bounding_box()
    tab.mouse.click(box["x"] + box["width"] * 20 / 96, box["y"] + box["height"] * 20 / 64)
    assert place(tab).startswith("Row 1, column 0")
    tab.mouse.click(box["x"] + box["width"] * 10 / 96, box["y"] + box["height"] * 20 / 64)
    tab.mouse.move(5, 5)
    assert place(tab).startswith("Row 1, column 0")


def test_keys(opened: Open) -> None:
    tab = opened(synthetic.readings(), "#layer=0&patch=0,0&lens=latent")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#layer-name").inner_text() == "1"
    tab.locator("#layer").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#layer-name").inner_text() == "2"
    tab.keyboard.press("ArrowRight")  # there is no further layer
    assert tab.locator("#layer-name").inner_text() == "2"
    tab.locator("#stage").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        tab.keyboard.press(key)
    assert place(tab).startswith("Row 0, column 2")
    assert "row 0, column 2. LatentLens: " in tab.locator("#announce").inner_text()
    tab.keyboard.press("[")
    assert tab.locator("#layer-name").inner_text() == "1"
    tab.keyboard.press("2")
    assert "lens=logit" in tab.evaluate("location.href")
    tab.keyboard.press("/")
    tab.keyboard.type("w[2")  # in the search field keys are letters
    assert tab.locator("#query").input_value() == "w[2"
    assert "lens=logit" in tab.evaluate("location.href")
    tab.keyboard.press("Escape")
    assert "word=" not in tab.evaluate("location.href")


def test_arrows_lead_from_a_text_token_into_the_picture(opened: Open) -> None:
    tab = opened(with_text_token(synthetic.readings()), "#layer=0&position=0")
    assert place(tab).startswith("Text token at position 0")
    tab.locator("#stage").focus()
    tab.keyboard.press("ArrowDown")
    assert place(tab).startswith("Row 0, column 0")
    tab.keyboard.press("ArrowDown")
    assert place(tab).startswith("Row 1, column 0")


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_button_pressed_by_key_keeps_the_focus(opened: Open, key: str) -> None:
    scenes = Readings.join([with_text_token(synthetic.readings()), synthetic.readings("other")])
    tab = opened(scenes, "#layer=0&image=scene&patch=0,0")
    for button, shown in [
        ("#text-tokens button", ["text-tokens", "0describe"]),
        ("#lenses button >> nth=1", ["lenses", "LogitLens"]),
        ("#through button >> nth=2", ["through", "2"]),
        ("#images button >> nth=1", ["images", ""]),
    ]:
        tab.locator(button).focus()
        tab.keyboard.press(key)
        assert focused(tab) == shown
    assert place(tab).endswith("layer 2 · other")
    assert "lens=logit" in tab.evaluate("location.href")
    tab.locator("#through button").first.focus()
    tab.mouse.move(*over(tab, 3, 5))
    assert "click to keep" in place(tab)
    assert focused(tab) == ["through", "0"]


def test_a_lens_that_measures_nothing(opened: Open, unmeasured: Readings) -> None:
    tab = opened(unmeasured, "#show=words,colour")
    assert place(tab).startswith("Row 0, column 0")
    assert len(cards(tab, "random")) == 3
    assert tab.locator(".card .value").all_inner_texts() == ["–"] * 3
    assert tab.locator(".column h3 small").inner_text() == "not measured"
    assert not tab.locator("#scale").is_visible()
    assert "NaN" not in tab.locator("body").inner_text()


def test_a_star_that_was_read_is_a_word(opened: Open) -> None:
    scene = synthetic.readings(words=("*", "dog", "doge", "do*", "sky"), layers=(0,), lenses=("logit",), k=1)
    tab = opened(scene)
    tab.locator("#suggestions button").filter(has=tab.get_by_text("*", exact=True)).click()
    for query, words in {"*": ["*"], "do*": ["do*"], "dog*": ["dog", "doge"], "**": ["*"]}.items():
        if query != "*":
            tab.locator("#query").fill(query)
        assert f"“{query}”" in tab.locator("#found").inner_text()
        count = sum(len(scene.select(word=word)) for word in words)
        assert tab.locator("#found").inner_text().startswith(f"{count} patches have")


def test_search_lights_up_and_counts(opened: Open) -> None:
    scene = synthetic.readings(layers=tuple(range(9)))
    tab = opened(scene, "#layer=3&lens=latent&show=grid")
    before = tab.locator("#overlay").screenshot()
    tab.locator("#query").fill("grass")
    here = len(scene.select(lens="latent", layer=3, word="grass"))
    assert tab.locator("#found").inner_text().startswith(f"{here} patches have “grass” among the best 3 at layer 3")
    assert tab.locator("#overlay").screenshot() != before
    bars = tab.locator(".strip[data-lens=logit] button")
    counts = [len(scene.select(lens="logit", layer=layer, word="grass")) for layer in range(9)]
    titles = [bars.nth(i).get_attribute("title") for i in range(9)]
    assert titles == [f"LogitLens, layer {layer}: {count}" for layer, count in enumerate(counts)]
    bars.nth(7).click()
    assert "layer=7" in tab.evaluate("location.href")
    assert "lens=logit" in tab.evaluate("location.href")
    tab.locator("#query").fill("gra*")
    assert "word=gra*" in tab.evaluate("location.href")
    assert f"{counts[7]} patches" in tab.locator("#found").inner_text()
    tab.locator("#query").fill("gras")
    assert "none at any layer" in tab.locator("#found").inner_text()
    tab.locator("#suggestions button", has_text="grass").click()
    assert f"{counts[7]} patches" in tab.locator("#found").inner_text()


def test_a_link_brings_everything_back(opened: Open) -> None:
    both = Readings.join([synthetic.readings("a, b & c"), synthetic.readings("日本", seed=1)])
    tab = opened(both)
    tab.locator("#images button").nth(1).click()
    tab.locator("#layer").fill("2")
    tab.locator("#lenses button", has_text="EmbeddingLens").click()
    tab.locator("#query").fill("sky")
    tab.locator("#colour").click()
    tab.mouse.click(*over(tab, 2, 4))
    tab.mouse.move(5, 5)
    again = opened(both, "#" + tab.evaluate("location.href").split("#")[1])
    assert again.url == tab.evaluate("location.href")
    for one in (tab, again):
        assert place(one).startswith("Row 2, column 4")
        assert one.locator("#images [aria-pressed=true]").get_attribute("title") == "日本"
        assert one.locator("#query").input_value() == "sky"
        assert one.locator("#colour").get_attribute("aria-pressed") == "true"
        assert one.locator("#lenses [aria-pressed=true]").inner_text() == "EmbeddingLens"
        assert one.locator("#layer-name").inner_text() == "2"
    again.evaluate("location.hash = 'image=a%2C%20b%20%26%20c&layer=0&patch=1,1'")
    again.wait_for_function("document.getElementById('place').textContent.startsWith('Row 1')")
    assert again.locator("#images [aria-pressed=true]").get_attribute("title") == "a, b & c"


@pytest.mark.parametrize("hash", ["#layer=99&patch=50,50&lens=tuned&image=no", "#&&==%%", "#position=abc"])
def test_a_link_that_fits_nothing(opened: Open, hash: str) -> None:
    tab = opened(synthetic.readings(), hash)
    assert place(tab).startswith("Row ")
    assert len(cards(tab, "latent")) == 3


def test_hostile_texts_are_shown_as_they_are(opened: Open) -> None:
    words = (HOSTILE, "<b>bold</b>", "&amp;", "\u202eright", "a\u2028b")
    scene = synthetic.readings(HOSTILE, words=words, sentences=tuple(f"the {word} <i>end</i>" for word in words))
    tab = opened(scene, "#layer=0&patch=0,0&show=words,colour,grid")
    assert tab.title() == f"{HOSTILE} · patchlens"
    assert tab.locator("h1").inner_text() == HOSTILE
    assert cards(tab, "latent")[:2] == list(words[:2])
    assert tab.locator("img").count() == 1
    assert tab.locator("b, i:not(.meter i):not(.scale i)").count() == 0
    tab.locator("#query").fill(HOSTILE)
    assert HOSTILE in tab.locator("#found").inner_text()


def test_the_mark_stands_right_after_characters_outside_the_basic_plane(opened: Open) -> None:
    scene = synthetic.readings(words=("rocket",), sentences=("🚀🚀 a 👩‍🚀 rocket flies",), lenses=("latent",))
    tab = opened(scene)
    assert tab.locator(".card mark").first.inner_text() == "rocket"
    assert tab.locator(".card .unread").first.inner_text() == " flies"


def test_text_alone(opened: Open) -> None:
    tab = opened(synthetic.text_readings())
    assert not tab.locator("#stage").is_visible()
    assert tab.locator("#text-tokens button").count() == 4
    tab.locator("#text-tokens button").nth(1).click()
    assert place(tab).startswith("Text token at position 1")
    assert cards(tab, "logit") == ["upon"]
    assert "position=1" in tab.evaluate("location.href")


def test_nothing_to_show(opened: Open) -> None:
    tab = opened(synthetic.readings().select(word="nobody"))
    assert "no readings" in tab.locator("h1").inner_text()


def test_readings_with_holes(opened: Open) -> None:
    part = synthetic.readings().select(word="grass")
    one = next(iter(part.select(lens="latent", layer=0)))
    tab = opened(part, f"#layer=0&patch={one.row},{one.column}")
    assert cards(tab, "latent") == list(one.words)


def test_saving_the_picture(opened: Open, tmp_path: Path) -> None:
    tab = opened(synthetic.readings(), "#layer=1&lens=latent&patch=0,0")
    with tab.expect_download() as download:
        tab.locator("#save").click()
    assert download.value.suggested_filename == "scene-layer1-latent.png"
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as saved:
        assert saved.size == (1600, round(1600 * 64 / 96))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_fits_laptops_and_phones_in_light_and_dark(opened: Open, scheme: str, width: int, height: int) -> None:
    big = synthetic.readings(rows=32, columns=32, layers=tuple(range(41)), k=2)
    tab = opened(big, "#word=dog", viewport={"width": width, "height": height}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    background, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    lightness = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (background, ink)]
    assert (lightness[0] > 200 > 60 > lightness[1]) == (scheme == "light")
    assert abs(lightness[0] - lightness[1]) > 180


def test_inside_a_notebook_frame(chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    shown: list[str] = []
    display = ModuleType("IPython.display")
    display.HTML = str  # type: ignore[attr-defined]
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    _display(synthetic.readings(), None)
    host = tmp_path / "notebook.html"
    host.write_text(f"<!doctype html><meta charset=utf-8>{shown[0]}", encoding="utf-8")
    tab = chromium.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(host.as_uri())
    frame = tab.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for(state="attached")
    frame.locator("#lenses button", has_text="LogitLens").click()
    assert frame.locator("#lenses [aria-pressed=true]").inner_text() == "LogitLens"
    assert errors == []
    tab.close()


def test_our_own_policy_stops_foreign_code(chromium: Any, tmp_path: Path) -> None:
    """Were a text to become markup after all: the test above could fail, and the policy would still hold."""
    broken = page(synthetic.readings()).replace("<h1 id", "<img src=x onerror=\"document.title='run'\"><h1 id")
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    tab = chromium.new_page()
    tab.goto((tmp_path / "broken.html").as_uri())
    tab.wait_for_selector("html[data-ready]")
    assert tab.title() == "scene · patchlens"
    tab.close()


def in_tiles() -> Readings:
    """Two tiles one above the other and a thumbnail, of 1 × 2 patches each; tokens 0 to 5 in this order."""
    scene = synthetic.readings(rows=1, columns=6)
    token = scene.table["column"].to_numpy()
    table = scene.table.set_column(scene.table.schema.get_field_index("tile"), "tile", pa.array(token // 2, pa.int32()))
    table = table.set_column(table.schema.get_field_index("column"), "column", pa.array(token % 2, pa.int32()))
    parts = [(0.0, 0.0, 32.0, 96.0), (32.0, 0.0, 64.0, 96.0), (0.0, 0.0, 64.0, 96.0)]
    grids = [PatchGrid(1, 2, (64, 96), region) for region in parts]
    tiles = [Tile(grid, role) for grid, role in zip(grids, ("tile", "tile", "thumbnail"), strict=True)]
    return Readings(table, images=scene.images, tiles={"scene": tiles}, provenance=[])


def test_tiles_and_thumbnail(opened: Open) -> None:
    tab = opened(in_tiles(), "#layer=0&patch=0,0,1")
    assert tab.locator("#views button").all_inner_texts() == ["Tiles", "Thumbnail"]
    assert place(tab).startswith("Tile 0, row 0, column 1")
    tab.locator("#stage").focus()
    tab.keyboard.press("ArrowDown")
    assert place(tab).startswith("Tile 1, row 0, column 1")
    assert "patch=1,0,1" in tab.evaluate("location.href")
    tab.keyboard.press("v")
    assert place(tab).startswith("Thumbnail, row 0, column")
    tab.mouse.move(*over(tab, 0, 0, rows=1, columns=2))
    assert place(tab).startswith("Thumbnail, row 0, column 0")
    tab.locator("#views button >> nth=0").click()
    tab.mouse.move(*over(tab, 1, 0, rows=2, columns=2))
    assert place(tab).startswith("Tile 1, row 0, column 0")


def test_one_tile_has_no_choice_of_views(opened: Open) -> None:
    assert opened(synthetic.readings()).locator("#views").is_hidden()


def test_a_recording_is_a_list_with_its_seconds(opened: Open) -> None:
    count = 4
    found = {
        "image": ["hum"] * count,
        "lens": ["logit"] * count,
        "layer": [0] * count,
        "position": [7, 8, 9, 10],
        "kind": ["audio", "audio", "audio", "answer"],
        "start": [0.0, 0.04, 0.08, None],
        "end": [0.04, 0.08, 0.12, None],
        "rank": [1] * count,
        "word": ["a", "hum", "b", "word"],
        "token": ["a", "hum", "b", "word"],
        "logit": [1.0, 3.0, 2.0, 9.0],
    }
    tab = opened(Readings(synthetic.table(found), images={"hum": None}, tiles={}, provenance=[]))
    assert place(tab).startswith("0.04 to 0.08 s")
    assert tab.locator("#words").is_hidden()
    assert tab.locator("#text-tokens button").all_inner_texts() == ["0.00a", "0.04hum", "0.08b", "10word"]
    tab.locator("#text-tokens button >> nth=3").click()
    assert place(tab).startswith("Answer at position 10")
