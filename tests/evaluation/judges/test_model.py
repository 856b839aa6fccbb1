import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from patchlens.errors import JudgeError, OptionError
from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.judges import model as module
from patchlens.evaluation.judges.model import ModelJudge
from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import Claims, Mark, Verdicts, find_rubric
from patchlens.evaluation.verdict import Answer
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.embedded import embedded
from patchlens.models.loading import load_model
from patchlens.models.model import Model

SHORT = Verdicts("patch", "Which words fit?\n{candidates}")
"""The tiny models have 512 positions, too few for the rubrics that ship."""


@pytest.fixture
def image(picture: Image.Image) -> ImageInput:
    return open_image(picture, name="house")


@pytest.fixture
def question(image: ImageInput) -> Question:
    region = Region("house", 0, 1, 1, (16.0, 16.0, 40.0, 40.0))
    return ask_about(SHORT, image, region, [Shown("roof"), Shown("sun")])


@pytest.fixture
def says(tiny_llava: Model, monkeypatch: pytest.MonkeyPatch):
    """Makes every LLaVA say this, as tokens behind the prompt."""

    def reply(text: str) -> None:
        def generate(_: object, __: object, inputs: dict[str, Tensor], tokens: int) -> Tensor:
            ids = tiny_llava.tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
            return torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)

        monkeypatch.setattr(type(tiny_llava.adapter), "generate", generate)

    return reply


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ImageInput]]:
    """What is put before the model, which is not run."""
    seen: list[ImageInput] = []
    monkeypatch.setattr(module, "answer_text", lambda _, images, prompt, max_tokens: seen.extend(images) or "hm")
    return seen


def _verdicts(**given: str) -> str:
    return json.dumps({"reasoning": "it has a gable", "verdicts": {key[1:]: value for key, value in given.items()}})


def test_an_answer_of_the_asked_form(tiny_llava: Model, question: Question, says) -> None:
    says(f"Sure! ```json\n{_verdicts(_1='concrete', _2='unrelated')}\n```")
    answer = ModelJudge(tiny_llava).ask(question)
    assert (answer.question, answer.undecided, answer.detail) == (question.id, None, "")
    assert answer.content == ["concrete", "unrelated"]
    (exchange,) = answer.exchanges
    assert exchange["reply"].startswith("Sure!")
    assert exchange["prompt"].startswith(question.text)
    assert exchange["pictures"] == [open_image(question.marked).sha256, open_image(question.crop).sha256]
    assert answer.seconds > 0
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize(
    "reply", ["It is a house with a roof.", _verdicts(_1="concrete"), _verdicts(_1="concrete", _2="perhaps"), ""]
)
def test_what_is_not_of_the_form_is_undecided_and_kept(tiny_llava: Model, question: Question, says, reply: str) -> None:
    says(reply)
    answer = ModelJudge(tiny_llava).ask(question)
    assert (answer.content, answer.undecided) == (None, "unreadable")
    assert "where one of concrete" in answer.detail
    assert answer.exchanges[0]["reply"] == reply


def test_a_reply_that_is_cut_off_is_unreadable(tiny_llava: Model, question: Question, says) -> None:
    says(_verdicts(_1="concrete", _2="unrelated"))
    assert ModelJudge(tiny_llava, max_tokens=20).ask(question).undecided == "unreadable"


def test_the_embedded_model_answers_in_prose_and_decides_nothing() -> None:
    member = embedded("picturebook")
    assert member is not None
    assert member.held_out is not None
    judge = ModelJudge(load_model("picturebook"), max_tokens=12)
    first, second = (known.image for known in member.held_out(2))
    words = [Shown("car"), Shown("tree")]
    questions = [ask_about(find_rubric("patch"), image, _middle(image), words) for image in (first, second)]
    questions.append(Question(find_rubric("mark"), first, texts={"description": "A red car."}))
    answers = ask_all(judge, questions)
    assert [answers[question.id].undecided for question in questions] == ["unreadable"] * 3
    assert all(answer.content is None for answer in answers.values())
    assert all(answer.exchanges[0]["reply"] for answer in answers.values())


def _middle(image: ImageInput) -> Region:
    return Region(image.name, 0, 5, 5, (48.0, 48.0, 84.0, 84.0))


