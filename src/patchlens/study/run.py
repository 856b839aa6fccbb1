"""A study from its file to its report: plan, record, judge, count, draw. Every step goes on where it was left.

records/   one folder per model: what the lenses said, batch by batch   ─┐
answers/   one file per judge, a line for each question                  ├─► rows/ ─► tables/, figures/, report.html
people/    one file per annotator, from `patchlens annotate`            ─┘
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers

from patchlens import __version__
from patchlens.analysis.drawing import need_matplotlib
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.answers import Answers, open_answers, read_answers
from patchlens.evaluation.asking import ask_all, estimate_all
from patchlens.evaluation.judge import Estimate, Judge
from patchlens.evaluation.question import Question, Shown, ask_about
from patchlens.evaluation.ratings import people
from patchlens.evaluation.records import VERDICTS_TABLE, save_table
from patchlens.evaluation.region import Region
from patchlens.evaluation.rubric import Rubric, find_rubric
from patchlens.evaluation.truth import SceneTruth
from patchlens.models.site import layers_among
from patchlens.progress import Report, silent
from patchlens.provenance import JSON
from patchlens.storage import refusals, replacing, take_lock, write_json
from patchlens.study.config import EndpointConfig, JudgeConfig, StudyConfig, TruthConfig
from patchlens.study.describing import DescriptionScores, score_descriptions
from patchlens.study.findings import Gathered, findings_of, summary_of
from patchlens.study.judges import budget_of, make_judge
from patchlens.study.judging import ANOTHER, Asked, judged_rows, questions, regions_of, verdict_rows
from patchlens.study.pictures import find_pictures, references
from patchlens.study.recording import Recorder, Records, slug
from patchlens.study.report import write_findings, write_report

__all__ = ["Plan", "Step", "Study"]

_CHUNK = 64
"""Pictures whose questions are asked together: enough to keep any endpoint busy, few enough to be open at once."""
_FILE = "study.toml"
_TYPICAL = ("lighthouse", "striped", "on the left", "building", "sea")
"""Candidates of a made-up question, to estimate by before there are real ones."""


@dataclass(frozen=True)
class Step:
    """One part of a study's work."""

    what: str
    """"Read pictures with llava", "Ask gpt-5" …"""
    total: int
    """Pictures, questions or banks in all."""
    left: int
    """Of them still to be done."""
    seconds: float | None = None
    """What is left would take about so long; None where nothing is known."""
    cost: float | None = 0.0
    """It would cost about so much, in the currency of the judge's prices; None where no price is known."""
    note: str = ""
    """What that rests on."""


@dataclass(frozen=True)
class Plan:
    """What running a study would do."""

    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float | None:
        """All that is known of the time."""
        known = [step.seconds for step in self.steps if step.seconds is not None and step.left]
        return sum(known) if known else None

    @property
    def cost(self) -> float | None:
        """What judges would cost; None if a price is missing."""
        costs = [step.cost for step in self.steps if step.left]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


