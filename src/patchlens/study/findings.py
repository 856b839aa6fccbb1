"""All analyses of a study, in the order in which its report shows them. Each is a function of `patchlens.analysis`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from patchlens.analysis.agreement import judge_agreement
from patchlens.analysis.bank_size import bank_size
from patchlens.analysis.captions import captions_by_claims, captions_by_mark, captions_by_truth
from patchlens.analysis.comparison import bank_sizes, baseline_tests, groups, paired_tests
from patchlens.analysis.drawing import lens_title
from patchlens.analysis.drift import drift
from patchlens.analysis.finding import Finding
from patchlens.analysis.interpretability import by_rank, interpretability, means
from patchlens.analysis.leap import leap, leap_peaks
from patchlens.analysis.lexicon import Lexicon
from patchlens.analysis.norms import high_norm_tokens, norms
from patchlens.analysis.overlap import overlap
from patchlens.analysis.published import beside_published
from patchlens.analysis.similarity import similarity, similarity_histograms
from patchlens.analysis.types import types_of_candidates, types_of_patches
from patchlens.analysis.word_classes import word_classes
from patchlens.errors import StudyError
from patchlens.evaluation.metrics import Mean, Series, over_layers
from patchlens.evaluation.published import published
from patchlens.evaluation.truth import CaptionTruth
from patchlens.models.embedded import embedded
from patchlens.study.config import LensConfig, StudyConfig
from patchlens.study.describing import DescriptionScores
from patchlens.study.recording import slug

__all__ = ["Gathered", "findings_of", "lexicon_of", "summary_of"]

_WORDNET = "wordnet:"
_MAIN = "main"


@dataclass(frozen=True)
class Gathered:
    """Everything that a study has; tables as in `evaluation.records`."""

    config: StudyConfig
    candidates: pa.Table
    states: pa.Table
    captions: pa.Table
    verdicts: pa.Table
    known: Mapping[str, CaptionTruth]
    """What descriptions should say, by picture."""
    described: DescriptionScores
    """What judges made of descriptions."""
    widths: Mapping[str, int]
    """d_model of each model."""
    bank_layers: Mapping[str, Sequence[int]]
    """Contextual layers of each model's main bank."""


def findings_of(gathered: Gathered) -> tuple[list[Finding], list[str]]:
    """Every analysis that the study's records allow; and why others are left out: they have nothing to count."""
    found, left_out = [], []
    for make in _analyses(gathered):
        try:
            found.append(make())
        except StudyError as error:
            left_out.append(str(error))
    return found, list(dict.fromkeys(left_out))


def summary_of(config: StudyConfig, verdicts: pa.Table) -> list[str]:
    """The headline: what each judge makes of each lens over all layers, chance beside it."""
    main = [lens.label for lens in config.lenses if lens.group == _MAIN]
    judged = _of_lenses(verdicts, main)
    if not judged.num_rows:
        return ["No judge was asked, so nothing is said about how far the words fit."]
    asked: dict[str, set[str | None]] = {
        judge.label: {lens.label for lens in config.judged_by(judge) if lens.label in main} for judge in config.judges
    }
    found: dict[tuple[str, str], list[Mean]] = {}
    for mean in over_layers(judged, top=config.k):
        found.setdefault((mean.series.judge, mean.series.model), []).append(mean)
    said = []
    for (judge, model), each in found.items():
        # People are asked about a sample, which says how far they agree and is too little for a headline.
        if asked.get(judge, {None}) <= {mean.series.lens for mean in each if mean.series.baseline is None}:
            over = _over(each[0].layers)
            shares = "; ".join(f"{_series(mean.series)} {_percent(mean)}" for mean in each)
            said.append(f"{model}, judged by {judge}: interpretable patches {over}: {shares}.")
    return said + _undecided(judged)


def _over(layers: Sequence[int]) -> str:
    return f"at layer {layers[0]}" if len(layers) == 1 else f"as the mean over {len(layers)} layers"


def _undecided(judged: pa.Table) -> list[str]:
    """How much each judge left open, and why."""
    table = judged.select(["judge", "undecided", "question"]).group_by(["judge", "undecided"])
    counts: dict[str, dict[str | None, int]] = {}
    for row in table.aggregate([("question", "count_distinct")]).to_pylist():
        counts.setdefault(row["judge"], {})[row["undecided"]] = row["question_count_distinct"]
    return [
        f"{judge} left {sum(open_.values()):,} of {sum(open_.values()) + given.get(None, 0):,} questions undecided: "
        f"{', '.join(f'{count:,} {why}' for why, count in sorted(open_.items()))}. They are in no share."
        for judge, given in counts.items()
        if (open_ := {why: count for why, count in given.items() if why is not None})
    ]


def _series(series: Series) -> str:
    name = lens_title(series.lens)
    return f"{name} on another image" if series.baseline == "another image" else name


def _percent(mean: Mean) -> str:
    interval = "" if mean.low is None or mean.high is None else f" [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
    return f"{100 * mean.value:.1f} %{interval} (n = {mean.images})"


