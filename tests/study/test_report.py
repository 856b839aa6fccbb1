import base64
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from patchlens.analysis.drawing import figure_of, style, svg_text
from patchlens.analysis.finding import Finding, Table
from patchlens.errors import StorageError
from patchlens.study.report import write_findings, write_report

HOSTILE = "</style></script>\"'><img src=x onerror=\"document.title='run'\"><b>{{style}}&amp;"
TABLE = Table.of(("lens", "layer", "share"), [("latent", 0, 0.71234), ("latent", 8, 0.5), ("logit", 0, None)])


def draw(table: Table = TABLE, panels: int = 1) -> Callable[[], Any]:
    """Draws the table's first two rows in each panel."""

    def drawn() -> Any:
        with style():
            figure, axes = figure_of([f"panel {number}" for number in range(panels)], x="layer", y="share")
            for each in axes:
                each.plot([0, 8], [row[2] for row in table.rows[:2]])
        return figure

    return drawn


SHARES = Finding("shares", "Shares by layer", "From 3 images.", TABLE, draw())
WIDE = Finding("wide", "Shares of three models", "From 9 images.", TABLE, draw(panels=3))
WORDS = Finding("words", "Words", "No figure.", Table.of(("word",), [("boat",)]))


class Page(HTMLParser):
    """What a page holds, as a browser would take it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text("utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.said: dict[str, str] = {}
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.said[self.open[-1]] = self.said.get(self.open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes, _ in self.elements if found == tag]


def report(folder: Path, *findings: Finding, title: str = "A study", **more: Any) -> Path:
    path = folder / "report.html"
    options: dict[str, Any] = {"config_toml": "[study]\nk = 5\n", "about": {"patchlens": "1.0"}} | more
    write_report(path, title=title, findings=findings, **options)
    return path


def the_svg(page: Page, number: int = 0) -> str:
    kind, _, encoded = str(page.all("img")[number]["src"]).partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(encoded).decode()


class TestPage:
    def test_sections_stand_in_order_and_the_contents_lead_to_them(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES, WORDS, WIDE))
        sections = [section["id"] for section in page.all("section")]
        assert sections == ["shares", "words", "wide", "made"]
        assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in sections]
        assert page.said["a"] == "Shares by layerWordsShares of three modelsHow this was made"

    def test_needs_nothing_but_itself(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES, WORDS))
        places = [
            value
            for _, each, _ in page.elements
            for key, value in each.items()
            if key in ("src", "href", "srcset", "style")
        ]
        assert len(places) == 4
        assert all(str(place).startswith(("#", "data:image/svg+xml;base64,")) for place in places)
        assert not page.all("script")
        assert not page.all("link")
        assert "@import" not in page.said["style"]
        assert "url(" not in page.said["style"]

    def test_only_its_own_style_is_let_in(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES))
        policy = next(str(meta["content"]) for meta in page.all("meta") if "http-equiv" in meta)
        own = base64.b64encode(sha256(page.said["style"].encode()).digest()).decode()
        assert policy.startswith("default-src 'none'; ")
        assert f"style-src 'sha256-{own}'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy

    def test_the_figure_is_the_finding_s(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES, WIDE))
        assert the_svg(page) == svg_text(draw()())
        texts = ["".join(text.itertext()) for text in ElementTree.fromstring(the_svg(page)).findall(".//{*}text")]
        assert {"panel 0", "layer", "share"} <= set(texts)
        assert [image.get("class") for image in page.all("img")] == [None, "wide"]

    def test_figures_keep_their_shape(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES))
        image, svg = page.all("img")[0], ElementTree.fromstring(the_svg(page))
        width, height = (float(size.removesuffix("pt")) for size in (svg.attrib["width"], svg.attrib["height"]))
        assert int(str(image["width"])) / int(str(image["height"])) == pytest.approx(width / height, rel=0.01)

    def test_a_table_is_folded_away_beside_its_figure_only(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES, WORDS))
        inside = ["details" in around for tag, _, around in page.elements if tag == "table"]
        assert inside == [True, False]
        assert "lenslayershare" in page.said["th"]
        assert "latent00.7123latent80.5logit0" in page.said["td"]

    def test_a_long_table_is_cut_and_says_so(self, tmp_path: Path) -> None:
        table = Table.of(("number",), [(number,) for number in range(1234)])
        page = Page(report(tmp_path, Finding("long", "Long", "", table)))
        assert len(page.all("tr")) == 501
        assert "The first 500 of 1,234 rows; all are in " in page.said["p"]
        assert page.said["code"] == "tables/long.csv"

    def test_an_empty_table_says_so(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, Finding("none", "None", "", Table.of(("number",), []))))
        assert not page.all("table")
        assert "There is nothing to count." in page.said["p"]

    def test_everything_around_the_findings(self, tmp_path: Path) -> None:
        page = Page(
            report(tmp_path, summary=["One.", "Two."], notes=["Mind this."], about={"torch": "2.9", "python": "3.12"})
        )
        assert page.said["h1"] == "A study"
        assert page.said["title"] == "A study · patchlens"
        assert "One.Two." in page.said["p"]
        assert page.said["li"].strip() == "Mind this."
        assert (page.said["dt"], page.said["dd"]) == ("torchpython", "2.93.12")
        assert page.said["pre"] == "[study]\nk = 5\n"

    def test_without_summary_and_notes_nothing_stands_there(self, tmp_path: Path) -> None:
        page = Page(report(tmp_path, SHARES))
        assert not {"summary", "notes"} & {each.get("class") for _, each, _ in page.elements}

    def test_everything_is_escaped(self, tmp_path: Path) -> None:
        table = Table.of((HOSTILE, "b"), [(HOSTILE, 1)])
        drawn = Finding("a", HOSTILE, HOSTILE, table, draw())
        plain = Finding(HOSTILE, HOSTILE, HOSTILE, table)
        hostile = {"config_toml": HOSTILE, "about": {HOSTILE: HOSTILE}, "summary": [HOSTILE], "notes": [HOSTILE]}
        page = Page(report(tmp_path, drawn, plain, title=HOSTILE, **hostile))
        harmless = Page(
            report(tmp_path, *[Finding(name, "t", "n", Table.of(("a", "b"), [("c", 1)]), drawer) for name, drawer in
            [("a", draw()), ("b", None)]], about={"a": "b"}, summary=["s"], notes=["n"])
        )  # fmt: skip
        assert [(tag, around) for tag, _, around in page.elements] == [
            (tag, around) for tag, _, around in harmless.elements
        ]
        for tag in ("h1", "h2", "figcaption", "th", "td", "dt", "dd", "pre", "li", "p"):
            assert HOSTILE in page.said[tag], tag
        assert "{{" in page.said["h1"]
        assert "{{" not in harmless.text

    def test_the_same_findings_give_the_same_bytes(self, tmp_path: Path) -> None:
        first = report(tmp_path / "a", SHARES, WIDE).read_bytes()
        assert report(tmp_path / "b", SHARES, WIDE).read_bytes() == first

    def test_a_report_that_cannot_be_finished_leaves_the_old_one(self, tmp_path: Path) -> None:
        path = report(tmp_path, SHARES)
        before = path.read_bytes()

        def fail() -> Any:
            raise RuntimeError("no figure")

        with pytest.raises(RuntimeError, match="no figure"):
            report(tmp_path, SHARES, Finding("broken", "Broken", "", TABLE, fail))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_the_disk_s_refusals_are_ours(self, tmp_path: Path) -> None:
        (tmp_path / "report.html").mkdir()
        with pytest.raises(StorageError, match=r"report\.html"):
            report(tmp_path, SHARES)


class TestFindings:
    def test_every_table_and_figure_is_a_file(self, tmp_path: Path) -> None:
        write_findings(tmp_path, [SHARES, WORDS])
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
            *("figures/shares.png", "figures/shares.svg"),
            *("tables/shares.csv", "tables/shares.md", "tables/words.csv", "tables/words.md"),
        ]

    def test_tables_hold_the_numbers(self, tmp_path: Path) -> None:
        write_findings(tmp_path, [SHARES])
        assert (tmp_path / "tables/shares.csv").read_text("utf-8") == (
            "lens,layer,share\nlatent,0,0.71234\nlatent,8,0.5\nlogit,0,\n"
        )
        assert (tmp_path / "tables/shares.md").read_text("utf-8") == (
            "# Shares by layer\n\nFrom 3 images.\n\n"
            "| lens | layer | share |\n| --- | --- | --- |\n"
            "| latent | 0 | 0.7123 |\n| latent | 8 | 0.5 |\n| logit | 0 |  |\n"
        )

    def test_figures_can_be_opened(self, tmp_path: Path) -> None:
        write_findings(tmp_path, [SHARES])
        with Image.open(tmp_path / "figures/shares.png") as image:
            assert image.width > 400
        assert ElementTree.parse(tmp_path / "figures/shares.svg").getroot().tag.endswith("svg")

    def test_files_are_replaced(self, tmp_path: Path) -> None:
        write_findings(tmp_path, [SHARES])
        (tmp_path / "tables/shares.csv").write_text("old")
        write_findings(tmp_path, [SHARES])
        assert (tmp_path / "tables/shares.csv").read_text().startswith("lens,layer")


# --------------------------------------------------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a report; at the end no complaint may have been seen, and no request but for the file itself."""
    seen: list[str] = []
    tabs = []

    def open_report(*findings: Finding, **options: Any) -> Any:
        path = report(tmp_path, *findings, title=HOSTILE, notes=[HOSTILE])
        tab = chromium.new_page(**{"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"} | options)
        tabs.append(tab)
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("request", lambda request: seen.append(request.url) if not request.url.startswith("data:") else None)
        tab.goto(path.as_uri())
        return tab

    yield open_report
    for tab in tabs:
        tab.close()
    assert set(seen) == {(tmp_path / "report.html").as_uri()}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium")
