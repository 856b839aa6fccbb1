"""The annotation page in a real browser: two people by keyboard alone, lost servers, stale tabs, small screens."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from patchlens.evaluation.agreement import agreement
from patchlens.evaluation.answers import open_answers
from patchlens.evaluation.ratings import people, ratings
from patchlens.evaluation.verdict import VERDICTS, Answer
from views import annotating, test_browser

chromium = test_browser.chromium
pytestmark = test_browser.pytestmark

Open = Callable[..., Any]
Serve = Callable[..., annotating.Served]
FAILED = ("Failed to load resource",)
"""What a browser says itself when a request fails, which some tests are about."""
SEEN = "[...document.querySelectorAll('.pictures img')].every(one => one.complete && one.naturalWidth)"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serve]:
    running: list[annotating.Served] = []

    def serve(kind: str = "six", folder: Path | None = None, **options: Any) -> annotating.Served:
        running.append(annotating.start(folder or tmp_path / "answers", kind, **options))
        return running[-1]

    yield serve
    for one in running:
        one.process.kill()
        one.process.join()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Open]:
    """Opens the page in a browser of one's own; at the end it may not have complained, nor have called anyone else."""
    complaints: list[str] = []
    contexts = []

    def open_page(server: annotating.Served, query: str = "", allowed: tuple[str, ...] = (), **options: Any) -> Any:
        options = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"} | options
        context = chromium.new_context(**options)
        contexts.append(context)
        tab = context.new_page()

        def note(text: str) -> None:
            if not any(text.startswith(one) for one in allowed):
                complaints.append(text)

        tab.on("console", lambda message: note(message.text))
        tab.on("pageerror", lambda error: note(str(error)))
        tab.on("request", lambda request: None if request.url.startswith(server.url) else note(request.url))
        tab.goto(server.url + query)
        tab.wait_for_selector("html[data-at]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def until(tab: Any, expression: str) -> None:
    """Playwright's own wait would have to evaluate text in the page, which its policy forbids."""
    for _ in range(200):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"never became true: {expression}")


def press(tab: Any, keys: str) -> None:
    """Letters and the names of keys, one after another; before Enter the pictures are waited for."""
    for key in keys.split():
        if key == "Enter":
            until(tab, SEEN)
        tab.keyboard.press(key)


def words(tab: Any) -> list[str]:
    return tab.locator(".word").all_inner_texts()  # type: ignore[no-any-return]


def chosen(tab: Any) -> list[str | None]:
    """The verdict of each word, as assistive technology is told."""
    groups = tab.get_by_role("radiogroup").all()
    found = [group.get_by_role("radio", checked=True).all_inner_texts() for group in groups]
    assert all(len(one) <= 1 for one in found)
    return [one[0] if one else None for one in found]


def here(tab: Any) -> str:
    return tab.locator(".candidate.here .word").inner_text()  # type: ignore[no-any-return]


def count(tab: Any) -> str:
    return tab.locator("#count").inner_text()  # type: ignore[no-any-return]


def saved(tab: Any) -> None:
    tab.wait_for_selector("#saved[data-state=saved]")


# ---------------------------------------------------------------- two people

# By word: what Anna and Ben find in the end. c concrete, a abstract, g global, u unrelated.
EVERY_WORD = [word for row in annotating.WORDS for word in row]
ANNA = dict(zip(EVERY_WORD, "ccagu ccagu uuuuu uuguu caucu ccccc".replace(" ", ""), strict=True))
BEN = dict(zip(EVERY_WORD, "ccagu ccauu uuuuu uuuuu caucu sssss".replace(" ", ""), strict=True))
DIGITS = {"c": "1", "a": "2", "g": "3", "u": "4"}


def judge(tab: Any, plan: dict[str, str], *, digits: bool = False, last: str = "Enter") -> None:
    """Give every word of the question in sight its verdict, or skip it."""
    keys = [plan[word] for word in words(tab)]
    if keys[0] == "s":
        press(tab, "s")
    else:
        press(tab, " ".join([DIGITS[key] if digits else key for key in keys] + [last]))


