"""What a model holds in a study's pictures, as its lenses say: read once, batch by batch, and kept.

A batch is done when its file of candidates stands, which is written last. Batches that are done are never run again,
and nothing here depends on how often the work was interrupted.
"""

import gc
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_bank
from patchlens.capture.answering import answer_text
from patchlens.capture.capture import capture_batch, request_of
from patchlens.capture.hidden_states import HiddenStates
from patchlens.errors import OptionError, StudyError
from patchlens.evaluation.records import CANDIDATES, CAPTIONS, REGIONS, STATES, join, made_with, open_table, save_table
from patchlens.evaluation.region import Region, sample_region
from patchlens.inputs.corpus import Corpus, read_corpus
from patchlens.inputs.image import ImageInput
from patchlens.lenses.baseline import RandomLens
from patchlens.lenses.embedding import EmbeddingLens
from patchlens.lenses.latent import LatentLens
from patchlens.lenses.lens import Lens
from patchlens.lenses.logit import LogitLens
from patchlens.lenses.reading import Readings
from patchlens.models.adapter import Request
from patchlens.models.embedded import embedded
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.models.site import resolve_layers
from patchlens.models.token_map import TokenMap
from patchlens.progress import Report, silent
from patchlens.provenance import JSON
from patchlens.storage import readable
from patchlens.study.config import BankConfig, LensConfig, ModelConfig, StudyConfig
from patchlens.study.pictures import Picture

__all__ = ["Recorder", "Records"]

_SPARE = 4  # candidates read for each that is wanted, where only different words are kept
_AT_ONCE = 4  # pictures captured in one pass, if they are small:
_SMALL = 1_000_000  # pixels


@dataclass(frozen=True)
class Records:
    """All that was recorded of one model."""

    candidates: pa.Table
    """See `records.CANDIDATES`."""
    states: pa.Table
    """See `records.STATES`."""
    regions: pa.Table
    """See `records.REGIONS`."""
    captions: pa.Table
    """See `records.CAPTIONS`; empty if the study wants none."""


