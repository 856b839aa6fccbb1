"""Putting questions to a judge: each different one once, several at a time, within a budget, answers stored first.

Knows nothing of how a judge decides, nor of what its answers are for.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue

from patchlens.errors import BudgetSpent, JudgeError, OptionError
from patchlens.evaluation.answers import Answers
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.question import Question
from patchlens.evaluation.verdict import Answer
from patchlens.progress import Report, silent

__all__ = ["ask_all", "estimate_all"]

_GRACE = 1.0
"""Seconds that an interrupted run waits for answers that are just being stored."""


def estimate_all(
    judge: Judge,
    questions: Iterable[Question],
    answers: Answers | Mapping[str, Answer] | None = None,
    *,
    again: bool = False,
) -> Estimate:
    """What `ask_all` would take; nothing is asked.

    Args:
        judge: Who would be asked.
        questions: Equal ones count once.
        answers: Stored before, by question id.
        again: As in `ask_all`.

    Raises:
        OptionError: The judge cannot answer one of the rubrics.
    """
    different = _different(judge, questions)
    answered = _answered(different, answers, again)
    return judge.estimate(_open(different, answered), list(answered.values()))


def ask_all(
    judge: Judge,
    questions: Iterable[Question],
    *,
    answers: Answers | None = None,
    budget: float | None = None,
    again: bool = False,
    report: Report = silent,
) -> dict[str, Answer]:
    """Ask every different question that has no answer yet.

    An answer is stored the moment it comes. When something stops the run, no further question is begun, those under way
    are waited for and stored, and the same call goes on from there; after Ctrl-C they are not waited for.

    Args:
        judge: Who is asked, from `judge.workers` threads.
        questions: Equal ones are asked once.
        answers: Stored before, and where new ones go; None keeps them in memory alone.
        budget: What all answers of the file may cost, those of earlier runs among them; None for no limit.
        again: Ask those again that were left undecided before.
        report: Told how many have an answer.

    Returns:
        The answer to each question, by the question's id.

    Raises:
        OptionError: The judge cannot answer one of the rubrics, or a budget was set and it knows no prices.
        BudgetSpent: The next question is expected to cost more than is left.
        JudgeError: The judge cannot go on.
        StorageError: The disk refused an answer.
    """
    different = _different(judge, questions)
    found = _answered(different, answers, again)
    still_open = _open(different, found)
    purse = _Purse(judge, budget, answers.history() if answers is not None else [], still_open)
    asking = _Asking(judge, still_open, answers, purse)
    try:
        _collect(asking, found, len(different), report)
    except BudgetSpent as error:
        raise BudgetSpent(f"{error} {_progress(found, len(different), answers)} Raise the budget to go on.") from error
    except JudgeError as error:
        raise JudgeError(f"{error} {_progress(found, len(different), answers)}") from error
    return {each: found[each] for each in different}


class _Purse:
    """What was spent, what questions under way are expected to cost, and what is left."""

    def __init__(
        self, judge: Judge, budget: float | None, before: Sequence[Answer], still_open: Sequence[Question]
    ) -> None:
        self._judge = judge
        self._budget = budget
        self._spent = 0.0
        self._paid = 0  # answers that cost something: what failed says nothing about the next
        self._under_way = 0.0
        self._guess = 0.0 if budget is None else _guess(judge, budget, still_open)
        for answer in before:
            self._add(judge.cost(answer))

    def take(self) -> float:
        """Put aside what the next question is expected to cost.

        Raises:
            BudgetSpent: So much is not left.
        """
        expected = self._spent / self._paid if self._paid else self._guess
        if self._budget is not None and self._spent + self._under_way + expected > self._budget:
            under_way = f" and {self._under_way:.4g} are expected for those under way" if self._under_way else ""
            raise BudgetSpent(
                f"Judging with {self._judge.label}: the next question is expected to cost {expected:.4g}; "
                f"{self._spent:.4g} of the budget of {self._budget:g} are spent{under_way}."
            )
        self._under_way += expected
        return expected

    def pay(self, expected: float, answer: Answer) -> None:
        """Put the true cost in the place of the expected one."""
        self._under_way = max(0.0, self._under_way - expected)
        self._add(self._judge.cost(answer))

    def _add(self, cost: float) -> None:
        if cost > 0:
            self._spent += cost
            self._paid += 1


class _Asking:
    """The threads of one run and what they share."""

    def __init__(self, judge: Judge, still_open: Sequence[Question], answers: Answers | None, purse: _Purse) -> None:
        self.arrived: SimpleQueue[Answer | BaseException | None] = SimpleQueue()
        """Answers, what stopped a thread, and a None from each thread that ends."""
        self._judge = judge
        self._open = deque(still_open)
        self._answers = answers
        self._purse = purse
        self._lock = threading.Lock()
        # Not a pool of the standard library, whose threads an interrupted interpreter waits for.
        self.threads = [
            threading.Thread(target=self._work, daemon=True, name=f"judge {number}")
            for number in range(min(judge.workers, len(still_open)))
        ]

    def stop(self) -> None:
        """Begin no further question."""
        with self._lock:
            self._open.clear()

    def _work(self) -> None:
        try:
            while (next_one := self._next()) is not None:
                question, expected = next_one
                answer = self._judge.ask(question)
                if self._answers is not None:
                    self._answers.add(answer)
                with self._lock:
                    self._purse.pay(expected, answer)
                self.arrived.put(answer)
        except BaseException as error:
            self.stop()
            self.arrived.put(error)
        finally:
            self.arrived.put(None)

    def _next(self) -> tuple[Question, float] | None:
        with self._lock:
            if not self._open:
                return None
            expected = self._purse.take()
            return self._open.popleft(), expected


def _collect(asking: _Asking, found: dict[str, Answer], total: int, report: Report) -> None:
    """Take in what the threads bring until the last has ended; then raise what stopped the first that was stopped."""
    stopped: BaseException | None = None
    report("Judging", len(found), total)
    try:
        for thread in asking.threads:
            thread.start()
        running = len(asking.threads)
        while running:
            match asking.arrived.get():
                case Answer() as answer:
                    found[answer.question] = answer
                    report("Judging", len(found), total)
                case None:
                    running -= 1
                case error:
                    stopped = stopped or error
    except BaseException:
        asking.stop()
        for thread in asking.threads:
            if thread.is_alive():
                thread.join(_GRACE / len(asking.threads))
        raise
    if stopped is not None:
        raise stopped


def _different(judge: Judge, questions: Iterable[Question]) -> dict[str, Question]:
    """The different questions by id, in the order in which they first come."""
    different: dict[str, Question] = {}
    for question in questions:
        if question.rubric.name not in judge.rubrics:
            raise OptionError(
                f"The judge {judge.label} cannot answer the rubric {question.rubric.name!r}; it knows "
                f"{', '.join(judge.rubrics)}. Choose one of these, or another judge."
            )
        different.setdefault(question.id, question)
    return different


def _answered(
    different: Mapping[str, Question], answers: Answers | Mapping[str, Answer] | None, again: bool
) -> dict[str, Answer]:
    found = {each: answer for each in different if answers is not None and (answer := answers.get(each)) is not None}
    return {each: answer for each, answer in found.items() if not (again and answer.undecided)}


def _guess(judge: Judge, budget: float, still_open: Sequence[Question]) -> float:
    """What a question costs before any was measured."""
    if not budget >= 0:
        raise OptionError(f"Judging with {judge.label}: the budget is {budget:g}. Give 0 or more, or none.")
    if not still_open:
        return 0.0
    if (cost := judge.estimate(still_open).cost) is None:
        raise OptionError(
            f"Judging with {judge.label}: a budget of {budget:g} was set, and what it costs is not known. Give the "
            "prices of its tokens, or no budget."
        )
    return cost / len(still_open)


def _open(different: Mapping[str, Question], answered: Mapping[str, Answer]) -> list[Question]:
    return [question for each, question in different.items() if each not in answered]


def _progress(found: Mapping[str, Answer], total: int, answers: Answers | None) -> str:
    undecided = sum(answer.undecided is not None for answer in found.values())
    have = f"{len(found)} of {total} questions have an answer ({undecided} undecided)"
    if answers is None:
        return f"{have}, and none was kept: give a file for them."
    return f"{have}; all are kept in {answers.path}, and running the same again goes on from there."