def _analyses(gathered: Gathered) -> Iterator[Callable[[], Finding]]:
    config, verdicts, k = gathered.config, gathered.verdicts, gathered.config.k
    main = [lens.label for lens in config.lenses if lens.group == _MAIN]
    candidates = _of_lenses(gathered.candidates, main)
    judged = _of_lenses(verdicts, main)
    yield lambda: interpretability(judged, top=k)
    yield lambda: means(judged, top=k)
    yield lambda: _published(config, judged)
    yield lambda: paired_tests(_own(judged), top=k)
    yield lambda: baseline_tests(judged, top=k)
    yield lambda: interpretability(judged, top=1)
    yield lambda: by_rank(judged)
    yield lambda: types_of_patches(judged, top=k)
    yield lambda: types_of_candidates(judged, top=k)
    yield lambda: judge_agreement(judged, top=k)
    yield from _comparisons(gathered)
    yield lambda: leap(candidates, k=k, layers=gathered.bank_layers)
    yield lambda: leap_peaks(leap(candidates, k=k, layers=gathered.bank_layers))
    yield lambda: drift(gathered.states)
    yield lambda: norms(gathered.states)
    yield lambda: high_norm_tokens(gathered.states, d_model=gathered.widths)
    yield lambda: similarity(candidates)
    yield lambda: similarity_histograms(candidates)
    if (lexicon := lexicon_of(config)) is not None:
        yield lambda: word_classes(candidates, lexicon, k=k)
    yield lambda: captions_by_truth(gathered.captions, gathered.known)
    yield lambda: captions_by_claims(gathered.described.claims)
    yield lambda: captions_by_mark(gathered.described.marks)


def _comparisons(gathered: Gathered) -> Iterator[Callable[[], Finding]]:
    """Every group of lenses beside the main ones, held against the main lens with the whole bank."""
    config, k = gathered.config, gathered.config.k
    whole = next((lens.label for lens in config.lenses if lens.group == _MAIN and lens.lens == "latent"), None)
    if whole is None:
        return
    named: dict[str, list[LensConfig]] = {}
    for lens in config.lenses:
        if lens.group != _MAIN:
            named.setdefault(lens.group, []).append(lens)
    for group, lenses in named.items():
        labels = [lens.label for lens in lenses]
        if len({lens.share for lens in lenses} - {1.0}) == len(lenses):
            shares = {whole: 1.0, **{lens.label: lens.share for lens in lenses}}
            both = _of_lenses(gathered.candidates, list(shares))
            yield partial(bank_sizes, _judged_of(gathered, list(shares)), shares, top=k)
            yield partial(bank_size, both, shares, k=k)
            continue
        members = {label: (group, label) for label in (whole, *labels)}
        yield partial(_group, _judged_of(gathered, [whole, *labels]), members, k)
        for label in labels:
            yield partial(_overlap, gathered.candidates, whole, label, k)


def _group(verdicts: pa.Table, members: Mapping[str, tuple[str, float | str]], k: int) -> Finding:
    (found,) = groups(verdicts, members, top=k)
    return found


def _overlap(candidates: pa.Table, first: str, second: str, k: int) -> Finding:
    tables = (candidates.filter(pc.equal(candidates["lens"], label)) for label in (first, second))
    found = overlap(*tables, names=(first, second), k=k, apart=("model",))
    return replace(found, name=f"overlap-{slug(second)}")


def _published(config: StudyConfig, judged: pa.Table) -> Finding:
    """Beside the published figures: of the same model, and of others that the study names."""
    named = {model.label: model.published or model.name for model in config.models}
    same = {label: name for label, name in named.items() if _is_published(name)}
    return beside_published(judged, models=same, others=config.beside)


def _is_published(name: str) -> bool:
    known = published()
    return known.for_model(name) is not None or name in {model.name for model in known.models}


def _judged_of(gathered: Gathered, labels: Sequence[str]) -> pa.Table:
    """The verdicts on some lenses, of the judges that were asked about all of them."""
    own = _own(gathered.verdicts)
    kept = own.filter(pc.is_in(own["lens"].cast(pa.string()), value_set=pa.array(list(labels), pa.string())))
    pairs = set(zip(kept["judge"].to_pylist(), kept["lens"].to_pylist(), strict=True))
    whole = [judge for judge in {judge for judge, _ in pairs} if all((judge, label) in pairs for label in labels)]
    return kept.filter(
        pc.is_in(kept["judge"].cast(pa.string()), value_set=pa.array(whole, pa.string()))
    ).combine_chunks()


def _of_lenses(table: pa.Table, labels: Sequence[str]) -> pa.Table:
    """The rows of some lenses, and those of random rows."""
    named = pc.is_in(table["lens"].cast(pa.string()), value_set=pa.array(list(labels), pa.string()))
    random = pc.fill_null(pc.equal(table["baseline"].cast(pa.string()), "random rows"), False)
    return table.filter(pc.or_(named, random)).combine_chunks()


def _own(table: pa.Table) -> pa.Table:
    """Rows of lenses' own readings, without baselines."""
    return table.filter(pc.is_null(table["baseline"])).combine_chunks()


def lexicon_of(config: StudyConfig) -> Lexicon | None:
    """Where word classes are looked up: what the study names, else what an embedded model knows of its words.

    Raises:
        OptionError: The folder that the study names holds no lexicon.
    """
    if config.lexicon:
        return Lexicon.from_wordnet(config.lexicon.removeprefix(_WORDNET))
    for model in config.models:
        if (member := embedded(model.name)) is not None and member.lexicon is not None:
            return Lexicon.from_words(member.lexicon(), name=f"the words of {member.name}")
    return None
