"""One judge of a study and all that it is asked: about which rows, some pictures at a time, with its answers kept."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.errors import JudgeError
from patchlens.evaluation.answers import Answers, open_answers, read_answers
from patchlens.evaluation.asking import ask_all
from patchlens.evaluation.judge import Judge
from patchlens.evaluation.records import VERDICTS_TABLE
from patchlens.evaluation.rubric import Rubric, find_rubric
from patchlens.evaluation.verdict import Answer
from patchlens.models.site import layers_among
from patchlens.progress import Report
from patchlens.study.config import JudgeConfig, LensConfig, StudyConfig
from patchlens.study.judges import budget_of
from patchlens.study.judging import ANOTHER, Asked, judged_rows, questions, regions_of, verdict_rows
from patchlens.study.pictures import Picture
from patchlens.study.recording import Recorder, Records, slug

__all__ = ["Interview", "join_models"]

_CHUNK = 64
"""Pictures whose questions are asked together: enough to keep any endpoint busy, few enough to be open at once."""


class Interview:
    """What one judge is asked in a study.

    Args:
        study: The study.
        judge: Which of its judges, or one made for people.
        pictures: All pictures, in the study's order.
        folder: The study's folder.
    """

    def __init__(self, study: StudyConfig, judge: JudgeConfig, pictures: Sequence[Picture], folder: Path) -> None:
        self.study = study
        self.judge = judge
        self._pictures = pictures
        self._folder = folder

    @property
    def rubric(self) -> Rubric:
        """What the judge is told."""
        return find_rubric(self.judge.rubric, self.judge.rubric_file)

    def most_questions(self, recorder: Recorder) -> int:
        """Readings of a model that it is asked about: as many questions, were no two alike. The model may be loaded."""
        lenses, main = self._lenses(recorder)
        layers = [len(self.layers(recorder.layers_of(lens))) for lens in lenses]
        if ANOTHER in self.study.baselines:
            layers += [len(self.layers(recorder.layers_of(lens))) for lens in main]
        if self._with_random_rows(main):
            layers.append(len(self.layers(recorder.layers_of(None))))
        return sum(layers) * len(self._pictures)

    def asked(self, recorder: Recorder, records: Records) -> Iterator[tuple[pa.Table, list[Asked]]]:
        """The judged rows of a model and what is asked about them, some pictures at a time."""
        rows = self._rows(recorder, records)
        regions, rubric = regions_of(records.regions), self.rubric
        names = rows["image"].cast(pa.string())
        for start in range(0, len(self._pictures), _CHUNK):
            some = [picture for picture in self._pictures[start : start + _CHUNK] if picture.name in regions]
            mine = rows.filter(pc.is_in(names, value_set=pa.array([picture.name for picture in some], pa.string())))
            images = {picture.name: picture.open() for picture in some} if mine.num_rows else {}
            yield mine, list(questions(mine.combine_chunks(), rubric, images, regions))

    def verdicts(
        self,
        judge: Judge,
        recorders: Sequence[Recorder],
        records: Mapping[str, Records],
        *,
        again: bool,
        report: Report,
    ) -> tuple[pa.Table, JudgeError | None]:
        """Ask a judge about everything.

        Returns:
            Its verdicts; and why it stopped, if it did. Questions that have no answer then have no rows.
        """
        title, total, done = f"Asking {self.judge.label}", len(records) * len(self._pictures), 0
        tables, stopped = [VERDICTS_TABLE.empty_table()], None
        with self.answers(judge) as store:
            for recorder in recorders:
                for rows, asked in self.asked(recorder, records[recorder.model.label]):
                    chunk = min(_CHUNK, total - done)

                    def within(stage: str, part: int, whole: int, start: int = done, size: int = chunk) -> None:
                        report(title, start + size * part // max(1, whole), total)

                    # Picture by picture: whatever stops the judge, lenses and baselines rest on the same pictures.
                    wanted = [each.question for each in sorted(asked, key=_image)]
                    answers: dict[str, Answer] = {}
                    try:
                        if stopped is None:
                            answers = ask_all(
                                judge, wanted, answers=store, budget=budget_of(self.judge), again=again, report=within
                            )
                    except JudgeError as error:
                        stopped = error
                    if stopped is not None and store is not None:
                        answers = {q.id: answer for q in wanted if (answer := store.get(q.id)) is not None}
                    tables.append(self.rows_of(rows, asked, answers, self.judge.label))
                    done += chunk
                    report(title, done, total)
        return join_models(tables), stopped

    def rows_of(self, rows: pa.Table, asked: Sequence[Asked], answers: Mapping[str, Answer], label: str) -> pa.Table:
        """Rows with their verdicts, for whoever answered."""
        return verdict_rows(rows, asked, answers, judge=label, rubric=self.judge.rubric)

    def layers(self, known: Sequence[int]) -> tuple[int, ...]:
        """The layers that it is asked about, among those that were read.

        Raises:
            OptionError: One was not read.
        """
        asked = self.study.judged_layers if self.judge.layers is None else self.judge.layers
        if asked is None or not known:
            return tuple(known)
        text = asked if isinstance(asked, str) else ",".join(map(str, [asked] if isinstance(asked, int) else asked))
        return layers_among(text, tuple(known), "the layers that were read")

    def earlier(self, judge: Judge) -> dict[str, Answer]:
        """Answers from before, by question; nothing is made or locked."""
        file = self._file(judge)
        return read_answers(file)[1] if judge.kept and file.is_file() else {}

    @contextmanager
    def answers(self, judge: Judge) -> Iterator[Answers | None]:
        """Where its answers are kept; None for a judge that costs nothing."""
        if not judge.kept:
            yield None
            return
        with open_answers(self._file(judge), judge.identity) as store:
            yield store

    def _file(self, judge: Judge) -> Path:
        """Follows from the judge's identity alone: another label does not make its answers others."""
        digest = hashlib.sha256(json.dumps(judge.identity, sort_keys=True).encode()).hexdigest()[:12]
        return self._folder / "answers" / f"{slug(str(judge.identity.get('model', judge.name)))}-{digest}.jsonl"

    def _rows(self, recorder: Recorder, records: Records) -> pa.Table:
        lenses, main = self._lenses(recorder)
        rows = judged_rows(
            records.candidates,
            [lens.label for lens in lenses],
            another=[lens.label for lens in main] if ANOTHER in self.study.baselines else [],
            random_rows=self._with_random_rows(main),
            seed=self.study.seed,
        )
        layers = pa.array(self.layers(sorted(set(rows["layer"].to_pylist()))), pa.int32())
        return rows.filter(pc.is_in(rows["layer"], value_set=layers)).combine_chunks()

    def _lenses(self, recorder: Recorder) -> tuple[list[LensConfig], list[LensConfig]]:
        """The lenses of a model that it is asked about, and the main ones among them, which have baselines."""
        lenses = [lens for lens in recorder.lenses if lens in self.study.judged_by(self.judge)]
        return lenses, [lens for lens in lenses if lens.group == "main"]

    def _with_random_rows(self, main: Sequence[LensConfig]) -> bool:
        return "random rows" in self.study.baselines and bool(main)


def _image(asked: Asked) -> str:
    return "" if asked.question.region is None else asked.question.region.image


def join_models(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of several models as one; a column keeps their models apart."""
    plain = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables(plain).unify_dictionaries().combine_chunks()
