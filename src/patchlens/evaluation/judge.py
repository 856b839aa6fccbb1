"""What every judge is. A new one is one file in `judges/` with a line in its registry."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from patchlens.evaluation.question import Question
from patchlens.evaluation.verdict import Answer
from patchlens.provenance import JSON

__all__ = ["Estimate", "Judge"]


@dataclass(frozen=True)
class Estimate:
    """What asking would take. Costs are in the currency that prices were given in."""

    questions: int
    """Still to be asked."""
    answered: int = 0
    """Answered before, and not asked again."""
    input_tokens: int = 0
    """Expected to be sent."""
    output_tokens: int = 0
    """Expected to come back."""
    seconds: float | None = 0.0
    """Expected duration; None where nothing is known yet."""
    cost: float | None = 0.0
    """None where no price is known."""
    basis: str = ""
    """What the numbers rest on, in a clause."""


class Judge(ABC):
    """Decides how candidates fit a region. Leaves say how; who asks takes care of order, storage and budget."""

    name: ClassVar[str]
    """In the registry and on the command line."""
    rubrics: ClassVar[tuple[str, ...]]
    """Names of the rubrics that it can answer."""

    kept: ClassVar[bool] = True
    """Whether its answers are worth keeping on disk: False for a judge that costs nothing."""
    workers: int = 1
    """Questions that it can be asked at once, from so many threads."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The name that rows and tables have for it, "truth" or "gpt-5"."""

    @property
    def identity(self) -> dict[str, JSON]:
        """All that its answers depend on besides the question: answers of equal identity are exchangeable."""
        return {"judge": self.name, "label": self.label}

    @abstractmethod
    def ask(self, question: Question) -> Answer:
        """Decide one question. May be called from `workers` threads at once.

        Returns:
            The answer; whatever goes wrong with this question alone is an undecided one.

        Raises:
            JudgeError: Going on with any question is pointless: wrong key, unknown model, no endpoint.
        """

    def estimate(self, questions: Sequence[Question], answered: Sequence[Answer] = ()) -> Estimate:
        """What asking would take.

        Args:
            questions: Still to be asked.
            answered: Answers from before, whose measure is better than any guess.
        """
        return Estimate(len(questions), len(answered))

    def cost(self, answer: Answer) -> float:
        """What an answer cost."""
        return 0.0