class Recorder:
    """Records one model of a study into a folder of its own.

    Args:
        config: The study.
        model: Which of its models.
        pictures: All pictures, in the study's order.
        folder: The study's folder.
    """

    def __init__(self, config: StudyConfig, model: ModelConfig, pictures: Sequence[Picture], folder: Path) -> None:
        self.config = config
        self.model = model
        self.lenses = config.lenses_of(model)
        self._pictures = pictures
        self._study = folder
        size = config.batch
        self._batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        self.folder = folder / "records" / f"{slug(model.label)}-{_digest(self._asked())}"
        self._loaded: Model | None = None

    # -------------------------------------------------------------- what is there

    def missing(self) -> int:
        """Pictures that have not been read yet."""
        return sum(len(batch) for number, batch in enumerate(self._batches) if not self._done("candidates", number))

    @property
    def captions_wanted(self) -> int:
        """Pictures that are to be described."""
        return sum(map(len, self._captioned()))

    def missing_captions(self) -> int:
        """Pictures that have not been described yet."""
        return sum(len(batch) for number, batch in enumerate(self._captioned()) if not self._done("captions", number))

    def missing_banks(self) -> list[str]:
        """Banks of the study that have not been built yet."""
        return [label for label in self._own_banks() if not (self._bank_folder(label) / "bank.json").is_file()]

    def open(self) -> Records:
        """Everything recorded so far.

        Raises:
            StudyError: A batch is missing or damaged, or batches were recorded with different weights or banks.
        """

        def whole(kind: str) -> pa.Table:
            return join(open_table(self._file(kind, number), kind) for number in range(len(self._batches)))

        described = [open_table(self._file("captions", number), "captions") for number in range(len(self._captioned()))]
        captions = join(described) if described else CAPTIONS.empty_table()
        return Records(whole("candidates"), whole("states"), whole("regions"), captions)

    # -------------------------------------------------------------- the work

    def run(self, report: Report = silent) -> None:
        """Read and describe all pictures that are missing.

        Raises:
            StudyError: What stands there was recorded with other weights or banks, or no picture has a region.
            PatchlensError: As loading, building, capturing and reading do.
        """
        for label in self.missing_banks():
            self._build(label, report)
        self._refuse_other_banks()
        if self.missing():
            made = self._made(report)
            lenses = [(lens, self._make(lens)) for lens in self.lenses]
            self._each("Reading", self._batches, "candidates", report, lambda n, b: self._read(n, b, lenses, made))
        if self.missing_captions():
            made = self._made(report)
            self._each("Describing", self._captioned(), "captions", report, lambda n, b: self._describe(n, b, made))

    def release(self) -> None:
        """Let go of the model, so that the next one has its memory."""
        self._loaded = None
        gc.collect()  # modules refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what spreads models over devices counts kept memory as taken

    def probe(self, report: Report = silent) -> float:
        """Seconds that reading one picture takes, measured on the first one; banks that are missing are left out.

        The model is loaded for it.
        """
        self._load(report)
        missing = self.missing_banks()
        ready = [lens for lens in self.lenses if lens.lens != "latent" or self._bank_name(lens) not in missing]
        lenses = [(lens, self._make(lens)) for lens in ready]
        image, layers = self._pictures[0].open(), self._layers()
        self._capture([image], layers)  # the first pass through a model is slower than the others
        began = time.monotonic()
        samples = [sample for sample in self._capture([image], layers) if sample.region is not None]
        captured = time.monotonic() - began
        for lens, made in lenses if samples else ():
            self._candidates(lens, made, samples)
        # A batch of pictures passes over the bank once, as one picture does.
        return captured + (time.monotonic() - began - captured) / len(self._batches[0])

    def probe_description(self, report: Report = silent) -> float:
        """Seconds that describing one picture takes, measured on the first one."""
        model, image = self._load(report), self._pictures[0].open()
        began = time.monotonic()
        answer_text(model, [image], self.config.prompt, max_tokens=self.config.captions.max_tokens)
        return time.monotonic() - began

    def made(self) -> dict[str, Any]:
        """How the records were made: model, weights, banks and settings."""
        return made_with(open_table(self._file("regions", 0), "regions"))

    def layers_of(self, lens: LensConfig | None) -> tuple[int, ...]:
        """The layers that a lens reads; without one, those of the model. The model is loaded for it."""
        return self._layers() if lens is None or lens.layers is None else self._resolve(lens.layers)

    def _each(
        self,
        stage: str,
        batches: Sequence[Sequence[Picture]],
        kind: str,
        report: Report,
        work: Callable[[int, Sequence[Picture]], None],
    ) -> None:
        total, title = sum(map(len, batches)), f"{stage} ({self.model.label})"
        done = 0
        for number, batch in enumerate(batches):
            if not self._done(kind, number):
                report(title, done, total)
                work(number, batch)
            done += len(batch)
            report(title, done, total)

    def _read(
        self, number: int, batch: Sequence[Picture], lenses: Sequence[tuple[LensConfig, Lens]], made: dict[str, JSON]
    ) -> None:
        images = [picture.open() for picture in batch]
        layers = self._layers()
        samples = [
            sample
            for start in range(0, len(images), _AT_ONCE)
            for sample in self._capture(images[start:][:_AT_ONCE], layers)
        ]
        found = [sample for sample in samples if sample.region is not None]
        candidates = [CANDIDATES.empty_table()]
        if found:
            for config, lens in lenses:
                candidates.append(self._candidates(config, lens, found))
            if "random rows" in self.config.baselines and (bank := self._main_bank()) is not None:
                seed = int(_digest([self.config.seed, number]), 16)
                candidates.append(self._candidates(None, RandomLens(bank, seed=seed), found))
        states = [_states(self.model.label, sample) for sample in found]
        self._save("states", number, pa.concat_tables([STATES.empty_table(), *states]), made)
        self._save("regions", number, pa.concat_tables([_region_row(self.model.label, each) for each in samples]), made)
        self._save("candidates", number, pa.concat_tables(candidates), made)

    def _capture(self, images: Sequence[ImageInput], layers: tuple[int, ...]) -> "list[_Sample]":
        model = self._load()
        picks: dict[str, _Pick] = {}

        def choose(request: Request, tokens: TokenMap) -> torch.Tensor:
            pick = _pick(request.images[0], tokens, self.config)
            picks[request.images[0].name] = pick
            return torch.cat([pick.visual, pick.text])

        requests = [request_of(image, self.config.prompt) for image in images]
        # Layer 0 is what drift is measured from. Where visual states lie beside the text, there is no text with them.
        captured = capture_batch(
            model,
            requests,
            layers=sorted({0, *layers}),
            positions="visual" if model.adapter.beside_sequence else "all",
            batch_size=_AT_ONCE if all(image.pixels.width * image.pixels.height <= _SMALL for image in images) else 1,
            choose=choose,
        )
        return [_sample(image, states, picks[image.name]) for image, states in zip(images, captured, strict=True)]

    def _candidates(self, config: LensConfig | None, lens: Lens, samples: "Sequence[_Sample]") -> pa.Table:
        """What a lens says of the samples' tokens; one outside the group "main" reads the judged one alone."""
        main = config is None or config.group == "main"
        states = [sample.visual if main else sample.visual.take(torch.tensor([0])) for sample in samples]
        k, unique = self.config.k, self._unique(config)
        spare = unique and not isinstance(lens, LatentLens)
        layers = self.layers_of(config)
        read = lens.read_batch(states, k=k * _SPARE if spare else k, layers=layers)
        kept = [readings.different_words(k) if spare else readings for readings in read]
        rows = []
        for sample, readings in zip(samples, kept, strict=True):
            rows.append(_candidate_rows(self.model.label, config.label if config else None, sample, readings))
        return pa.concat_tables(rows)

    def _describe(self, number: int, batch: Sequence[Picture], made: dict[str, JSON]) -> None:
        model, most = self._load(), self.config.captions.max_tokens
        said = [answer_text(model, [picture.open()], self.config.prompt, max_tokens=most) for picture in batch]
        names = [picture.name for picture in batch]
        table = pa.table({"model": [self.model.label] * len(batch), "image": names, "caption": said})
        self._save("captions", number, table.cast(CAPTIONS), made)

    # -------------------------------------------------------------- models and banks

    def _load(self, report: Report = silent) -> Model:
        if self._loaded is None:
            report(f"Loading {self.model.label}", 0, 1)
            self._loaded = load_model(
                self.model.name,
                revision=self.model.revision,
                dtype=self.model.dtype,
                device_map=self.model.device_map,
                trust_remote_code=self.model.trust_remote_code,
            )
            report(f"Loading {self.model.label}", 1, 1)
        return self._loaded

    def _make(self, config: LensConfig) -> Lens:
        model = self._load()
        if config.lens == "logit":
            return LogitLens(model)
        if config.lens == "embedding":
            return EmbeddingLens(model)
        bank = self._bank(config)
        bank.check(model.fingerprint, model.d_model, model=model.name)
        return LatentLens(
            bank,
            layers=config.contextual_layers or None,
            space=config.space,
            unique="word" if self._unique(config) else None,
            share=config.share,
            seed=self.config.seed,
        )

    def _unique(self, config: LensConfig | None) -> bool:
        chosen = self.config.unique if config is None or config.unique is None else config.unique
        return chosen == "word"

    def _main_bank(self) -> Bank | None:
        """The bank of the model's main latent lens; None if it has none."""
        for config in self.lenses:
            if config.lens == "latent" and config.group == "main":
                return self._bank(config)
        return None

    def _bank(self, config: LensConfig) -> Bank:
        name = self._bank_name(config)
        if name in self._own_banks():
            return open_bank(self._bank_folder(name))
        if name is None:
            raise OptionError(
                f"The lens {config.label!r} of the model {self.model.label!r} needs a bank, and none was given. Name "
                "one under the model or the lens, or describe one in [[banks]]."
            )
        return open_bank(name)

    def _bank_name(self, config: LensConfig) -> str | None:
        """The label of a bank of the study's, or what `open_bank` takes; None where there is none."""
        if config.bank is not None or self.model.bank is not None:
            return config.bank or self.model.bank
        return self.model.name if embedded(self.model.name) is not None else None

    def _own_banks(self) -> dict[str, BankConfig]:
        """The study's own banks that lenses of this model use."""
        used = {lens.bank for lens in self.lenses} | {self.model.bank}
        return {
            bank.label: bank
            for bank in self.config.banks
            if bank.label in used and (bank.model is None or bank.model == self.model.label)
        }

    def _bank_folder(self, label: str) -> Path:
        bank = self._own_banks()[label]
        recipe = [
            _plain(bank),
            [self.model.label, self.model.name, self.model.revision, self.model.dtype],
            self.config.seed if bank.share < 1 else None,
            None if bank.corpus is None else _content(Path(bank.corpus)),
        ]
        return self._study / "banks" / f"{slug(self.model.label)}-{slug(label)}-{_digest(recipe)}"

    def _build(self, label: str, report: Report) -> None:
        bank = self._own_banks()[label]
        options = bank.options()
        if bank.corpus is None:
            member = embedded(self.model.name)
            if member is None:
                raise OptionError(
                    f"The bank {label!r} of the model {self.model.label!r} names no corpus. Give one; only embedded "
                    "models bring their own."
                )
            corpus, options = read_corpus(member.corpus()), {**member.bank, **options}
        else:
            corpus = read_corpus(bank.corpus, column=options.pop("column", None))
        sentences = corpus if bank.share == 1 else read_corpus(_part(corpus, bank.share, self.config.seed))
        stages = {"plan": "choosing contexts", "run": "running the model"}

        def of_bank(stage: str, done: int, total: int) -> None:
            report(f"Bank {label!r}: {stages.get(stage, stage)}", done, total)

        build_bank(self._load(report), sentences, self._bank_folder(label), **options, report=of_bank)

    # -------------------------------------------------------------- how it was made

    def _asked(self) -> dict[str, JSON]:
        """What the records depend on, as far as it is known without loading anything."""
        return {
            "model": _plain(self.model, without=("published",)),
            "lenses": [_plain(lens, without=("judged",)) for lens in self.lenses],
            "banks": [_plain(bank) for bank in self._own_banks().values()],
            "study": {
                name: getattr(self.config, name)
                for name in ("seed", "k", "layers", "prompt", "unique", "survey", "baselines", "batch")
            },
        }

    def _refuse_other_banks(self) -> None:
        """Refuse records that were made with a bank which has another content by now."""
        for path in sorted(self.folder.glob("regions-*.parquet")):
            if (before := made_with(open_table(path, "regions"))["bank_fingerprints"]) != self._bank_fingerprints():
                raise self._mixed(["bank fingerprints"], before)

    def _bank_fingerprints(self) -> dict[str, str]:
        latent = [lens for lens in self.lenses if lens.lens == "latent"]
        return {lens.label: _digest(self._bank(lens).provenance.to_json()) for lens in latent}

    def _mixed(self, differing: Sequence[str], before: object) -> StudyError:
        return StudyError(
            f"{self.folder} holds records of {self.model.label!r} that were made with another "
            f"{' and '.join(differing)} ({before!r}). Records of two models or banks are never mixed: remove that "
            "folder, or write the study elsewhere."
        )

    def _made(self, report: Report) -> dict[str, JSON]:
        """What the records depend on, weights and banks by their fingerprints; compared with what stands there."""
        model = self._load(report)
        asked = {
            **self._asked(),
            "fingerprint": model.fingerprint,
            "d_model": model.d_model,
            "bank_fingerprints": self._bank_fingerprints(),
            "bank_layers": list(main.layers) if (main := self._main_bank()) is not None else [],
        }
        made: dict[str, JSON] = json.loads(json.dumps(asked))  # as it will be read back
        for path in sorted(self.folder.glob("regions-*.parquet")):
            if (other := made_with(open_table(path, "regions"))) != made:
                raise self._mixed([name for name in made if made[name] != other.get(name)], other.get("fingerprint"))
        return made

    def _layers(self) -> tuple[int, ...]:
        return self._resolve(self.config.layers if self.model.layers is None else self.model.layers)

    def _resolve(self, layers: Any) -> tuple[int, ...]:
        return resolve_layers(layers, self._load().n_layers)

    # -------------------------------------------------------------- files

    def _captioned(self) -> Sequence[Sequence[Picture]]:
        wanted = self.config.captions
        if not wanted.enabled:
            return []
        chosen = self._pictures[: wanted.count]
        return [chosen[start : start + self.config.batch] for start in range(0, len(chosen), self.config.batch)]

    def _file(self, kind: str, number: int) -> Path:
        described = kind == "captions"
        batch = self._captioned()[number] if described else self._batches[number]
        shown: list[JSON] = [picture.key for picture in batch]
        content = [*shown, self.config.captions.max_tokens] if described else shown
        return self.folder / f"{kind}-{number:05}-{_digest(content)}.parquet"

    def _done(self, kind: str, number: int) -> bool:
        return self._file(kind, number).is_file()

    def _save(self, kind: str, number: int, table: pa.Table, made: dict[str, JSON]) -> None:
        save_table(table, self._file(kind, number), kind, made)


