import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from evaluation.misbehaving import Endpoint, Received, Response, after, many, question, verdicts_of
from patchlens.errors import BudgetSpent, JudgeError, OptionError, StorageError
from patchlens.evaluation.answers import Answers, open_answers, read_answers
from patchlens.evaluation.asking import ask_all, estimate_all
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.judges.endpoint import EndpointJudge
from patchlens.evaluation.question import Question
from patchlens.evaluation.rubric import find_rubric
from patchlens.evaluation.verdict import Answer


class Fake(Judge):
    """Answers at once, at a price of 1 per answer, and remembers what it was asked."""

    name: ClassVar[str] = "fake"
    rubrics: ClassVar[tuple[str, ...]] = ("patch",)

    def __init__(self, answer: Callable[[Question], Answer] | None = None, *, workers: int = 1) -> None:
        self.workers = workers
        self.asked: list[str] = []
        self._answer = answer or decided

    @property
    def label(self) -> str:
        return "fake"

    def ask(self, question: Question) -> Answer:
        self.asked.append(question.id)
        return self._answer(question)

    def estimate(self, questions: Sequence[Question], answered: Sequence[Answer] = ()) -> Estimate:
        return Estimate(len(questions), len(answered), cost=0.5 * len(questions))

    def cost(self, answer: Answer) -> float:
        return float(answer.input_tokens)


def decided(question: Question, cost: int = 1) -> Answer:
    return Answer(question.id, ["global", "global"], input_tokens=cost)


def failed(question: Question) -> Answer:
    return Answer(question.id, None, "failed", "It was down.")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Answers]:
    with open_answers(tmp_path / "answers.jsonl", {"judge": "fake"}) as answers:
        yield answers


def on_disk(answers: Answers) -> list[str]:
    return list(read_answers(answers.path)[1])


@pytest.mark.parametrize("workers", [1, 4])
def test_each_different_question_is_asked_once(kept: Answers, workers: int) -> None:
    asked, judge = many(10), Fake(workers=workers)
    given = ask_all(judge, [*asked, *reversed(many(10))], answers=kept)
    assert list(given) == [each.id for each in asked]  # in the order of the questions
    assert sorted(judge.asked) == sorted(given)
    assert given == read_answers(kept.path)[1]
    again = Fake()
    assert ask_all(again, iter(asked), answers=kept) == given
    assert again.asked == []


def test_without_a_file_nothing_is_kept() -> None:
    judge = Fake()
    assert len(ask_all(judge, many(3))) == len(ask_all(judge, many(3))) == 3
    assert len(judge.asked) == 6
    assert ask_all(judge, []) == {}


def test_so_many_at_once_as_the_judge_can_take() -> None:
    together = threading.Barrier(4)

    def answer(question: Question) -> Answer:
        together.wait(timeout=5)  # passes only when four are here
        return decided(question)

    assert len(ask_all(Fake(answer, workers=4), many(8))) == 8


def test_an_answer_is_on_the_disk_before_the_next_question(kept: Answers) -> None:
    def answer(question: Question) -> Answer:
        assert on_disk(kept) == judge.asked[:-1]
        return decided(question)

    judge = Fake(answer)
    ask_all(judge, many(4), answers=kept, report=lambda stage, done, total: None)
    assert len(on_disk(kept)) == 4


def test_undecided_answers_are_kept_until_they_are_asked_again(kept: Answers) -> None:
    asked = many(4)
    first = ask_all(Fake(lambda each: failed(each) if each.id == asked[1].id else decided(each)), asked, answers=kept)
    assert first[asked[1].id].undecided == "failed"
    idle, judge = Fake(), Fake()
    assert ask_all(idle, asked, answers=kept) == first
    assert estimate_all(idle, asked, kept).questions == 0
    assert estimate_all(idle, asked, kept, again=True) == Estimate(1, 3, cost=0.5)
    second = ask_all(judge, asked, answers=kept, again=True)
    assert (idle.asked, judge.asked) == ([], [asked[1].id])
    assert second[asked[1].id].undecided is None


def test_the_estimate_counts_different_open_questions(kept: Answers) -> None:
    asked = many(5)
    ask_all(Fake(), asked[:2], answers=kept)
    judge = Fake()
    assert estimate_all(judge, [*asked, *many(5)], kept) == Estimate(3, 2, cost=1.5)
    assert estimate_all(judge, asked) == Estimate(5, 0, cost=2.5)
    assert judge.asked == []


def test_progress(kept: Answers) -> None:
    ask_all(Fake(), many(2), answers=kept)
    told: list[tuple[str, int, int]] = []
    ask_all(Fake(), many(4), answers=kept, report=lambda *where: told.append(where))
    assert told == [("Judging", 2, 4), ("Judging", 3, 4), ("Judging", 4, 4)]