def test_one_question_that_cannot_be_asked_is_undecided(
    tiny_llava: Model, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert question.image is not None
    long = ask_about(find_rubric("patch"), question.image, _middle(question.image), question.candidates)
    answer = ModelJudge(tiny_llava).ask(long)
    assert (answer.content, answer.undecided) == (None, "failed")
    assert "the model has 512 positions" in answer.detail
    assert answer.exchanges[0]["prompt"].startswith("You help to find out")

    def no_room(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(tiny_llava.adapter), "generate", no_room)
    answer = ModelJudge(tiny_llava).ask(question)
    assert answer.undecided == "failed"
    assert "too little memory" in answer.detail


def test_who_takes_several_images_sees_two(tiny_llava: Model, question: Question, shown: list[ImageInput]) -> None:
    ModelJudge(tiny_llava).ask(question)
    assert [picture.pixels.tobytes() for picture in shown] == [question.marked.tobytes(), question.crop.tobytes()]


def test_who_takes_one_image_sees_both_in_it(
    question: Question, shown: list[ImageInput], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.conformance.families import blip_2

    folder = tmp_path_factory.mktemp("blip_2")
    torch.manual_seed(0)
    blip_2.build(folder)
    answer = ModelJudge(load_model(folder)).ask(question)
    (both,) = shown
    marked, crop = question.marked, question.crop
    assert both.size == (marked.height, marked.width + 16 + 256)
    assert both.pixels.crop((0, 0, *marked.size)).tobytes() == marked.tobytes()
    enlarged = both.pixels.crop((marked.width + 16, 0, marked.width + 16 + 256, 256))
    assert enlarged.resize(crop.size, Image.Resampling.BOX).getpixel((48, 48)) == pytest.approx(
        crop.getpixel((48, 48)), abs=20
    )
    assert both.pixels.getpixel((marked.width + 8, 100)) == (255, 255, 255)
    assert "in one: the first on the left" in answer.exchanges[0]["prompt"]


def test_a_rubric_on_the_whole_image_shows_it_as_it_is(
    tiny_llava: Model, image: ImageInput, shown: list[ImageInput]
) -> None:
    ModelJudge(tiny_llava).ask(Question(Mark("mark", "Give a mark."), image))
    assert shown == [image]


@pytest.mark.parametrize("name", ["patch", "claims", "support", "mark"])
def test_the_last_line_says_the_form(tiny_llava: Model, says, name: str) -> None:
    says("")
    asked = Question(find_rubric(name), candidates=tuple(Shown(word) for word in "abcde"))
    last = ModelJudge(tiny_llava).ask(asked).exchanges[0]["prompt"].splitlines()[-1]
    assert last == f"Answer with JSON alone, of this form: {asked.rubric.example(asked)}"


def test_a_text_only_model_judges_text_alone(
    tiny_causal: Model, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = tiny_causal.tokenizer('{"claims": ["A cat sleeps."]}')["input_ids"]
    monkeypatch.setattr(type(tiny_causal.adapter), "generate", lambda *_: torch.tensor([reply]))
    claims = Question(Claims("claims", "Split:\n{description}"), texts={"description": "A cat sleeps."})
    assert ModelJudge(tiny_causal).ask(claims).content == ["A cat sleeps."]
    with pytest.raises(JudgeError, match="takes none: it is a model of text"):
        ModelJudge(tiny_causal).ask(question)


def test_who_it_is(llava_folder) -> None:
    first, other = load_model(llava_folder()), load_model(llava_folder())
    judge = ModelJudge(first)
    assert judge.label == Path(first.name).name
    assert ModelJudge(first, label="house judge").label == "house judge"
    assert judge.identity == ModelJudge(first, label="house judge").identity
    assert judge.identity != ModelJudge(first, max_tokens=9).identity
    assert judge.identity["dtype"] == "float32"
    assert judge.identity == ModelJudge(other).identity
    with torch.no_grad():
        other.network.model.multi_modal_projector.linear_1.weight.add_(1)
    assert other.fingerprint == first.fingerprint  # the language model's, which sees otherwise now
    assert judge.identity != ModelJudge(other).identity
    assert json.loads(json.dumps(judge.identity)) == judge.identity
    assert (judge.workers, judge.kept) == (1, True)


def test_what_it_would_take(tiny_llava: Model, question: Question) -> None:
    judge = ModelJudge(tiny_llava)
    before = [Answer("a", None, seconds=2.0), Answer("b", None, seconds=4.0)]
    assert judge.estimate([question]).seconds is None
    assert judge.estimate([question] * 5, before).seconds == 15.0
    assert judge.estimate([], []).seconds == 0.0
    assert judge.estimate([question] * 5, before).cost == 0.0


def test_a_reply_of_no_token(tiny_llava: Model) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        ModelJudge(tiny_llava, max_tokens=0)
