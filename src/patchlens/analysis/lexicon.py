"""Word classes of English words, from a dictionary that a person has: nothing of it is shipped.

A word gets one class, that in which it is most used; its sentence is looked at for capitals alone.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from patchlens.errors import OptionError
from patchlens.storage import readable

__all__ = ["COLOR_WORDS", "FUNCTION_WORDS", "NUMBER_WORDS", "WORD_CLASSES", "Lexicon", "WordClass"]

WordClass: TypeAlias = Literal["noun", "proper noun", "verb", "adjective", "adverb", "function word", "number", "other"]

WORD_CLASSES: tuple[WordClass, ...] = get_args(WordClass)
"""All of them; "other" is for words that the lexicon does not know, and for what is no word."""

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one's oneself someone somebody something anyone anybody
    anything everyone everybody everything nobody nothing none who whom whose which what whoever whatever whichever
    each every either neither both all any some no few several many much more most less least such other another same
    else
    and or but nor so yet if unless because since although though while whereas whether than as until till once
    of in on at by for with about against between among into onto through throughout during before after above below to
    from up down out off over under underneath beneath beside besides behind beyond near across along around
    toward towards upon within without inside outside via per despite except amid atop like
    be am is are was were been being have has had having do does did doing done can could may might must shall should
    will would ought cannot
    yes not n't there when where why how wherever whenever however
    i'm i've i'd i'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'll we're we've we'd we'll
    they're they've they'd they'll that's that'll there's here's what's who's where's how's let's
    isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't couldn't won't wouldn't shouldn't
    mustn't mightn't needn't shan't ain't
    's 're 've 'd 'll 'm
    """.split()
)
"""Closed classes of English: articles, pronouns, determiners, prepositions, conjunctions, auxiliaries and particles,
and their contractions. Our own list; "have", "do" and "like" count as such wherever they stand."""