def test_two_people_by_keyboard_and_their_kappa(serving: Serve, opened: Open) -> None:
    server = serving()
    anna, ben = opened(server), opened(server, "?annotator=Ben")
    anna.keyboard.type("Anna Müller")
    anna.keyboard.press("Enter")
    anna.wait_for_selector("html[data-at=question]")
    assert "annotator=Anna%20M%C3%BCller" in anna.url

    orders: list[list[str]] = [[], []]
    for number in range(1, 7):
        assert count(anna) == count(ben) == f"Question {number} of 6"
        for tab, seen in ((anna, orders[0]), (ben, orders[1])):
            seen.append(" ".join(sorted(words(tab))))
        if number == 3:  # Anna errs, sees it one question later, goes back and mends it
            judge(anna, dict.fromkeys(ANNA, "g"))
            press(anna, "c Backspace")
            assert chosen(anna) == ["global"] * 5
            judge(anna, ANNA)
            assert chosen(anna) == ["concrete"] + [None] * 4  # as it was left
            press(anna, "Backspace")
            assert count(anna) == "Question 3 of 6"
            press(anna, "Enter")  # unchanged
            press(anna, "ArrowUp")
        else:
            judge(anna, ANNA)
        if number == 4:  # Ben's browser is reloaded in the middle of a question
            press(ben, f"{DIGITS.get(BEN[words(ben)[0]], 's')}")
            saved(ben)
            before = (count(ben), words(ben), chosen(ben))
            ben.reload()
            ben.wait_for_selector("html[data-at=question]")
            assert (count(ben), words(ben), chosen(ben)) == before
            press(ben, "ArrowUp ArrowUp")
        judge(ben, BEN, digits=True)

    for tab in (anna, ben):
        tab.wait_for_selector("html[data-at=end]")
        saved(tab)
    assert orders[0] != orders[1]
    assert set(orders[0]) == set(orders[1])
    assert "6 of 6 questions answered, 0 skipped. Everything is saved" in anna.locator("#end-text").inner_text()
    assert "5 of 6 questions answered, 1 skipped" in ben.locator("#end-text").inner_text()

    questions = annotating.six()
    found = ratings(questions, people(server.folder))
    assert set(found.verdicts) == {"Anna Müller", "Ben"}
    for rater, plan in (("Anna Müller", ANNA), ("Ben", BEN)):
        for question in questions:
            for number, shown in enumerate(question.candidates, start=1):
                expected = {verdict[0]: verdict for verdict in VERDICTS}.get(plan[shown.word])
                assert found.verdicts[rater].get(f"{question.id} {number}") == expected
    assert found.undecided == {"Anna Müller": {}, "Ben": {"skipped": 1}}

    # By hand, on the 25 words of the five questions that both decided: alike 23; Anna said c 6, a 3, g 3, u 13,
    # Ben c 6, a 3, g 1, u 15, so by chance (36 + 9 + 3 + 195) / 25 = 243 / 25. κ = (23·25 - 243) / (625 - 243).
    by_word = agreement(found.verdicts, clusters=found.images, draws=100).pairs["Anna Müller", "Ben"]
    assert (by_word.value, by_word.items) == (pytest.approx(332 / 382), 25)
    # Patches: Anna finds 4 of 5 interpretable, Ben 3 of these. Alike 4; by chance (4·3 + 1·2) / 5 = 14 / 5.
    # κ = (4·5 - 14) / (25 - 14).
    by_patch = agreement(found.patches, draws=100).pairs["Anna Müller", "Ben"]
    assert (by_patch.value, by_patch.items) == (pytest.approx(6 / 11), 5)


# ---------------------------------------------------------------- keys


