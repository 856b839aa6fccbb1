"""A study from its file to its report: plan, record, judge, count, draw. Every step goes on where it was left.

records/   one folder per model: what the lenses said, batch by batch   ─┐
answers/   one file per judge, a line for each question                  ├─► rows/ ─► tables/, figures/, report.html
people/    one file per annotator, from `patchlens annotate`            ─┘
"""

import hashlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers

from patchlens import __version__
from patchlens.analysis.drawing import need_matplotlib
from patchlens.errors import JudgeError, OptionError, StudyError
from patchlens.evaluation.question import Question
from patchlens.evaluation.ratings import people
from patchlens.evaluation.records import VERDICTS_TABLE, save_table
from patchlens.progress import Report, silent
from patchlens.provenance import JSON
from patchlens.storage import refusals, replacing, take_lock, write_json
from patchlens.study.config import JudgeConfig, StudyConfig, TruthConfig
from patchlens.study.describing import DescriptionScores, references_of, score_descriptions
from patchlens.study.findings import Gathered, findings_of, summary_of
from patchlens.study.interview import Interview, join_models
from patchlens.study.judges import budget_of, make_judge
from patchlens.study.judging import regions_of
from patchlens.study.pictures import find_pictures, truths_of
from patchlens.study.plan import Plan, check_study, plan_study
from patchlens.study.recording import Recorder, Records
from patchlens.study.report import write_findings, write_report

__all__ = ["Study"]


_FILE = "study.toml"