def test_a_rubric_that_the_judge_does_not_know(kept: Answers) -> None:
    judge = Fake()
    asked = [*many(2), question(rubric=find_rubric("sentence"))]
    for use in (lambda: ask_all(judge, asked, answers=kept), lambda: estimate_all(judge, asked)):
        with pytest.raises(OptionError, match="fake cannot answer the rubric 'sentence'; it knows patch"):
            use()
    assert judge.asked == []


# Budgets


def test_a_budget_is_not_overrun(kept: Answers) -> None:
    judge = Fake()
    message = r"expected to cost 1; 3 of the budget of 3.5 are spent\. 3 of 9 .* \(0 undecided\); all are kept.*Raise"
    with pytest.raises(BudgetSpent, match=message):
        ask_all(judge, many(9), answers=kept, budget=3.5)
    assert len(judge.asked) == len(on_disk(kept)) == 3


def test_a_budget_counts_what_was_spent_before(kept: Answers) -> None:
    """All that is in the file, whatever it was asked for, and what was answered again since."""
    ask_all(Fake(lambda each: Answer(each.id, None, "unreadable", input_tokens=1)), many(2), answers=kept)
    ask_all(Fake(), many(2), answers=kept, again=True)
    for budget, more in ((4.0, 0), (4.9, 0), (6.0, 2), (6.0, 0)):
        judge = Fake()
        with pytest.raises(BudgetSpent, match=f"of the budget of {budget:g} are spent"):
            ask_all(judge, many(20)[10:], answers=kept, budget=budget)
        assert len(judge.asked) == more
    assert len(ask_all(Fake(), many(20)[10:], answers=kept, budget=14.0)) == 10


def test_a_budget_counts_questions_under_way() -> None:
    waiting = threading.Semaphore(0)

    def answer(question: Question) -> Answer:
        waiting.acquire(timeout=5)
        return decided(question)

    judge = Fake(answer, workers=8)
    threading.Timer(0.2, lambda: waiting.release(8)).start()
    with pytest.raises(BudgetSpent, match=r"are expected for those under way.*none was kept"):
        ask_all(judge, many(8), budget=2.2)
    assert len(judge.asked) == 4  # at a guess of 0.5 each, and not 8


def test_the_measured_mean_replaces_the_guess(kept: Answers) -> None:
    costs = iter([1, 5, 3, 3, 3])
    judge = Fake(lambda each: decided(each, next(costs)))
    with pytest.raises(BudgetSpent, match=r"expected to cost 3; 12 of the budget of 14\.9"):
        ask_all(judge, many(9), answers=kept, budget=14.9)


def test_what_failed_for_nothing_does_not_lower_the_mean(kept: Answers) -> None:
    asked = many(9)
    judge = Fake(lambda each: decided(each, 2) if each.id == asked[0].id else failed(each))
    with pytest.raises(BudgetSpent, match="expected to cost 2"):
        ask_all(judge, [*asked[:3], *asked], answers=kept, budget=3.9)
    assert len(judge.asked) == 1


def test_budgets_that_make_no_sense() -> None:
    for budget in (-1.0, float("nan")):
        with pytest.raises(OptionError, match="Give 0 or more"):
            ask_all(Fake(), many(1), budget=budget)
    with pytest.raises(OptionError, match="what it costs is not known"):
        ask_all(EndpointJudge("http://host/v1", "m"), many(1), budget=1.0)
    with pytest.raises(BudgetSpent):
        ask_all(Fake(), many(1), budget=0.0)
    assert ask_all(Fake(), [], budget=0.0) == {}


# What stops a run


@pytest.mark.parametrize("kind", [JudgeError, StorageError, ZeroDivisionError])
def test_an_error_lets_those_under_way_finish(kept: Answers, kind: type[Exception]) -> None:
    asked = many(20)
    begun, stopped = threading.Barrier(3), threading.Event()

    def answer(question: Question) -> Answer:
        begun.wait(timeout=5)
        if question.id == asked[1].id:
            stopped.set()
            raise kind("Wrong key.")
        stopped.wait(timeout=5)
        time.sleep(0.1)
        return decided(question)

    judge = Fake(answer, workers=3)
    with pytest.raises(kind, match=r"^Wrong key\.") as raised:
        ask_all(judge, asked, answers=kept)
    assert sorted(judge.asked) == sorted(each.id for each in asked[:3])
    assert sorted(on_disk(kept)) == sorted([asked[0].id, asked[2].id])
    if kind is JudgeError:
        assert f"2 of 20 questions have an answer (0 undecided); all are kept in {kept.path}" in str(raised.value)
        assert "running the same again goes on from there" in str(raised.value)


