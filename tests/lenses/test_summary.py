from html.parser import HTMLParser

import pyarrow as pa

from lenses import synthetic
from patchlens.lenses.reading import Readings
from patchlens.lenses.summary import excerpt, html, line, printable

HOSTILE = "</td></script><img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_excerpt_is_few_spread_and_different() -> None:
    scene = synthetic.readings(layers=tuple(range(12)))
    places, layers = excerpt(scene, image="scene", places=4, layers=4)
    assert layers == (0, 4, 7, 11)
    assert len({place.position for place in places}) == 4
    words = [scene.at(layer=6, lens="latent", position=place.position).words[0] for place in places]
    assert len(set(words)) == 4


def test_excerpt_of_less_than_asked_for() -> None:
    one = synthetic.readings(rows=1, columns=2, layers=(5,), lenses=("logit",), words=("sky",), k=1)
    places, layers = excerpt(one, image="scene")
    assert layers == (5,)
    assert [(place.row, place.column, place.label) for place in places] == [(0, 0, "0, 0"), (0, 1, "0, 1")]
    places, _ = excerpt(synthetic.text_readings(), image="text", places=2)
    assert [place.label for place in places] == ["position 2", "position 3"]


def test_html_is_a_table_with_a_thumbnail_and_no_script() -> None:
    tags = Tags()
    tags.feed(synthetic.readings()._repr_html_())
    names = [tag for tag, _ in tags.seen]
    assert "table" in names
    assert "script" not in names
    (image,) = [attributes for tag, attributes in tags.seen if tag == "img"]
    assert (image["src"] or "").startswith("data:image/png;base64,")


def test_html_escapes_words_and_names() -> None:
    scene = synthetic.readings(name=HOSTILE, words=(HOSTILE, "fine"), lenses=("logit",))
    text = html(scene)
    assert "&lt;img src=x" in text
    tags = Tags()
    tags.feed(text)
    assert all("onerror" not in attributes for _, attributes in tags.seen)
    assert [tag for tag, _ in tags.seen].count("img") == 1


def test_html_of_nothing_and_of_text() -> None:
    assert "0 of 0 images" in html(synthetic.readings().select(word="nobody says this"))
    assert "position 3" in html(synthetic.text_readings())


def test_html_says_what_its_places_are() -> None:
    assert "<th>row, col</th>" in html(synthetic.readings())
    assert "<th>position</th>" in html(synthetic.text_readings())
    said = synthetic.text_readings()
    heard = said.table.set_column(
        said.table.column_names.index("start"), "start", pa.array([0.5] * said.table.num_rows, pa.float32())
    )
    text = html(Readings(heard, images={"text": None}, tiles={}))
    assert "<th>time</th>" in text
    assert "0.50 s" in text
    scene = synthetic.readings()
    tiled = Readings(scene.table, images=scene.images, tiles={"scene": scene.tiles["scene"] * 2})
    assert "<th>tile: row, col</th>" in html(tiled)


def test_html_of_many_images_stays_small() -> None:
    many = Readings.join([synthetic.readings(f"scene {i}", lenses=("logit",)) for i in range(5)])
    assert html(many).count("<table>") == 3


def test_line_says_each_word_once_and_shows_blanks() -> None:
    reading = synthetic.readings(words=("dog", "Dog", "  ", "sky"), k=4, rows=1, columns=1, lenses=("logit",)).at(
        layer=0
    )
    assert line(reading, 3) == "dog, ▁  , sky"
    assert line(None, 3) == ""


def test_nothing_steers_the_terminal() -> None:
    assert printable("a\x1b[31mb\u202ec\nd") == "a\ufffd[31mb\ufffdc\ufffdd"
    assert printable("क्‍ष 日本 👩‍🚀") == "क्‍ष 日本 👩‍🚀"