NUMBER_WORDS = frozenset(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion trillion
    """.split()
)
"""Cardinal numbers in words; whatever has a digit in it is a number too."""

COLOR_WORDS = frozenset("black white red green yellow blue brown orange pink purple gray grey".split())
"""The eleven basic color terms of Berlin and Kay (1969), Basic Color Terms, in both spellings of gray."""

_OPEN: dict[str, WordClass] = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
"""Endings of the files of WordNet."""
_SENSES: dict[str, WordClass] = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
"""Kinds of senses in a sense key; see senseidx(5WN)."""
_COUNTS = ("index.sense", "cntlist.rev")
"""Files that say how often a sense was found in tagged text: both begin with its key and end with the count."""

_DETACHED: dict[WordClass, tuple[tuple[str, str], ...]] = {
    "noun": (
        *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
        *(("men", "man"), ("ies", "y")),
    ),
    "verb": (*(("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),),
    "adjective": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
}
"""Endings that are taken off, and what takes their place, in the order of morphy(7WN)."""

_WEIGHTS: dict[WordClass, int] = {"noun": 2, "verb": 1, "adjective": 4, "adverb": 4}
"""One over the forms that a word of the class has in English (2, 4, 1 and 1), times 4: a verb's uses are spread over
more forms than a noun's, so fewer of them are of the form at hand."""

_NOUN = re.compile(r"\d{8} \d\d n (?P<count>[0-9a-f]{2}) (?P<words>.*)")
_ENDS_A_SENTENCE = re.compile(r"""(^|[.!?:…\n])["'“”‘’()\[\]*–—\s-]*$""")


@dataclass(frozen=True, eq=False)
class Lexicon:
    """Which class each word has; made by `from_wordnet` or `from_words`."""

    name: str
    """Where it comes from, for the note of a finding."""
    uses: Mapping[WordClass, Mapping[str, int]]
    """Of each class its base forms in lower case, and how often each is used in it, 1 or more."""
    irregular: Mapping[WordClass, Mapping[str, tuple[str, ...]]]
    """Of each class its irregular inflections and their base forms."""
    names: frozenset[str] = frozenset()
    """In lower case, the nouns that are always spelled with a capital; they are not among `uses`."""
    given: Mapping[str, WordClass] = field(default_factory=dict)
    """Classes that were stated, by words in lower case: they come before all rules."""

    @classmethod
    def from_wordnet(cls, folder: str | Path) -> "Lexicon":
        """Read a dictionary in the format of Princeton's WordNet 3.

        A word that is found in several parts of speech gets that in which it is used most, by how often its senses
        were found in WordNet's tagged text and how many forms these uses are spread over. Where none was found, the
        number of senses decides.

        Args:
            folder: That of `index.noun`, `index.verb`, `index.adj` and `index.adv`, where also `index.sense` or
                `cntlist.rev` is. Also read if there: `noun.exc` and its like for inflections that follow no rule, and
                `data.noun` for nouns that always have a capital.

        Raises:
            OptionError: The folder lacks one of these files, or one is not of this format.

        Reference:
            The manual pages wndb(5WN), senseidx(5WN), cntlist(5WN) and morphy(7WN).
        """
        where = Path(folder)
        counts = next((where / name for name in _COUNTS if (where / name).is_file()), None)
        missing = [f"index.{ending}" for ending in _OPEN if not (where / f"index.{ending}").is_file()]
        if missing or counts is None:
            raise OptionError(
                f"Reading WordNet in {where}: there is no {missing[0] if missing else ' and no '.join(_COUNTS)}. Give "
                "the folder of WordNet's database files, which Debian's package wordnet-base puts in "
                "/usr/share/wordnet."
            )
        tagged = _tagged(counts)
        uses: dict[WordClass, dict[str, int]] = {}
        for ending, of_class in _OPEN.items():
            # A sense in tagged text outweighs any number of senses, of which no word has a hundred.
            uses[of_class] = {
                lemma: 100 * tagged[of_class, lemma] + senses for lemma, senses in _index(where / f"index.{ending}")
            }
        names = _names(where / "data.noun")
        uses["noun"] = {lemma: times for lemma, times in uses["noun"].items() if lemma not in names}
        irregular = {of_class: _exceptions(where / f"{ending}.exc") for ending, of_class in _OPEN.items()}
        return cls(_title(where / "index.noun"), uses, irregular, names)

    @classmethod
    def from_words(cls, words: Mapping[str, str], *, name: str = "a list of words") -> "Lexicon":
        """A lexicon of a few words, whatever their case; regular inflections of them are known too.

        Args:
            words: The class of each word.
            name: What the list is, for the notes of findings.

        Raises:
            OptionError: A class is none of `WORD_CLASSES`.
        """
        given: dict[str, WordClass] = {}
        uses: dict[WordClass, dict[str, int]] = defaultdict(dict)
        for word, stated in words.items():
            of_class = next((known for known in WORD_CLASSES if known == stated), None)
            if of_class is None:
                raise OptionError(
                    f"The word {word!r} was given the class {stated!r}. Expected one of {', '.join(WORD_CLASSES)}."
                )
            given[word.lower()] = of_class
            uses[of_class][word.lower()] = 1
        return cls(name, uses, {}, given=given)

    def word_class(self, word: str, sentence: str | None = None, start: int | None = None) -> WordClass:
        """The class of a word.

        A proper noun is what its sentence spells with a capital, though not at its start, and what is known with a
        capital alone. Words in capitals throughout tell nothing by them. A single letter is no word, except "a" and
        "I".

        Args:
            word: As a candidate gives it.
            sentence: What it stands in.
            start: Its first character there.

        Example:
            >>> lexicon = Lexicon.from_words({"robin": "noun", "sing": "verb"})
            >>> lexicon.word_class("robins"), lexicon.word_class("singing"), lexicon.word_class("the")
            ('noun', 'verb', 'function word')
            >>> lexicon.word_class("Robin", "We met Robin at the sea.", 7)
            'proper noun'
        """
        plain = word.strip().replace("’", "'")
        by_itself = self._of(plain.lower())
        if by_itself in ("function word", "number"):
            return by_itself
        listed = plain[:1].isupper() and any(form in self.names for form in _forms(plain.lower()))
        if _is_name(plain, sentence, start) or (by_itself == "other" and listed):
            return "proper noun"
        return by_itself

    def _of(self, word: str) -> WordClass:
        """The class of a word in lower case, without a look at its sentence."""
        if word in self.given:
            return self.given[word]
        if word in FUNCTION_WORDS:
            return "function word"
        if word in NUMBER_WORDS or any(character.isdigit() for character in word):
            return "number"
        for form in _forms(word) if len(word) > 1 else ():
            found = {of_class: weight * self._used(of_class, form) for of_class, weight in _WEIGHTS.items()}
            if best := max(found.values()):
                return next(of_class for of_class, times in found.items() if times == best)
        return "other"

    def _used(self, of_class: WordClass, word: str) -> int:
        """How often a word, or what it is an inflection of, is used in a class; 0 for never."""
        known = self.uses.get(of_class, {})
        bases = [word, *(self.irregular.get(of_class, {}).get(word) or _detached(of_class, word))]
        return max(known.get(base, 0) for base in bases)


def _forms(word: str) -> Iterator[str]:
    """What a word may be listed as: itself, without its genitive, and of a compound its last part."""
    plain = word.removesuffix("'s").removesuffix("'")
    yield from dict.fromkeys((word, plain, plain.replace("-", "_"), plain.replace("-", ""), plain.split("-")[-1]))


def _detached(of_class: WordClass, word: str) -> Iterator[str]:
    """What a word may be a regular inflection of."""
    if of_class == "noun" and (len(word) <= 2 or word.endswith("ss")):
        return  # as WordNet's own program has it: "glass" is no plural
    for ending, instead in _DETACHED.get(of_class, ()):
        if word.endswith(ending):
            yield word.removesuffix(ending) + instead


def _is_name(word: str, sentence: str | None, start: int | None) -> bool:
    if sentence is None or start is None or not sentence[start : start + 1].isupper() or word.isupper():
        return False
    return _ENDS_A_SENTENCE.search(sentence[:start]) is None


def _lines(path: Path) -> Iterator[str]:
    with readable(path), path.open(encoding="utf-8", errors="replace") as file:
        yield from (line for line in file if line.strip() and not line.startswith("  "))  # which the license does


def _title(path: Path) -> str:
    """The release that a file's license names."""
    with readable(path), path.open(encoding="utf-8", errors="replace") as file:
        license_text = "".join(takewhile(lambda line: line.startswith("  "), file))
    found = re.search(r"WordNet \d[\d.]*\d", license_text)
    return found[0] if found else "WordNet"


def _index(path: Path) -> Iterator[tuple[str, int]]:
    """Every lemma of an index file, and how many senses it has."""
    for line in _lines(path):
        match line.split():
            case [lemma, "n" | "v" | "a" | "r", senses, *_] if senses.isdecimal():
                yield lemma, int(senses)
            case _:
                raise _not_wordnet(path, line, "lemma pos synset_cnt ...")


def _tagged(path: Path) -> Counter[tuple[WordClass, str]]:
    """How often the senses of each lemma were found in tagged text, by part of speech."""
    found: Counter[tuple[WordClass, str]] = Counter()
    for line in _lines(path):
        key, *_, count = line.split()
        lemma, _, sense = key.partition("%")
        if sense[:1] not in _SENSES or not count.isdecimal():
            raise _not_wordnet(path, line, "lemma%sense ... tag_cnt")
        found[_SENSES[sense[0]], lemma] += int(count)
    return found


def _names(path: Path) -> frozenset[str]:
    """In lower case, the nouns that a data file always spells with a capital; none where there is no such file."""
    if not path.is_file():
        return frozenset()
    capital: set[str] = set()
    small: set[str] = set()
    for line in _lines(path):
        synset = _NOUN.match(line)
        if synset is None:
            raise _not_wordnet(path, line, "synset_offset lex_filenum n w_cnt word ...")
        for word in synset["words"].split()[: 2 * int(synset["count"], 16) : 2]:
            (capital if word[0].isupper() else small).add(word.lower())
    return frozenset(capital - small)


def _exceptions(path: Path) -> dict[str, tuple[str, ...]]:
    """Inflections that follow no rule, and their base forms; none where there is no such file."""
    if not path.is_file():
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for line in _lines(path):
        inflection, *bases = line.split()
        found[inflection] = (*found.get(inflection, ()), *bases)
    return found


def _not_wordnet(path: Path, line: str, expected: str) -> OptionError:
    return OptionError(
        f"Reading WordNet's {path}: it has the line {line.strip()[:60]!r}, where {expected!r} was expected. Give the "
        "folder of WordNet's database files as they were published."
    )