class Study:
    """A study in a folder.

    Args:
        config: What is studied.
        folder: Where everything is kept; made if it is missing. It may hold the same study, unfinished or with other
            settings: what fits is used again, and the report is made anew.

    Raises:
        OptionError: The folder holds something else, or the study's pictures cannot be found.
        MissingExtra: matplotlib is not installed; better said now than after hours of work.
    """

    def __init__(self, config: StudyConfig, folder: str | Path) -> None:
        need_matplotlib()
        self.config = config
        self.folder = Path(folder)
        _refuse_other(self.folder)
        self.pictures = find_pictures(config.images)
        self.recorders = [Recorder(config, model, self.pictures, self.folder) for model in config.models]

    # -------------------------------------------------------------- before

    def plan(self, report: Report = silent) -> Plan:
        """Say what is left to do, how long it takes and what it costs.

        Where nothing is known of a model's pace, it is loaded and one picture is read.

        Raises:
            PatchlensError: As loading and reading do.
        """
        steps = []
        note = "one was tried"
        for recorder in self.recorders:
            label, pictures = recorder.model.label, len(self.pictures)
            if banks := recorder.missing_banks():
                what = f"Build banks for {label}: {', '.join(banks)}"
                steps.append(Step(what, len(banks), len(banks), note="'patchlens bank plan' tells how long"))
            if left := recorder.missing():
                pace = recorder.probe(report)
                steps.append(Step(f"Read pictures with {label}", pictures, left, pace * left, note=note))
            if left := recorder.missing_captions():
                pace = recorder.probe_description(report)
                steps.append(Step(f"Describe pictures with {label}", pictures, left, pace * left, note=note))
        return Plan((*steps, *self._judging_steps(report)))

    def _judging_steps(self, report: Report) -> Iterator[Step]:
        recorded = not any(recorder.missing() for recorder in self.recorders)
        for config in self.config.judges:
            if isinstance(config, TruthConfig):
                continue  # it takes seconds
            if not isinstance(config, EndpointConfig):
                yield Step(f"Ask {config.label}", 1, 1, note="its pace is not known before it is asked")
                continue
            judge = make_judge(config, {})
            if not recorded:
                most = sum(self._most_questions(config, recorder) for recorder in self.recorders)
                yield _step(config, _times(judge.estimate([self._typical(config)]), most), "at most, before reading")
                continue
            file = self._answers_file(config, judge)
            given = read_answers(file)[1] if file.is_file() else None
            report(f"Counting questions for {config.label}", 0, 1)
            found = [
                estimate_all(judge, [each.question for each in asked], given)
                for recorder in self.recorders
                for _, asked in self._asked(config, recorder, recorder.open())
            ]
            report(f"Counting questions for {config.label}", 1, 1)
            yield _step(config, _sum(found))

    def _most_questions(self, config: JudgeConfig, recorder: Recorder) -> int:
        """Readings that a judge is asked about: as many questions, were no two alike."""
        lenses = [lens for lens in recorder.lenses if lens in self.config.judged_by(config)]
        readings = sum(len(self._judged_layers(config, recorder.layers_of(lens))) for lens in lenses)
        main = [lens for lens in lenses if lens.group == "main"]
        if ANOTHER in self.config.baselines:
            readings += sum(len(self._judged_layers(config, recorder.layers_of(lens))) for lens in main)
        if "random rows" in self.config.baselines and any(lens.lens == "latent" for lens in main):
            readings += len(self._judged_layers(config, recorder.layers_of(None)))
        return readings * len(self.pictures)

    def _typical(self, config: JudgeConfig) -> Question:
        image = self.pictures[0].open()
        height, width = image.size
        region = Region(image.name, 0, 1, 1, (height / 3, width / 3, 2 * height / 3, 2 * width / 3))
        return ask_about(_rubric(config), image, region, [Shown(word) for word in _TYPICAL])

    # -------------------------------------------------------------- the work

    def run(self, *, again: bool = False, report: Report = silent) -> Path:
        """Do all that is left, and write rows, tables, figures and the report.

        Args:
            again: Ask judges again what they left undecided.
            report: Told of every stage.

        Returns:
            The report.

        Raises:
            StudyError: Another process is at work in the folder, or what it holds does not belong together.
            JudgeError: A judge cannot go on; BudgetSpent. What it answered is kept, and running again goes on.
            PatchlensError: As loading, building, reading and saving do.
        """
        began = time.monotonic()
        with self._alone():
            with replacing(self.folder / _FILE) as path:
                path.write_text(self.config.to_toml(), encoding="utf-8")
            for recorder in self.recorders:
                recorder.run(report)
                recorder.release()
            records = {recorder.model.label: recorder.open() for recorder in self.recorders}
            self._refuse_without_regions(records)
            verdicts = [self._judge(config, records, again, report) for config in self.config.judges]
            verdicts += self._people(records)
            captions = _whole([each.captions for each in records.values()])
            gathered = Gathered(
                config=self.config,
                candidates=_whole([each.candidates for each in records.values()]),
                states=_whole([each.states for each in records.values()]),
                captions=captions,
                verdicts=_whole([VERDICTS_TABLE.empty_table(), *verdicts]),
                known={p.name: p.known.caption for p in self.pictures if p.known and p.known.caption},
                described=self._describe(captions, again, report),
                widths={recorder.model.label: recorder.made()["d_model"] for recorder in self.recorders},
                bank_layers={
                    each.model.label: layers for each in self.recorders if (layers := each.made()["bank_layers"])
                },
            )
            regions = _whole([each.regions for each in records.values()])
            return self._write(gathered, regions, time.monotonic() - began, report)

    def _refuse_without_regions(self, records: Mapping[str, Records]) -> None:
        for label, found in records.items():
            if not regions_of(found.regions):
                raise StudyError(
                    f"None of the {len(self.pictures)} pictures has a region of 3 × 3 patches within real pixels for "
                    f"{label!r}, so nothing can be judged. Use larger pictures, or a model that gives its visual "
                    "tokens places."
                )

    def _judge(self, config: JudgeConfig, records: Mapping[str, Records], again: bool, report: Report) -> pa.Table:
        """All verdicts of one judge."""
        judge = make_judge(config, self._truths())
        title, total, done = f"Asking {config.label}", len(records) * len(self.pictures), 0
        tables = [VERDICTS_TABLE.empty_table()]
        with self._answers(config, judge) as store:
            for recorder in self.recorders:
                for rows, asked in self._asked(config, recorder, records[recorder.model.label]):
                    chunk = min(_CHUNK, total - done)

                    def within(stage: str, part: int, whole: int, start: int = done, size: int = chunk) -> None:
                        report(title, start + size * part // max(1, whole), total)

                    answers = ask_all(
                        judge,
                        [each.question for each in asked],
                        answers=store,
                        budget=budget_of(config),
                        again=again,
                        report=within,
                    )
                    done += chunk
                    report(title, done, total)
                    tables.append(verdict_rows(rows, asked, answers, judge=config.label, rubric=config.rubric))
        return _whole(tables)

    def _describe(self, captions: pa.Table, again: bool, report: Report) -> DescriptionScores:
        """What judges make of the models' descriptions."""
        scores = DescriptionScores()
        given = {} if self.config.images.references is None else references(self.config.images.references)
        for config in self.config.judges:
            if config.label not in self.config.captions.judges:
                continue
            judge = make_judge(config, {})
            with self._answers(config, judge) as store:
                score_descriptions(
                    captions,
                    self.pictures,
                    given,
                    judge,
                    store,
                    label=config.label,
                    budget=budget_of(config),
                    again=again,
                    report=report,
                    into=scores,
                )
        return scores

    def _asked(
        self, config: JudgeConfig, recorder: Recorder, records: Records
    ) -> Iterator[tuple[pa.Table, list[Asked]]]:
        """What a judge is asked about one model, some pictures at a time."""
        rows = self._rows(config, recorder, records)
        regions, rubric = regions_of(records.regions), _rubric(config)
        names = rows["image"].cast(pa.string())
        for start in range(0, len(self.pictures), _CHUNK):
            some = [picture for picture in self.pictures[start : start + _CHUNK] if picture.name in regions]
            mine = rows.filter(pc.is_in(names, value_set=pa.array([picture.name for picture in some], pa.string())))
            images = {picture.name: picture.open() for picture in some}
            yield mine, list(questions(mine.combine_chunks(), rubric, images, regions))

    def _rows(self, config: JudgeConfig, recorder: Recorder, records: Records) -> pa.Table:
        lenses = [lens for lens in recorder.lenses if lens in self.config.judged_by(config)]
        main = [lens.label for lens in lenses if lens.group == "main"] if ANOTHER in self.config.baselines else []
        labels = [lens.label for lens in lenses]
        rows = judged_rows(records.candidates, labels, another=main, seed=self.config.seed)
        known = tuple(sorted(set(rows["layer"].to_pylist())))
        layers = pa.array(self._judged_layers(config, known), pa.int32())
        return rows.filter(pc.is_in(rows["layer"], value_set=layers)).combine_chunks()

    def _judged_layers(self, config: JudgeConfig, known: Sequence[int]) -> tuple[int, ...]:
        asked = self.config.judged_layers if config.layers is None else config.layers
        if asked is None:
            return tuple(known)
        text = asked if isinstance(asked, str) else ",".join(map(str, [asked] if isinstance(asked, int) else asked))
        return layers_among(text, tuple(known), "the layers that were read")

    def _people(self, records: Mapping[str, Records]) -> list[pa.Table]:
        """Verdicts of people, if any were given; each annotator is a judge."""
        if not (self.folder / "people").is_dir():
            return []
        said = people(self.folder / "people")
        config = TruthConfig(label="people")  # all lenses and layers, by the rubric that people see
        asked = [
            (rows, some)
            for recorder in self.recorders
            for rows, some in self._asked(config, recorder, records[recorder.model.label])
        ]
        return [
            verdict_rows(rows, some, answers, judge=name, rubric="patch")
            for name, answers in said.items()
            for rows, some in asked
        ]

    def questions_for_people(self, count: int) -> list[Question]:
        """A seeded sample of what judges are asked about the study's main lenses, to be asked of people.

        Args:
            count: How many different questions; fewer where there are fewer.

        Raises:
            StudyError: The study has not been run far enough: its records are missing.
        """
        if any(recorder.missing() for recorder in self.recorders):
            raise StudyError(
                f"The study in {self.folder} has not read all its pictures, so there is nothing to annotate yet. Run "
                f"'patchlens study {self.folder / _FILE} --out {self.folder}' first."
            )
        main = tuple(lens.label for lens in self.config.lenses if lens.group == "main" and lens.judged)
        config = TruthConfig(label="people", lenses=main)
        found: dict[str, Question] = {}
        for recorder in self.recorders:
            for _, asked in self._asked(config, recorder, recorder.open()):
                found.update((each.question.id, each.question) for each in asked)
        # By id: the same questions whoever asks for them, and more of them when more are wanted.
        order = sorted(found, key=lambda each: hashlib.sha256(f"{self.config.seed} {each}".encode()).digest())
        return [found[each] for each in order[:count]]

    def _truths(self) -> dict[str, SceneTruth]:
        return {picture.name: picture.truth() for picture in self.pictures if picture.truth is not None}

    # -------------------------------------------------------------- what is kept

    def _answers_file(self, config: JudgeConfig, judge: Judge) -> Path:
        digest = hashlib.sha256(json.dumps(judge.identity, sort_keys=True).encode()).hexdigest()[:8]
        return self.folder / "answers" / f"{slug(config.label)}-{digest}.jsonl"

    @contextmanager
    def _answers(self, config: JudgeConfig, judge: Judge) -> Iterator[Answers | None]:
        if not judge.kept:
            yield None
            return
        with open_answers(self._answers_file(config, judge), judge.identity) as store:
            yield store

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from working in the folder."""
        with refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = take_lock(self.folder / ".lock")
        if handle is None:
            raise StudyError(
                f"Another process is working on the study in {self.folder}. Wait for it, or choose another folder."
            )
        try:
            yield
        finally:
            os.close(handle)

    def _write(self, gathered: Gathered, regions: pa.Table, seconds: float, report: Report) -> Path:
        made: dict[str, JSON] = {"study": hashlib.sha256(self.config.to_toml().encode()).hexdigest()[:12]}
        for kind in ("candidates", "states", "captions", "verdicts"):
            save_table(getattr(gathered, kind), self.folder / "rows" / f"{kind}.parquet", kind, made)
        save_table(regions, self.folder / "rows" / "regions.parquet", "regions", made)
        report("Counting and drawing", 0, 1)
        findings = findings_of(gathered)
        figures = write_findings(self.folder, findings)
        about = self._about(gathered, seconds)
        write_json(self.folder / "study.json", about)
        path = self.folder / "report.html"
        write_report(
            path,
            title=self.config.title,
            findings=findings,
            config_toml=self.config.to_toml(),
            about={name: str(value) for name, value in about.items() if not isinstance(value, dict | list)},
            summary=summary_of(gathered),
            figures=figures,
            notes=self._notes(regions),
        )
        report("Counting and drawing", 1, 1)
        return path

    def _about(self, gathered: Gathered, seconds: float) -> dict[str, JSON]:
        return {
            "patchlens": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "pictures": len(self.pictures),
            "verdicts": gathered.verdicts.num_rows,
            "minutes of the last run": round(seconds / 60, 1),
            "models": {recorder.model.label: recorder.made() for recorder in self.recorders},
        }

    def _notes(self, regions: pa.Table) -> list[str]:
        """What a reader must know before the first figure."""
        without = sorted(set(regions.filter(pc.is_null(regions["tile"]))["image"].to_pylist()))
        notes = []
        if without:
            shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
            notes.append(
                f"{len(without)} of {len(self.pictures)} pictures have no region of 3 × 3 patches within real pixels "
                f"for some model, and are left out there: {shown}."
            )
        if self.config.unique == "word":
            notes.append("A token's candidates are different words, whatever their case; duplicates were passed over.")
        return notes


def _refuse_other(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _FILE).is_file():
        ours = {".lock", "records", "answers", "banks", "people"}
        if strangers := sorted(path.name for path in folder.iterdir() if path.name not in ours):
            raise OptionError(
                f"The folder {folder} holds {strangers[0]} and no {_FILE}, so it is no study's. Choose another folder."
            )
    elif folder.exists() and not folder.is_dir():
        raise OptionError(f"Writing the study to {folder}: a file of that name is in the way. Choose another name.")


def _rubric(config: JudgeConfig) -> Rubric:
    return find_rubric(config.rubric, config.rubric_file)


def _whole(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of several models as one; they keep their models apart in a column."""
    return (
        pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        .unify_dictionaries()
        .combine_chunks()
    )


def _step(config: JudgeConfig, estimate: Estimate, note: str = "") -> Step:
    total = estimate.questions + estimate.answered
    basis = "; ".join(part for part in (note, estimate.basis) if part)
    return Step(f"Ask {config.label}", total, estimate.questions, estimate.seconds, estimate.cost, basis)


def _times(one: Estimate, count: int) -> Estimate:
    """What so many questions like one would take."""
    return Estimate(
        questions=count,
        input_tokens=one.input_tokens * count,
        output_tokens=one.output_tokens * count,
        seconds=None if one.seconds is None else one.seconds * count,
        cost=None if one.cost is None else one.cost * count,
        basis=one.basis,
    )


def _sum(parts: Sequence[Estimate]) -> Estimate:
    seconds, costs = [part.seconds for part in parts], [part.cost for part in parts]
    return Estimate(
        questions=sum(part.questions for part in parts),
        answered=sum(part.answered for part in parts),
        input_tokens=sum(part.input_tokens for part in parts),
        output_tokens=sum(part.output_tokens for part in parts),
        seconds=None if None in seconds else sum(each for each in seconds if each is not None),
        cost=None if None in costs else sum(each for each in costs if each is not None),
        basis=next((part.basis for part in parts if part.basis), ""),
    )