class Study:
    """A study in a folder.

    Args:
        config: What is studied.
        folder: Where everything is kept; made if it is missing. It may hold the same study, unfinished or with other
            settings: what fits is used again, and the report is made anew.

    Raises:
        OptionError: The folder holds something else, or the study's pictures cannot be found.
    """

    def __init__(self, config: StudyConfig, folder: str | Path) -> None:
        self.config = config
        self.folder = Path(folder)
        _refuse_other(self.folder)
        self.pictures = find_pictures(config.images)
        self.recorders = [Recorder(config, model, self.pictures, self.folder) for model in config.models]

    # -------------------------------------------------------------- before

    def plan(self, report: Report = silent) -> Plan:
        """Say what is left to do, how long it takes and what it costs; see `plan_study`.

        Raises:
            MissingExtra: matplotlib is not installed; better said now than after hours of work.
            PatchlensError: As `plan_study` does.
        """
        need_matplotlib()
        return plan_study(self.config, self.pictures, self.recorders, self.folder, report)

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
        need_matplotlib()
        began = time.monotonic()
        with self._alone():
            check_study(self.config, self.pictures)
            with replacing(self.folder / _FILE) as path:
                path.write_text(self.config.to_toml(), encoding="utf-8")
            for recorder in self.recorders:
                recorder.run(report)
                recorder.release()
            records = {recorder.model.label: recorder.open() for recorder in self.recorders}
            self._refuse_without_regions(records)
            gathered, stopped = self._gather(records, again, report)
            regions = join_models([each.regions for each in records.values()])
            path = self._write(gathered, regions, stopped, time.monotonic() - began, report)
        if stopped:
            raise self._unfinished(stopped, path)
        return path

    def _gather(self, records: Mapping[str, Records], again: bool, report: Report) -> tuple[Gathered, list[JudgeError]]:
        """Everything that is known once all judges were asked; and why some of them stopped."""
        verdicts: list[pa.Table] = [VERDICTS_TABLE.empty_table()]
        stopped: list[tuple[str, JudgeError]] = []
        for config in self.config.judges:
            judge = make_judge(config, truths_of(self.pictures) if isinstance(config, TruthConfig) else {})
            interview = self._interview(config)
            table, why = interview.verdicts(judge, self.recorders, records, again=again, report=report)
            verdicts.append(table)
            stopped += [] if why is None else [(config.label, why)]
        verdicts += self._people(records)
        captions = join_models([each.captions for each in records.values()])
        described, why = self._describe(captions, again, report, but=[label for label, _ in stopped])
        made = {recorder.model.label: recorder.made() for recorder in self.recorders}
        gathered = Gathered(
            config=self.config,
            candidates=join_models([each.candidates for each in records.values()]),
            states=join_models([each.states for each in records.values()]),
            captions=captions,
            verdicts=join_models(verdicts),
            known={p.name: p.known.caption for p in self.pictures if p.known and p.known.caption},
            described=described,
            widths={label: each["d_model"] for label, each in made.items()},
            bank_layers={label: each["bank_layers"] for label, each in made.items() if each["bank_layers"]},
        )
        return gathered, [each for _, each in stopped] + ([] if why is None else [why])

    def _refuse_without_regions(self, records: Mapping[str, Records]) -> None:
        for label, found in records.items():
            if not regions_of(found.regions):
                raise StudyError(
                    f"None of the {len(self.pictures)} pictures has a region of 3 × 3 patches within real pixels for "
                    f"{label!r}, so nothing can be judged. Use larger pictures, or a model that gives its visual "
                    "tokens places."
                )

    def _describe(
        self, captions: pa.Table, again: bool, report: Report, but: Sequence[str]
    ) -> tuple[DescriptionScores, JudgeError | None]:
        """What judges make of the models' descriptions; and why one of them stopped, if it did."""
        scores, references, stopped = DescriptionScores(), references_of(self.config), None
        for config in self.config.judges:
            if config.label not in self.config.captions.judges or config.label in but:
                continue
            judge = make_judge(config, {})
            with self._interview(config).answers(judge) as store:
                try:
                    score_descriptions(
                        captions,
                        self.pictures,
                        references,
                        judge,
                        store,
                        label=config.label,
                        budget=budget_of(config),
                        again=again,
                        report=report,
                        into=scores,
                    )
                except JudgeError as error:
                    stopped = error
        return scores, stopped

    def _interview(self, config: JudgeConfig) -> Interview:
        return Interview(self.config, config, self.pictures, self.folder)

    def _for_people(self) -> Interview:
        """What people are asked: the main lenses, at all layers, in single words."""
        main = tuple(lens.label for lens in self.config.lenses if lens.group == "main" and lens.judged)
        return self._interview(TruthConfig(label="people", lenses=main))

    def _people(self, records: Mapping[str, Records]) -> list[pa.Table]:
        """Verdicts of people, if any were given; each annotator is a judge."""
        said = people(self.folder / "people") if (self.folder / "people").is_dir() else {}
        if not said:
            return []
        interview = self._for_people()
        return [
            interview.rows_of(rows, asked, answers, name)
            for recorder in self.recorders
            for rows, asked in interview.asked(recorder, records[recorder.model.label])
            for name, answers in said.items()
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
        interview = self._for_people()
        records = [(recorder, recorder.open()) for recorder in self.recorders]

        def every() -> Iterator[Question]:
            for recorder, its in records:
                for _, asked in interview.asked(recorder, its):
                    yield from (each.question for each in asked)

        # By id: the same questions whoever asks for them, and more of them when more are wanted. Pictures are closed
        # again but for those of the chosen ones.
        ids = {question.id for question in every()}
        order = sorted(ids, key=lambda each: hashlib.sha256(f"{self.config.seed} {each}".encode()).digest())[:count]
        wanted = set(order)
        found = {question.id: question for question in every() if question.id in wanted}
        return [found[each] for each in order]

    # -------------------------------------------------------------- what is kept

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

    def _write(
        self, gathered: Gathered, regions: pa.Table, stopped: Sequence[JudgeError], seconds: float, report: Report
    ) -> Path:
        made: dict[str, JSON] = {recorder.model.label: recorder.made() for recorder in self.recorders}
        for kind in ("candidates", "states", "captions", "verdicts"):
            save_table(getattr(gathered, kind), self.folder / "rows" / f"{kind}.parquet", kind, made)
        save_table(regions, self.folder / "rows" / "regions.parquet", "regions", made)
        report("Counting and drawing", 0, 1)
        findings, left_out = findings_of(gathered)
        figures = write_findings(self.folder, findings)
        about: dict[str, JSON] = {**self._about(gathered, seconds), "analyses left out": list(left_out)}
        write_json(self.folder / "study.json", about)
        path = self.folder / "report.html"
        write_report(
            path,
            title=self.config.title,
            findings=findings,
            config_toml=self.config.to_toml(),
            about={name: str(value) for name, value in about.items() if not isinstance(value, dict | list)},
            summary=summary_of(self.config, gathered.verdicts),
            figures=figures,
            notes=self._notes(regions, stopped),
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
            "summary": list(summary_of(self.config, gathered.verdicts)),
            "minutes of the last run, before drawing": round(seconds / 60, 1),
            "models": {recorder.model.label: recorder.made() for recorder in self.recorders},
        }

    def _unfinished(self, stopped: Sequence[JudgeError], path: Path) -> JudgeError:
        """Why judges stopped, in one: the report shows what there was until then."""
        first = stopped[0]
        return type(first)(f"{' '.join(map(str, stopped))} {path} shows what was answered until then.")

    def _notes(self, regions: pa.Table, stopped: Sequence[JudgeError]) -> list[str]:
        """What a reader must know before the first figure."""
        without = sorted(set(regions.filter(pc.is_null(regions["tile"]))["image"].to_pylist()))
        notes = [f"Not all was asked. {why}" for why in stopped]
        if without:
            shown = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
            notes.append(
                f"{len(without)} of {len(self.pictures)} pictures have no region of 3 × 3 patches within real pixels "
                f"for some model, and are left out there: {shown}."
            )
        unique = [lens.label for lens in self.config.lenses if (lens.unique or self.config.unique) == "word"]
        if unique:
            notes.append(
                "Candidates are different words, whatever their case; duplicates were passed over. So of the lenses "
                f"{', '.join(unique)}."
            )
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