def test_a_full_disk_stops_the_run(kept: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    judge = Fake()
    ask_all(judge, many(2), answers=kept)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="The 2 answers stored before are kept"):
        ask_all(judge, many(9), answers=kept)
    assert len(judge.asked) == 3


def test_no_thread_is_left(kept: Answers) -> None:
    before = threading.active_count()
    ask_all(Fake(workers=6), many(12), answers=kept)
    assert threading.active_count() == before


def test_ctrl_c_leaves_at_once_with_all_that_came(tmp_path: Path) -> None:
    """Some have answered, some never will; those who answer later can write nothing any more."""
    asked, path = many(12), tmp_path / "answers.jsonl"
    for_ever = threading.Event()

    def answer(question: Question) -> Answer:
        if judge.asked.index(question.id) >= 5:
            for_ever.wait(timeout=20)
        return decided(question)

    def interrupt() -> None:
        while len(judge.asked) < 8:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    judge = Fake(answer, workers=3)
    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with open_answers(path, {}) as kept, pytest.raises(KeyboardInterrupt):
        ask_all(judge, asked, answers=kept)
    assert time.monotonic() - started < 5
    before = path.read_bytes()
    assert len(read_answers(path)[1]) == 5
    for_ever.set()
    time.sleep(0.05)
    assert path.read_bytes() == before
    assert len(judge.asked) == 8


# kill -9

QUESTIONS = 80

RUN = """
    import os, sys
    from pathlib import Path
    from evaluation.misbehaving import many
    from patchlens.evaluation.answers import open_answers
    from patchlens.evaluation.asking import ask_all
    from patchlens.evaluation.judges.endpoint import EndpointJudge

    url, path, number = sys.argv[1:]
    asked = many(int(number))
    for line in sys.stdin:
        if (process := os.fork()) == 0:  # as good as a new process, without importing all anew
            judge = EndpointJudge(url, "m", workers=4)
            with open_answers(Path(path), judge.identity) as answers:
                ask_all(judge, asked, answers=answers)
            os._exit(0)
        print(process, flush=True)
        print(os.waitpid(process, 0)[1], flush=True)
"""


class Run:
    """Asks an endpoint in another process, as often as wanted."""

    def __init__(self, endpoint: Endpoint, path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "NO_PROXY": "127.0.0.1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN), endpoint.url, str(path), str(QUESTIONS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)

    def start(self) -> int:
        """Returns the process's number."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._number()

    def _number(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def ended(self) -> int:
        """Waits for the end and returns how it ended."""
        return os.waitstatus_to_exitcode(self._number())


def test_killed_ten_times_and_resumed_it_is_as_if_nothing_had_happened(tmp_path: Path) -> None:
    draw, asked, path = random.Random(), many(QUESTIONS), tmp_path / "answers.jsonl"
    stored: frozenset[str] = frozenset()
    sent_in_vain = []

    def behavior(received: Received) -> Response:
        if received.question in stored:
            sent_in_vain.append(received.question)
        return after(0.05)(received)

    with Endpoint(behavior, remembers=True) as endpoint, Run(endpoint, path) as run:
        for _ in range(10):
            process = run.start()
            enough = len(endpoint.received) + draw.randint(1, 5)
            with endpoint.arrived:
                assert endpoint.arrived.wait_for(lambda least=enough: len(endpoint.received) >= least, timeout=10)
            time.sleep(draw.uniform(0, 0.05))
            os.kill(process, signal.SIGKILL)
            assert run.ended() == -signal.SIGKILL
            stored = frozenset(read_answers(path)[1])
        assert 0 < len(stored) < QUESTIONS
        run.start()
        assert run.ended() == 0
    with Endpoint() as other:
        undisturbed = ask_all(EndpointJudge(other.url, "m"), asked)

    found = read_answers(path)[1]
    assert {each: (answer.content, answer.undecided) for each, answer in found.items()} == {
        each: (answer.content, answer.undecided) for each, answer in undisturbed.items()
    }
    assert [found[each.id].content for each in asked] == [verdicts_of(each.text) for each in asked]
    assert sent_in_vain == []  # what was in the file is not asked again
    assert set(endpoint.generated.values()) == {1}  # and nothing is answered twice,
    assert len(endpoint.generated) == QUESTIONS
    assert len(endpoint.received) > QUESTIONS  # though questions were under way when it was killed
    assert len(path.read_text().splitlines()) == 1 + QUESTIONS
