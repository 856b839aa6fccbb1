"""A vision-language model on this machine as a judge: any that patchlens loads. Knows no family."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from patchlens.capture.answering import answer_text
from patchlens.capture.capture import request_of
from patchlens.errors import InputError, JudgeError, ModelIncomplete, OptionError, OutOfMemory
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.rubric import RUBRICS, Unreadable
from patchlens.evaluation.verdict import Answer
from patchlens.inputs.image import ImageInput, open_image
from patchlens.models.model import Model, weights_fingerprint
from patchlens.models.prepare import prepare
from patchlens.provenance import JSON

__all__ = ["ModelJudge"]

_PATIENCE = 5  # questions that may fail one after the other
_GAP = 16  # pixels between two pictures in one
_SEVERAL = "Both pictures are shown in one: the first on the left, the second on the right."


class ModelJudge(Judge):
    """Shows a model the marked image and the crop with the rubric, asks for JSON, and reads what it generates.

    A model that takes one image only gets both side by side. A text-only language model can answer the questions that
    come without a picture.

    Args:
        model: From `load_model`.
        max_tokens: Length of a reply, at most; one that is cut off is unreadable.
        label: What rows and tables call it; None for the last part of the model's name.
    """

    name: ClassVar[str] = "model"
    rubrics: ClassVar[tuple[str, ...]] = tuple(RUBRICS)

    def __init__(self, model: Model, *, max_tokens: int = 512, label: str | None = None) -> None:
        if max_tokens < 1:
            raise OptionError(f"A judge that replies with {max_tokens} tokens: expected at least 1.")
        self.model = model
        self.max_tokens = max_tokens
        self._label = Path(model.name).name if label is None else label
        self._failures = 0

    @property
    def label(self) -> str:
        """The model's short name, unless another was given."""
        return self._label

    @cached_property
    def identity(self) -> dict[str, JSON]:
        """The model with the weights of all its parts: another encoder sees otherwise."""
        return {
            "judge": self.name,
            "model": self.model.name,
            "revision": self.model.revision,
            "fingerprint": weights_fingerprint(self.model.network),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "max_tokens": self.max_tokens,
        }

    def ask(self, question: Question) -> Answer:
        """Let the model answer one question.

        Raises:
            JudgeError: The question has a picture, and the model takes none; or several questions in a row failed.
        """
        if question.image is not None and "image" not in self.model.adapter.modalities:
            raise JudgeError(
                f"{self.model.name} was asked about a picture, and it takes none: it is a model of "
                f"{' and '.join(self.model.adapter.modalities)}. Judge with a vision-language model."
            )
        started = time.monotonic()
        pictures, prompt = self._shown(question)
        exchange: dict[str, Any] = {"prompt": prompt, "pictures": [picture.sha256 for picture in pictures]}
        content: JSON = None
        undecided, detail = None, ""
        try:
            exchange["reply"] = answer_text(self.model, pictures, prompt, max_tokens=self.max_tokens)
            content = question.rubric.read(question, exchange["reply"])
        except Unreadable as error:
            undecided, detail = "unreadable", f"{error}."
        except (InputError, ModelIncomplete, OutOfMemory) as error:
            undecided, detail = "failed", str(error)
        self._failures = self._failures + 1 if undecided == "failed" else 0
        if self._failures >= _PATIENCE:
            raise JudgeError(
                f"Judging with {self.label}: {self._failures} questions in a row failed. The last: {detail}"
            )
        return Answer(
            question.id, content, undecided, detail, exchanges=(exchange,), seconds=time.monotonic() - started
        )

    def estimate(self, questions: Sequence[Question], answered: Sequence[Answer] = ()) -> Estimate:
        """As long for each question as for those before; unknown before the first. It costs nothing."""
        taken = [answer.seconds for answer in answered]
        seconds = len(questions) * sum(taken) / len(taken) if taken else None
        basis = f"the mean of {len(taken)} answers" if taken else "nothing yet: the first answers will tell"
        return Estimate(len(questions), len(answered), seconds=seconds if questions else 0.0, basis=basis)

    def _shown(self, question: Question) -> tuple[list[ImageInput], str]:
        """The pictures and the words of one question."""
        pictures, words = _pictures(question), [question.text]
        if len(pictures) > 1 and not self._takes_several:
            pictures = [_side_by_side(*(picture.pixels for picture in pictures))]
            words.append(_SEVERAL)
        words.append(f"Answer with JSON alone, of this form: {question.rubric.example(question)}")
        return pictures, "\n\n".join(words)

    @cached_property
    def _takes_several(self) -> bool:
        """Whether a prompt may have two images: tried once, on blank ones, up to the network and without it."""
        blank = open_image(Image.new("RGB", (512, 512), "white"))
        try:
            prepare(self.model, [request_of([blank, blank], "Which?")])
        except (InputError, ModelIncomplete):
            return False
        return True


def _pictures(question: Question) -> list[ImageInput]:
    if question.image is None:
        return []
    if question.region is None or not question.rubric.shows_region:
        return [question.image]
    return [open_image(question.marked, name="marked image"), open_image(question.crop, name="crop")]


def _side_by_side(marked: Image.Image, crop: Image.Image) -> ImageInput:
    """One picture of two on white, the crop half as large as the other, whatever it was."""
    scale = max(marked.size) / 2 / max(crop.size)
    shown = crop.resize((max(1, round(crop.width * scale)), max(1, round(crop.height * scale))))
    both = Image.new("RGB", (marked.width + _GAP + shown.width, max(marked.height, shown.height)), "white")
    both.paste(marked, (0, 0))
    both.paste(shown, (marked.width + _GAP, 0))
    return open_image(both, name="marked image and crop")