@dataclass(frozen=True)
class _Pick:
    """Which tokens of one picture are looked at."""

    region: Region | None
    visual: torch.Tensor
    """Numbers of the judged token first, then of the sample of others; none without a region."""
    text: torch.Tensor
    """Numbers of a sample of the prompt's."""


@dataclass(frozen=True)
class _Sample:
    """The states of those tokens."""

    image: ImageInput
    region: Region | None
    visual: HiddenStates
    text: HiddenStates


def _pick(image: ImageInput, tokens: TokenMap, config: StudyConfig) -> _Pick:
    tiles = tokens.layout[0] if tokens.layout else ()
    region = sample_region(image, tiles, seed=config.seed)
    if region is None:
        none = torch.tensor([], dtype=torch.long)
        return _Pick(None, none, none)
    patches = torch.nonzero(tokens.having("patch"))[:, 0]
    cell = tiles[region.tile].grid.index(region.row, region.column)
    here = (tokens.tiles[patches] == region.tile) & (tokens.cells[patches] == cell)
    judged, others = patches[here], patches[~here]
    rng = random.Random(f"{config.seed} {image.sha256} survey")
    chosen = sorted(rng.sample(range(len(others)), min(config.survey, len(others))))
    text = torch.nonzero(tokens.having("text"))[:, 0]
    read = sorted(rng.sample(range(len(text)), min(config.survey, len(text))))
    visual = torch.cat([judged[:1], others[torch.tensor(chosen, dtype=torch.long)]])
    return _Pick(region, visual, text[torch.tensor(read, dtype=torch.long)])