def test_a_verdict_leads_to_the_next_word_and_enter_to_the_next_question(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    first = words(tab)
    assert (here(tab), chosen(tab)) == (first[0], [None] * 5)
    press(tab, "c A")  # capitals are the same keys
    assert (here(tab), chosen(tab)[:3]) == (first[2], ["concrete", "abstract", None])
    press(tab, "Enter")
    assert (words(tab), here(tab)) == (first, first[2])
    assert tab.locator("#note").inner_text() == "3 words still without a verdict."
    press(tab, "g 4 u")
    assert chosen(tab) == ["concrete", "abstract", "global", "unrelated", "unrelated"]
    assert tab.evaluate("document.activeElement.id") == "next"
    press(tab, "c")
    assert chosen(tab)[4] == "unrelated"
    assert "Enter keeps them" in tab.locator("#note").inner_text()
    press(tab, "Enter")
    assert (count(tab), chosen(tab)) == ("Question 2 of 6", [None] * 5)
    assert words(tab) != first


def test_arrows(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    said = words(tab)
    press(tab, "ArrowDown ArrowDown")
    assert here(tab) == said[2]
    press(tab, "ArrowRight")
    assert chosen(tab)[2] == "concrete"
    press(tab, "ArrowRight ArrowRight")
    assert chosen(tab)[2] == "global"
    press(tab, "ArrowLeft ArrowLeft ArrowLeft")
    assert (chosen(tab), here(tab)) == ([None, None, "unrelated", None, None], said[2])
    press(tab, "ArrowUp ArrowUp ArrowUp ArrowUp")
    assert here(tab) == said[0]
    press(tab, "ArrowDown " * 9)
    assert tab.evaluate("document.activeElement.id") == "next"
    press(tab, "ArrowUp")
    assert here(tab) == said[4]


def test_a_key_held_down_answers_once(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    for _ in range(8):
        tab.keyboard.down("c")
    tab.keyboard.up("c")
    assert chosen(tab) == ["concrete"] + [None] * 4
    for _ in range(4):
        tab.keyboard.down("s")
    assert count(tab) == "Question 2 of 6"


def test_browser_keys_are_left_to_the_browser(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    press(tab, "Control+c Alt+a Meta+g")
    assert chosen(tab) == [None] * 5


def test_back_at_the_first_question(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    press(tab, "Backspace")
    assert (count(tab), tab.locator("#note").inner_text()) == ("Question 1 of 6", "This is the first question.")


def test_skipping_takes_no_answer_back_and_can_be_made_good(serving: Serve, opened: Open) -> None:
    server = serving()
    tab = opened(server, "?annotator=anna")
    press(tab, "u u u u u Enter s u u u u u Enter Backspace Backspace Backspace s")
    assert "keeps the answer" in tab.locator("#note").inner_text()
    press(tab, "s s s s s")
    tab.wait_for_selector("html[data-at=end]")
    assert "2 of 6 questions answered, 4 skipped" in tab.locator("#end-text").inner_text()
    press(tab, "s")  # through those that were skipped, and only them
    assert (count(tab), tab.locator("#note").inner_text()) == ("Question 2 of 6", "You skipped this question.")
    press(tab, "u u u u u Enter")
    assert count(tab) == "Question 4 of 6"
    press(tab, "s s s")
    tab.wait_for_selector("html[data-at=end]")
    press(tab, "s")
    assert count(tab) == "Question 4 of 6"
    saved(tab)
    (answers,) = people(server.folder).values()
    assert sorted(answer.undecided or "" for answer in answers.values()) == ["", "", "", *["skipped"] * 3]
    assert all(0 < answer.seconds < 60 for answer in answers.values())


def test_buttons_and_links_can_be_pressed_by_key(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    tab.locator("#skip").focus()
    press(tab, "Enter")
    assert count(tab) == "Question 2 of 6"
    tab.locator("#back").focus()
    press(tab, "Space")
    assert count(tab) == "Question 1 of 6"
    tab.get_by_role("link", name="another name").focus()
    press(tab, "Enter")
    tab.wait_for_selector("html[data-at=start]")
    assert tab.locator("#name").input_value() == ""


def test_help_and_zoom(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    said = words(tab)
    for key, dialog in (("?", "#help"), ("z", "#zoom")):
        for close in (key, "Escape"):
            press(tab, f"{key} c u")  # which mean nothing in a dialog
            assert tab.locator(dialog).is_visible()
            press(tab, close)
            assert not tab.locator(dialog).is_visible()
            assert (chosen(tab), here(tab)) == ([None] * 5, said[0])
    press(tab, "?")
    text = tab.locator("#rubric").inner_text()
    assert "If several fit, choose the first of them in this order." in text
    assert "{candidates}" not in text
    press(tab, "?")
    small = tab.locator(".pictures img").first.bounding_box()
    press(tab, "z")
    assert tab.locator(".zoomed img").first.bounding_box()["width"] > 1.2 * small["width"]
    tab.locator(".zoomed img").first.click()
    press(tab, "c")
    assert chosen(tab)[0] == "concrete"


# ---------------------------------------------------------------- mouse, touch, screens, assistive technology


def test_everything_by_mouse(serving: Serve, opened: Open) -> None:
    server = serving()
    tab = opened(server)
    tab.locator("#name").fill("Mia")
    tab.get_by_role("button", name="Start").click()
    tab.wait_for_selector("html[data-at=question]")
    said = words(tab)
    for word, verdict in zip(said, ("unrelated", "global", "abstract", "concrete", "global"), strict=True):
        tab.get_by_role("radiogroup", name=word, exact=True).get_by_role("radio", name=verdict).click()
    tab.locator("#enlarge").click()
    tab.locator("#zoom .close").click()
    tab.locator("#ask-help").click()
    tab.locator("#help .close").click()
    tab.get_by_role("button", name="Next").click()
    tab.get_by_role("button", name="Back").click()
    assert chosen(tab) == ["unrelated", "global", "abstract", "concrete", "global"]
    tab.get_by_role("button", name="Next").click()
    for _ in range(5):
        tab.get_by_role("button", name="Skip").click()
    saved(tab)
    tab.get_by_role("button", name="skipped").click()
    assert count(tab) == "Question 2 of 6"
    assert len(people(server.folder)["Mia"]) == 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone(serving: Serve, opened: Open, scheme: str) -> None:
    server = serving()
    options = {"viewport": {"width": 400, "height": 800}, "has_touch": True, "color_scheme": scheme}
    tab = opened(server, "?annotator=anna", **options)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 26)"
    assert dark == (scheme == "dark")
    fits = "document.documentElement.scrollWidth <= innerWidth"
    for word in words(tab):
        radio = tab.get_by_role("radiogroup", name=word, exact=True).get_by_role("radio", name="abstract")
        radio.tap()
        box = radio.bounding_box()
        assert min(box["width"], box["height"]) >= 40
        for part in (".pictures img >> nth=0", ".meanings"):  # remain in sight while words scroll
            seen = tab.locator(part).bounding_box()
            assert seen["y"] >= 0
            assert seen["y"] + seen["height"] <= 800
        assert box["y"] >= seen["y"] + seen["height"]
    assert tab.evaluate(fits)
    press(tab, "?")
    assert tab.evaluate(fits)
    press(tab, "? z")
    assert tab.evaluate(fits)
    press(tab, "z")
    tab.locator("#next").tap()
    saved(tab)
    assert people(server.folder)["anna"].popitem()[1].content == ["abstract"] * 5


def test_what_assistive_technology_is_told(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    said = words(tab)
    assert [group.get_attribute("aria-labelledby") for group in tab.get_by_role("radiogroup").all()] == [
        f"word-{number}" for number in range(5)
    ]
    group = tab.get_by_role("radiogroup", name=said[1], exact=True)
    assert group.get_by_role("radio").all_inner_texts() == list(VERDICTS)
    press(tab, "ArrowDown g")
    assert group.get_attribute("aria-activedescendant") == group.get_by_role("radio", checked=True).get_attribute("id")
    assert [image.get_attribute("alt") for image in tab.get_by_role("img").all()][1] == "The framed part alone"
    press(tab, "s")
    bar = tab.get_by_role("progressbar", name="Questions done")
    assert [bar.get_attribute(f"aria-value{part}") for part in ("min", "now", "max")] == ["0", "1", "6"]
    assert bar.get_attribute("aria-valuetext") == "1 of 6 done"


def test_the_focus_is_seen(serving: Serve, opened: Open) -> None:
    tab = opened(serving(), "?annotator=anna")
    press(tab, "Tab " * 5)  # through the words to Back, Skip, Next
    for button in ("back", "skip", "next"):
        assert tab.evaluate("document.activeElement.id") == button
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        press(tab, "Tab")


# ---------------------------------------------------------------- what is shown


def test_a_sentence_with_its_word_marked(serving: Serve, opened: Open) -> None:
    tab = opened(serving("in sentences"), "?annotator=anna")
    assert sorted(words(tab)) == sorted(annotating.SENTENCES.values())
    assert sorted(tab.locator(".word mark").all_inner_texts()) == sorted(annotating.SENTENCES)
    assert "marked word" in tab.locator("#ask").inner_text()
    assert "the sentences below" in tab.locator("#rubric").text_content()
    press(tab, "u c Enter")
    tab.wait_for_selector("html[data-at=end]")


def test_words_cannot_run(serving: Serve, opened: Open) -> None:
    name = "<img src=x onerror=\"document.title='run'\">"
    tab = opened(serving("hostile", title="</title><script>document.title='run'</script>"))
    tab.locator("#name").fill(name)
    press(tab, "Enter")
    tab.wait_for_selector("html[data-at=question]")
    assert {"&amp;"} < set(words(tab))
    assert any(word.startswith("</script>") for word in words(tab))
    assert tab.locator("#who").inner_text() == name
    assert tab.title() == "</title><script>document.title='run'</script> · patchlens"


def test_a_preset_name_and_a_wrong_one(serving: Serve, opened: Open) -> None:
    server = serving(annotator="Anna")
    assert opened(server).locator("#who").inner_text() == "Anna"
    tab = opened(server, "?annotator=" + 81 * "a", allowed=FAILED)
    until(tab, "document.getElementById('sign-note').textContent")
    assert "at most 80" in tab.locator("#sign-note").inner_text()
    tab.locator("#name").fill("Ben")
    press(tab, "Enter")
    tab.wait_for_selector("html[data-at=question]")


def test_nothing_is_confirmed_before_the_pictures_are_seen(serving: Serve, opened: Open) -> None:
    server = serving()
    tab = opened(server, allowed=FAILED)
    tab.route("**/marked.png", lambda route: route.abort())
    tab.locator("#name").fill("Anna")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("html[data-at=question]")
    for key in ("c", "c", "c", "c", "c", "Enter"):
        tab.keyboard.press(key)
    assert (count(tab), chosen(tab)) == ("Question 1 of 6", ["concrete"] * 5)
    assert "pictures are not here yet" in tab.locator("#note").inner_text()
    tab.unroute("**/marked.png")
    press(tab, "Enter")  # once they have come by themselves
    assert count(tab) == "Question 2 of 6"


# ---------------------------------------------------------------- when something is in the way


def test_a_server_that_is_killed_costs_nothing(serving: Serve, opened: Open) -> None:
    server = serving()
    port = int(re.findall(r":(\d+)/", server.url)[0])
    tab = opened(server, "?annotator=anna", allowed=FAILED)
    first = words(tab)
    press(tab, "u u u u u Enter")
    saved(tab)
    server.kill()
    press(tab, "c c c c c")
    tab.keyboard.press("s")
    press(tab, "Backspace a a a a a")
    tab.wait_for_selector("#saved[data-state=waiting]")
    text = tab.locator("#saved").inner_text()
    assert text.startswith("Not saved yet: 1 answer. Trying again")
    assert f"127.0.0.1:{port}" in text
    assert tab.locator("#saved").get_attribute("aria-live") == "assertive"
    assert chosen(tab) == ["abstract"] * 5  # on a question that waits as skipped
    (answers,) = people(server.folder).values()
    assert [answer.content for answer in answers.values()] == [["unrelated"] * 5]
    serving(port=port)
    press(tab, "Enter")  # the pictures come by themselves too
    saved(tab)
    (answers,) = people(server.folder).values()
    assert [answer.content for answer in answers.values()] == [["unrelated"] * 5, ["abstract"] * 5]
    press(tab, "Backspace Backspace")
    assert (words(tab), chosen(tab)) == (first, ["unrelated"] * 5)


def test_what_waits_survives_a_reload(serving: Serve, opened: Open) -> None:
    """The answers do not get through, though the page does; after a reload they do."""
    server = serving()
    tab = opened(server, "?annotator=anna", allowed=FAILED)
    tab.on("dialog", lambda dialog: dialog.accept())  # "leave the page?"
    tab.route("**/answers?*", lambda route: route.abort())
    press(tab, "u u u u u Enter s c")
    tab.wait_for_selector("#saved[data-state=waiting]")
    assert not server.folder.exists()
    tab.unroute("**/answers?*")
    tab.reload()
    tab.wait_for_selector("html[data-at=question]")
    assert (count(tab), chosen(tab)) == ("Question 3 of 6", ["concrete"] + [None] * 4)
    saved(tab)
    (answers,) = people(server.folder).values()
    assert [answer.undecided for answer in answers.values()] == [None, "skipped"]


def test_an_answer_whose_receipt_was_lost_is_changed_all_the_same(serving: Serve, opened: Open) -> None:
    """It was stored, the page did not learn of it, and what it sends next is not taken for another tab's."""
    server = serving()
    tab = opened(server, "?annotator=anna", allowed=FAILED)
    lost = []

    def lose(route: Any) -> None:
        if lost:
            return route.continue_()
        lost.append(route.fetch().status)
        return route.abort()

    tab.route("**/answers?*", lose)
    press(tab, "u u u u u Enter")
    tab.wait_for_selector("#saved[data-state=waiting]")
    press(tab, "Backspace c c c c c Enter")
    saved(tab)
    assert lost == [200]
    (answers,) = people(server.folder).values()
    assert [answer.content for answer in answers.values()] == [["concrete"] * 5]


def test_an_answer_that_is_changed_on_its_way_arrives_changed(serving: Serve, opened: Open) -> None:
    server = serving()
    tab = opened(server, "?annotator=anna")
    held: list[Any] = []
    tab.route("**/answers?*", lambda route: route.continue_() if held else held.append(route))
    press(tab, "u u u u u Enter Backspace c c c c c Enter")
    assert len(held) == 1
    held[0].continue_()
    until(tab, "document.getElementById('saved').dataset.state === 'saved'")
    (answers,) = people(server.folder).values()
    assert [answer.content for answer in answers.values()] == [["concrete"] * 5]


def test_a_stale_tab_is_told_and_overwrites_nothing(serving: Serve, opened: Open) -> None:
    server = serving()
    stale = opened(server, "?annotator=anna", allowed=FAILED)
    fresh = opened(server, "?annotator=Anna")
    press(fresh, "u u u u u Enter")
    saved(fresh)
    press(stale, "c c c c c Enter")
    until(stale, "document.getElementById('note').textContent.includes('another tab')")
    assert "Question 1 was answered in another tab" in stale.locator("#note").inner_text()
    press(stale, "Backspace")
    assert chosen(stale) == ["unrelated"] * 5
    press(stale, "a a a a a Enter")  # knowingly
    saved(stale)
    (answers,) = people(server.folder).values()
    assert [answer.content for answer in answers.values()] == [["abstract"] * 5]


def test_a_disk_that_refuses_is_told(serving: Serve, opened: Open, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = serving(folder=tmp_path / "file" / "answers")
    tab = opened(server, "?annotator=anna", allowed=FAILED)
    press(tab, "s")
    tab.wait_for_selector("#saved[data-state=waiting]")
    assert "Choose a path whose parents are folders" in tab.locator("#saved").inner_text()
    (tmp_path / "file").unlink()
    saved(tab)
    assert len(people(server.folder)["anna"]) == 1


def test_another_server_at_the_same_address(serving: Serve, opened: Open) -> None:
    """It asks other questions: the page says so and keeps what it has."""
    server = serving()
    tab = opened(server, "?annotator=anna", allowed=FAILED)
    until(tab, SEEN)
    server.kill()
    serving("in sentences", port=int(re.findall(r":(\d+)/", server.url)[0]))
    press(tab, "u u u u u Enter")
    tab.wait_for_selector("#saved[data-state=refused]")
    assert "does not ask that question. Reload the page" in tab.locator("#saved").inner_text()
    press(tab, "Backspace")
    assert chosen(tab) == ["unrelated"] * 5


def test_a_file_in_use_is_waited_for(serving: Serve, opened: Open) -> None:
    server = serving()
    tab = opened(server, "?annotator=anna", allowed=FAILED)
    with open_answers(server.folder / "anna.jsonl", {"judge": "people", "label": "anna"}) as answers:
        press(tab, "s")
        tab.wait_for_selector("#saved[data-state=waiting]")
        assert "another process" in tab.locator("#saved").inner_text()
        answers.add(Answer(annotating.in_sentences()[0].id, None, "skipped"))
    saved(tab)
    assert len(people(server.folder)["anna"]) == 2
