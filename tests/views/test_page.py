import base64
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lenses import synthetic
from patchlens.errors import StorageError
from patchlens.views.document import document
from patchlens.views.page import page, write_page

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "{{script}}",
    "&lt;b&gt;",
    "line\u2028and\u2029paragraph",
    "\\u003c 'quotes\" `ticks` ${x}",
)


class Parts(HTMLParser):
    """What a browser would make of a page: its tags, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts.append((self.tags[-1][0], data))


def parsed(text: str) -> Parts:
    parts = Parts()
    parts.feed(text)
    return parts


def test_nothing_is_fetched() -> None:
    text = page(synthetic.readings())
    for _, attributes in parsed(text).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert name not in attributes, attributes
        assert not any(name.startswith("on") for name in attributes)
    outside_the_data = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert "://" not in outside_the_data
    assert "@import" not in outside_the_data
    assert "url(" not in outside_the_data


def test_the_policy_allows_our_script_and_style_and_nothing_else() -> None:
    text = page(synthetic.readings())
    parts = parsed(text)
    policy = next(tag["content"] for name, tag in parts.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, block in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        (content,) = re.findall(block, text, flags=re.DOTALL)
        assert rules[kind] == f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


def test_hostile_texts_stay_texts() -> None:
    readings = synthetic.readings(
        HOSTILE[0], words=HOSTILE, sentences=tuple(f"before {word} after" for word in HOSTILE)
    )
    text = page(readings, title=HOSTILE[0])
    parts = parsed(text)
    # In the template there is one image, without a source, two scripts, and no comment.
    assert [attributes for tag, attributes in parts.tags if tag == "img"] == [{"id": "photo", "alt": ""}]
    assert [tag for tag, _ in parts.tags].count("script") == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert not set("<>&\u2028\u2029") & set(data)
    assert json.loads(data) == document(readings, title=HOSTILE[0])
    assert sorted(json.loads(data)["words"]) == sorted(HOSTILE)
    assert "&lt;/script&gt;" in text.split("</title>")[0]


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(synthetic.readings(), tmp_path / "page.html")
    whole = path.read_text(encoding="utf-8")
    assert whole == page(synthetic.readings())

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text.encode()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=r"page\.html"):
        write_page(synthetic.readings("other"), path)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == whole
    assert list(tmp_path.iterdir()) == [path]


def test_our_script_writes_text_only() -> None:
    from importlib.resources import files

    script = (files("patchlens.views") / "web" / "page.js").read_text(encoding="utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert way not in script