@pytest.mark.skipif(sync_playwright is None, reason="playwright is not installed: pip install playwright")
class TestInABrowser:
    def test_figures_are_drawn_and_nothing_else_is(self, opened: Callable[..., Any]) -> None:
        page = opened(SHARES, WIDE, WORDS)
        drawn = "[...document.images].map(image => [image.complete, image.naturalWidth > 0])"
        assert page.evaluate(drawn) == [[True, True], [True, True]]
        assert page.title() == f"{HOSTILE} · patchlens"
        assert page.evaluate("getComputedStyle(document.body).display") == "grid"

    def test_works_without_scripts(self, opened: Callable[..., Any]) -> None:
        page = opened(SHARES, java_script_enabled=False)
        assert not page.get_by_role("table").is_visible()
        page.get_by_text("The numbers").click()
        assert page.get_by_role("table").is_visible()
        page.get_by_role("link", name="Shares by layer").click()
        assert page.url.endswith("#shares")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_figures_lie_on_white(self, opened: Callable[..., Any], scheme: str) -> None:
        page = opened(SHARES, color_scheme=scheme)
        color = "getComputedStyle(document.querySelector('{}')).backgroundColor"
        assert page.evaluate(color.format(".card")) == "rgb(255, 255, 255)"
        assert (page.evaluate(color.format("body")) == "rgb(17, 20, 26)") is (scheme == "dark")

    def test_on_a_phone_only_figures_and_tables_scroll_to_the_side(self, opened: Callable[..., Any]) -> None:
        wide = Finding("columns", "Columns", "", Table.of([f"a long column {n}" for n in range(20)], [range(20)]))
        page = opened(SHARES, WIDE, wide, viewport={"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        scrolls = "[...document.querySelectorAll('.card, .table')].map(box => box.scrollWidth > box.clientWidth)"
        assert page.evaluate(scrolls) == [False, False, True, False, True]

    def test_on_paper_folded_tables_are_left_out(self, opened: Callable[..., Any]) -> None:
        page = opened(SHARES, color_scheme="dark")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.get_by_text("The numbers").is_visible()
        page.evaluate("document.querySelector('details').open = true")
        assert page.get_by_role("table").is_visible()


def test_no_two_pictures_share_an_id(tmp_path: Path) -> None:
    page = Page(report(tmp_path, SHARES, WIDE))
    ids = [set(re.findall(r'\bid="([^"]+)"', the_svg(page, number))) for number in (0, 1)]
    assert not ids[0] & ids[1]


def test_a_figure_that_was_drawn_is_not_drawn_again_and_old_ones_go(tmp_path: Path) -> None:
    calls = 0

    def drawn() -> Any:
        nonlocal calls
        calls += 1
        return draw()()

    finding = replace(SHARES, draw=drawn)
    figures = write_findings(tmp_path, [finding, replace(finding, name="old")])
    assert calls == 2
    page = tmp_path / "report.html"
    write_report(page, title="t", findings=[finding], config_toml="", about={}, figures=figures)
    assert calls == 2
    assert the_svg(Page(page)) == figures[SHARES.name]
    write_findings(tmp_path, [finding])
    assert {path.stem for path in (*tmp_path.glob("tables/*"), *tmp_path.glob("figures/*"))} == {SHARES.name}