def _sample(image: ImageInput, states: HiddenStates, pick: _Pick) -> _Sample:
    numbers = torch.arange(len(states))
    visual = len(pick.visual)
    return _Sample(image, pick.region, states.take(numbers[:visual]), states.take(numbers[visual:]))


def _states(model: str, sample: _Sample) -> pa.Table:
    """Length, drift and largest entry of every token at every layer."""
    parts = []
    for kind, states in (("visual", sample.visual), ("text", sample.text)):
        vectors = states.vectors.float()
        layers, tokens = vectors.shape[:2]
        start = vectors[list(states.layers).index(0)]
        drift = torch.nn.functional.cosine_similarity(vectors, start[None], dim=-1)
        columns = {
            "model": [model] * (layers * tokens),
            "image": [sample.image.name] * (layers * tokens),
            "kind": [kind] * (layers * tokens),
            "position": np.tile(states.positions.numpy(), layers),
            "layer": np.repeat(np.array(states.layers), tokens),
            "norm": vectors.norm(dim=-1).flatten().numpy(),
            "drift": drift.flatten().numpy(),
            "largest": vectors.abs().amax(dim=-1).flatten().numpy() if tokens else np.zeros(0, np.float32),
        }
        parts.append(pa.table(columns).cast(STATES))
    return pa.concat_tables(parts)


def _region_row(model: str, sample: _Sample) -> pa.Table:
    region, image = sample.region, sample.image
    top, left, bottom, right = region.box if region else (None,) * 4
    row = {
        "model": model,
        "image": image.name,
        "sha256": image.sha256,
        "tile": region and region.tile,
        "row": region and region.row,
        "column": region and region.column,
        "position": int(sample.visual.positions[0]) if region else None,
        **{"top": top, "left": left, "bottom": bottom, "right": right},
    }
    return pa.Table.from_pylist([row], schema=REGIONS)


def _candidate_rows(model: str, label: str | None, sample: _Sample, readings: Readings) -> pa.Table:
    """The readings of one picture as rows of the study; without a label they are the baseline of random rows."""
    table = readings.table
    count = table.num_rows
    known = {
        "model": pa.array([model] * count),
        "lens": table["lens"] if label is None else pa.array([label] * count),
        "baseline": pa.array([None if label else "random rows"] * count, pa.string()),
        "judged": pc.equal(table["position"], int(sample.visual.positions[0])),
    }
    columns = [known[name] if name in known else table[name] for name in CANDIDATES.names]
    return pa.table(columns, names=CANDIDATES.names).cast(CANDIDATES)


def slug(text: str) -> str:
    """A text as part of a file's name; two texts may share one."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "unnamed"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(config: Any, without: Sequence[str] = ()) -> dict[str, JSON]:
    """A part of the configuration as plain JSON values, without what no record depends on."""
    found: dict[str, JSON] = json.loads(json.dumps(vars(config), default=str))
    return {name: value for name, value in found.items() if name not in without}


@cache
def _content(path: Path) -> str | None:
    """Hash of a local file; None for what is elsewhere."""
    if not path.is_file():
        return None
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _part(corpus: Corpus, share: float, seed: int) -> list[str]:
    """A random part of a corpus's sentences, in their order."""
    sentences = [sentence.text for sentence in corpus]
    rng = random.Random(f"{seed} corpus")
    kept = sorted(rng.sample(range(len(sentences)), max(1, round(share * len(sentences)))))
    return [sentences[number] for number in kept]
