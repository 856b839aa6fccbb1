import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlens.errors import OptionError
from patchlens.models.embedded import embedded_names
from patchlens.study.config import (
    BASELINES,
    JUDGES,
    CaptionsConfig,
    EndpointConfig,
    ImagesConfig,
    ModelJudgeConfig,
    ReplayConfig,
    StudyConfig,
    TruthConfig,
    open_study,
    parse_study,
    template,
    template_names,
)

BASE = Path("/studies")
STUDY = """
[study]
title = "Two models"
[images]
folder = "pictures"
[[models]]
name = "owner/one-7b"
bank = "phrases"
[[models]]
name = "owner/two-7b"
bank = "owner/two-bank"
[[banks]]
label = "phrases"
corpus = "phrases.txt"
[[lenses]]
lens = "latent"
[[lenses]]
lens = "logit"
[[lenses]]
lens = "latent"
label = "a tenth"
group = "bank size"
share = 0.1
[[judges]]
judge = "endpoint"
url = "http://localhost:8000/v1"
model = "owner/seer"
[captions]
judges = ["seer"]
"""


def parse(text: str = STUDY, base: Path = BASE) -> StudyConfig:
    return parse_study(text, base)


def changed(old: str, new: str, text: str = STUDY) -> str:
    assert old in text
    return text.replace(old, new, 1)


def refused(old: str, new: str, said: str) -> None:
    with pytest.raises(OptionError, match=f"^Reading the study: {said}"):
        parse(changed(old, new))


class TestWhatIsFilledIn:
    def test_settings(self) -> None:
        study = parse()
        assert (study.seed, study.k, study.layers, study.judged_layers) == (0, 5, "all", None)
        assert (study.prompt, study.unique, study.survey, study.batch) == ("Describe this image.", "none", 8, 16)
        assert study.baselines == BASELINES
        assert study.lexicon == ""

    def test_labels(self) -> None:
        study = parse()
        assert [model.label for model in study.models] == ["one-7b", "two-7b"]
        assert [lens.label for lens in study.lenses] == ["latent", "logit", "a tenth"]
        assert [judge.label for judge in study.judges] == ["seer"]

    def test_an_embedded_model_has_its_own_bank(self) -> None:
        for name in embedded_names():
            text = changed('name = "owner/two-7b"\nbank = "owner/two-bank"', f'name = "{name}"')
            assert parse(text).models[1].bank == name

    def test_a_bank_of_one_model_binds_its_lens(self) -> None:
        text = changed('corpus = "phrases.txt"', 'corpus = "phrases.txt"\nmodel = "one-7b"')
        bound = parse(changed("share = 0.1", 'bank = "phrases"', text)).lenses[2]
        assert bound.models == ("one-7b",)

    def test_no_captions_without_their_table(self) -> None:
        assert parse().captions == CaptionsConfig(enabled=True, judges=("seer",))
        assert not parse(changed('[captions]\njudges = ["seer"]', "")).captions.enabled

    @pytest.mark.parametrize(
        ("judge", "label"),
        [
            ('judge = "truth"', "truth"),
            ('judge = "truth"\npieces = 3', "truth, pieces of 3 letters"),
            ('judge = "model"\nmodel = "owner/seer-2b"', "seer-2b"),
            ('judge = "model"\nmodel = "./models/sage"', "sage"),
            ('judge = "replay"\npath = "answers.jsonl"', "replay"),
            ('judge = "replay"\npath = "answers.jsonl"\nlabel = "Ann"', "Ann"),
        ],
    )
    def test_labels_of_judges(self, judge: str, label: str) -> None:
        study = parse(f"{changed('judges = [', 'count = 3 # [')}\n[[judges]]\n{judge}")
        assert study.judges[1].label == label

    def test_only_given_options_go_to_the_build(self) -> None:
        text = changed('corpus = "phrases.txt"', 'corpus = "phrases.txt"\nper_token = 5\nlayers = "auto"\nshare = 0.5')
        bank = parse(text).banks[0]
        assert bank.options() == {"per_token": 5, "layers": "auto"}
        assert bank.share == 0.5


class TestPlaces:
    def test_paths_are_relative_to_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "study.toml").write_text(changed('folder = "pictures"', 'files = ["a.png", "/b.png"]'))
        study = open_study(tmp_path / "study.toml")
        assert study.images == ImagesConfig(files=(tmp_path / "a.png", Path("/b.png")))
        assert study.banks[0].corpus == str(tmp_path / "phrases.txt")

    def test_references_lexicon_and_recordings_too(self) -> None:
        text = changed('title = "Two models"', 'title = "x"\nlexicon = "wordnet:dict"')
        text = changed("[images]", '[images]\nreferences = "captions.jsonl"', text)
        text = changed('judge = "endpoint"', 'rubric_file = "rubric.md"\njudge = "endpoint"', text)
        study = parse(text)
        assert study.lexicon == "wordnet:/studies/dict"
        assert study.images.references == BASE / "captions.jsonl"
        assert study.judges[0].rubric_file == BASE / "rubric.md"

    def test_a_model_is_a_folder_if_there_is_one(self, tmp_path: Path) -> None:
        assert parse(base=tmp_path).models[0].name == "owner/one-7b"
        (tmp_path / "owner" / "one-7b").mkdir(parents=True)
        assert parse(base=tmp_path).models[0].name == str(tmp_path / "owner" / "one-7b")
        assert parse(base=tmp_path).models[0].label == "one-7b"

    @pytest.mark.parametrize("name", ["./one", "../one", "/one", "~/one"])
    def test_a_model_that_is_written_as_a_path_is_one(self, name: str) -> None:
        model = parse(changed("owner/one-7b", name)).models[0]
        assert Path(model.name).is_absolute()
        assert model.label == "one"

    def test_an_embedded_model_goes_before_a_folder(self, tmp_path: Path) -> None:
        name = embedded_names()[0]
        (tmp_path / name).mkdir()
        assert parse(changed("owner/one-7b", name), tmp_path).models[0].name == name

    def test_a_label_goes_before_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "phrases").mkdir()
        (tmp_path / "others").mkdir()
        assert parse(base=tmp_path).models[0].bank == "phrases"
        assert parse(changed('bank = "owner/two-bank"', 'bank = "others"'), tmp_path).models[1].bank == str(
            tmp_path / "others"
        )

    @pytest.mark.parametrize("corpus", ["hf:owner/phrases:train", "s3://bucket/phrases.txt"])
    def test_a_corpus_elsewhere_stays_as_it_is(self, corpus: str) -> None:
        assert parse(changed("phrases.txt", corpus)).banks[0].corpus == corpus


class TestLooking:
    def test_which_lenses_a_model_is_read_with(self) -> None:
        study = parse(changed('label = "a tenth"', 'label = "a tenth"\nmodels = ["two-7b"]'))
        one, two = study.models
        assert [lens.label for lens in study.lenses_of(one)] == ["latent", "logit"]
        assert [lens.label for lens in study.lenses_of(two)] == ["latent", "logit", "a tenth"]

    @pytest.mark.parametrize(
        ("asked", "labels"),
        [("", ["latent", "logit"]), ('lenses = ["logit"]', ["logit"]), ("lenses = []", [])],
    )
    def test_which_lenses_a_judge_is_asked_about(self, asked: str, labels: list[str]) -> None:
        study = parse(
            changed("share = 0.1", "share = 0.1\njudged = false", changed("[captions]", f"{asked}\n[captions]"))
        )
        assert [lens.label for lens in study.judged_by(study.judges[0])] == labels


class TestRefusals:
    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("title", "titel", r"\[study\] has the unknown key 'titel'\. Did you mean 'title'\?"),
            ("[study]", "[stduy]", r"the file has the unknown table \[stduy\]\. Did you mean 'study'\?"),
            ("[[judges]]", "[[judgs]]", r"the file has the unknown table \[judgs\]\. Did you mean 'judges'\?"),
            ('title = "Two models"', "seed = 1", r"\[study\] lacks the key 'title'"),
            ("[captions]", "[[captions]]", r".*'captions' .* under \[captions\]"),
            (
                'group = "bank size"',
                'grop = "bank size"',
                r"\[\[lenses\]\] number 3 has the unknown key 'grop'\. Did you",
            ),
            (
                "share = 0.1",
                "share = 0",
                r"\[\[lenses\]\] number 3 has share = 0\. Expected a number above 0 and at most",
            ),
            ("share = 0.1", "share = 1.5", r"\[\[lenses\]\] number 3 has share = 1\.5"),
            (
                "share = 0.1",
                "contextual_layers = []",
                r".*number 3 has contextual_layers = \[\]\. Expected at least one",
            ),
            ("share = 0.1", 'space = "flat"', r".*number 3 has space = \"flat\"\. Expected one of 'raw', 'centred'"),
            (
                'lens = "logit"',
                'lens = "logits"',
                r".*number 2 has lens = \"logits\"\. Expected one of 'latent', 'logit'",
            ),
            (
                'lens = "logit"',
                'lens = "logit"\nshare = 0.5',
                r".*number 2 has 'share', which means nothing to the lens 'lo",
            ),
            ('label = "a tenth"', "", r".*number 3 has the label 'latent', as \[\[lenses\]\] number 1\."),
            (
                "owner/two-7b",
                "other/one-7b",
                r"\[\[models\]\] number 2 has the label 'one-7b', as \[\[models\]\] number 1",
            ),
            (
                'bank = "phrases"',
                'bank = "phrase"',
                r".*names the bank 'phrase', .*Did you mean 'phrases'\? Known: 'phrases'",
            ),
            ('\nbank = "owner/two-bank"', "", r"\[\[lenses\]\] number 1 reads 'two-7b' .* no bank"),
            (
                "share = 0.1",
                'models = ["one"]',
                r".*number 3 names the model 'one', .*Did you mean 'one-7b'\? Known: 'one-7b', ",
            ),
            ('corpus = "phrases.txt"', "", r"\[\[models\]\] number 1 .* bank 'phrases', which has no corpus"),
            ('corpus = "phrases.txt"', 'corpus = "-"', r"\[\[banks\]\] number 1 has corpus = \"-\""),
            (
                'corpus = "phrases.txt"',
                'corpus = "a"\nchoose = "best"',
                r".*number 1 has choose = \"best\"\. Expected one of",
            ),
            (
                'corpus = "phrases.txt"',
                'corpus = "a"\ndtype = "int4"',
                r".*number 1 has dtype = \"int4\"\. Expected one of",
            ),
            (
                'corpus = "phrases.txt"',
                'corpus = "a"\nmodel = "two-7b"',
                r"\[\[models\]\] number 1 .*built with 'two-7b'",
            ),
            ('folder = "pictures"', "", r"\[images\] has none of embedded, folder and files"),
            ('folder = "pictures"', 'folder = "a"\nembedded = "b"', r"\[images\] has embedded and folder of"),
            ('folder = "pictures"', 'embedded = "albums"', r"\[images\] has embedded = \"albums\"\. Expected one of"),
            (
                'folder = "pictures"',
                'folder = "a"\ncount = 0',
                r"\[images\] has count = 0\. Expected a whole number from 1",
            ),
            ('judge = "endpoint"', "", r"\[\[judges\]\] number 1 lacks the key 'judge'\. Add it: one of 'truth', "),
            (
                'judge = "endpoint"',
                'judge = "people"',
                r".* has judge = \"people\"\. Expected one of 'truth', 'endpoint'",
            ),
            ('judge = "endpoint"', 'judge = ["endpoint"]', r".* has judge = \[\"endpoint\"\]\. Expected one of"),
            ("http://localhost", "localhost", r"\[\[judges\]\] number 1 has url = .* Expected a URL"),
            (
                'model = "owner/seer"',
                'model = "m"\nlenses = ["latnt"]',
                r".* names the judged lens 'latnt', .*'latent'\?",
            ),
            (
                'judges = ["seer"]',
                'judges = ["see"]',
                r"\[captions\] names the judge of descriptions 'see', .*'seer'\?",
            ),
            (
                '"Two models"',
                '"x"\nlayers = "first"',
                r"\[study\] has layers = \"first\"\. Expected 'all', numbers, or",
            ),
            ('"Two models"', '"x"\nlayers = []', r"\[study\] has layers = \[\]"),
            ('"Two models"', '"x"\nlayers = ","', r"\[study\] has layers = \",\""),
            (
                '"Two models"',
                '"x"\nbaselines = ["chance"]',
                r".*Expected a list, each of it one of 'random rows', 'another",
            ),
            ('"Two models"', '"x"\nlexicon = "wordnet:"', r"\[study\] has lexicon = \"wordnet:\""),
            ('"Two models"', '"x"\nk = 99999999999999999999', r"\[study\] has k = "),
            ('"Two models"', '" "', r"\[study\] has title = \" \"\. Expected a text that is not empty"),
            (
                'label = "a tenth"',
                'label = "a\\ntenth"',
                r".*number 3 has label = \"a\\ntenth\"\. Expected a text of one line",
            ),
        ],
    )
    def test_names_table_and_key(self, old: str, new: str, said: str) -> None:
        refused(old, new, said)

    def test_a_bank_for_a_model_that_is_not_there(self) -> None:
        text = changed('bank = "phrases"', 'bank = "o/p"', changed("phrases.txt", 'a"\nmodel = "three'))
        with pytest.raises(
            OptionError, match=r"\[\[banks\]\] number 1 names the model 'three', .*Known: 'one-7b', 'two-7b'"
        ):
            parse(text)

    def test_a_judge_that_knows_the_truth_takes_nothing_apart(self) -> None:
        text = changed('model = "owner/seer"', "", changed('url = "http://localhost:8000/v1"', "", STUDY))
        text = changed('judge = "endpoint"', 'judge = "truth"\nlabel = "seer"', text)
        with pytest.raises(OptionError, match=r"\[captions\] names the judge of descriptions 'seer'.*Known: none"):
            parse(text)

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ("study", r"the file lacks the table \[study\]"),
            ("images", r"the file lacks the table \[images\]"),
            ("models", r"the file has no \[\[models\]\]"),
            ("lenses", r"the file has no \[\[lenses\]\]"),
        ],
    )
    def test_what_every_study_needs(self, table: str, said: str) -> None:
        tables = ["[" + part for part in STUDY.split("\n[")[1:]]
        parse("\n".join(tables))
        with pytest.raises(OptionError, match=said):
            parse("\n".join(part for part in tables if not part.strip("[").startswith(table)))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[study]\ntitle = \n", r"not TOML: .*line 2"),
            ("[study]\ntitle = 1\ntitle = 2\n", r"not TOML: Cannot overwrite a value \(at line 3"),
            (f"a = 1{'0' * 5000}", "not TOML"),
            (f"a = {'[' * 5000}", "not TOML"),
            ("models = 3\n" + STUDY[: STUDY.index("[[models]]")], r"has 'models' as something else .* \[\[models\]\]"),
            ("models = [3]\n" + STUDY[: STUDY.index("[[models]]")], r"has 'models' as something else"),
        ],
    )
    def test_what_is_no_study(self, text: str, said: str) -> None:
        with pytest.raises(OptionError, match=said):
            parse(text)

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "latin.toml").write_bytes(b'title = "caf\xe9"')
        for path, said in [("none.toml", "No such file"), (".", "Is a directory"), ("latin.toml", "not UTF-8")]:
            with pytest.raises(OptionError, match=rf"{said}.*--template NAME.*paper"):
                open_study(tmp_path / path)

    def test_messages_name_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(changed("seer", "se\\u00e9r", changed("title", "tilte")))
        with pytest.raises(OptionError, match=rf"^Reading the study {tmp_path}/mine\.toml: \[study\] .*'tilte'"):
            open_study(tmp_path / "mine.toml")

    def test_a_byte_order_mark_is_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(STUDY, encoding="utf-8-sig")
        assert open_study(tmp_path / "mine.toml") == parse(base=tmp_path)


class TestWriting:
    def test_reads_back_the_same_anywhere(self) -> None:
        assert parse(parse().to_toml(), Path("/elsewhere")) == parse()

    def test_says_what_was_filled_in(self) -> None:
        written = parse().to_toml()
        assert 'label = "one-7b"' in written
        assert 'folder = "/studies/pictures"' in written
        assert "k = 5" in written

    @pytest.mark.parametrize(
        ("judge", "kind"),
        [
            (
                'judge = "endpoint"\nurl = "https://x/v1"\nmodel = "m"\nbudget = 3\nworkers = 2\nlenses = []'
                '\nlayers = "0,-1"\noptions = { effort = "low", nested = { "a b" = [1, 0.5, true] } }',
                EndpointConfig,
            ),
            ('judge = "truth"\npieces = 3\nrubric = "sentence"', TruthConfig),
            ('judge = "model"\nmodel = "./m"\nmax_tokens = 9', ModelJudgeConfig),
            ('judge = "replay"\npath = "r.jsonl"\nrubric_file = "r.md"', ReplayConfig),
        ],
    )
    def test_every_kind_of_judge(self, judge: str, kind: type) -> None:
        study = parse(f'{STUDY}\n[[judges]]\nlabel = "second"\n{judge}')
        assert type(study.judges[1]) is kind
        assert parse(study.to_toml(), Path("/elsewhere")) == study

    def test_those_are_all_kinds(self) -> None:
        assert set(JUDGES.values()) == {EndpointConfig, TruthConfig, ModelJudgeConfig, ReplayConfig}

    @settings(max_examples=50, deadline=None)
    @given(
        title=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f")),
        seed=st.integers(0, 2**63 - 1),
        layers=st.sampled_from(['"all"', "3", "[0, -1]", '"1,4-8, -2--1"']),
    )
    def test_any_settings(self, title: str, seed: int, layers: str) -> None:
        text = changed(
            'title = "Two models"',
            f"title = {json.dumps('x' + title, ensure_ascii=False)}\nseed = {seed}\nlayers = {layers}",
        )
        study = parse(text)
        assert study.title == "x" + title
        assert parse(study.to_toml(), Path("/elsewhere")) == study


class TestTemplates:
    def test_two_ship(self) -> None:
        assert template_names() == ("paper", "picturebook")

    @pytest.mark.parametrize("name", template_names())
    def test_each_is_a_study(self, name: str) -> None:
        study = parse(template(name))
        assert parse(study.to_toml(), Path("/elsewhere")) == study
        assert {lens.label for lens in study.lenses if lens.group == "main"} == {"latent", "logit", "embedding"}

    def test_the_paper_s_layers_are_those_of_its_models(self) -> None:
        layers = {model.label: model.layers for model in parse(template("paper")).models}
        assert {label: len(found) for label, found in layers.items() if isinstance(found, tuple)} == {
            "Qwen2-VL-7B-Instruct": 9,
            "llava-1.5-7b-hf": 9,
            "llava-v1.6-34b-hf": 10,
            "Qwen2.5-VL-32B-Instruct": 11,
        }

    def test_the_paper_s_template_says_how_many_questions_it_asks(self) -> None:
        study = parse(template("paper"))
        layers = sum(len(model.layers) for model in study.models if isinstance(model.layers, tuple))
        each_lens = layers * (study.images.count or 0)
        assert f"asks {each_lens * (3 * 2 + 1):,} at most: {layers} layers" in template("paper")
        assert f"at {each_lens:,} questions each" in template("paper")

    def test_the_miniature_s_images_are_300_held_out_ones(self) -> None:
        study = parse(template("picturebook"))
        assert study.images.count == 300
        assert study.images.embedded == study.models[0].name == study.models[0].bank

    def test_an_unknown_one_is_named(self) -> None:
        with pytest.raises(
            OptionError, match=r"template called 'papers'\. Did you mean 'paper'\? Known: paper, picturebook"
        ):
            template("papers")


def test_published_models_are_known_by_the_papers_names(tmp_path: Path) -> None:
    text = template("picturebook").replace('layers = "all"', 'layers = "all"\nbeside = ["LLaMA3+SigLIP"]')
    assert parse_study(text, tmp_path).beside == ("LLaMA3+SigLIP",)
    with pytest.raises(OptionError, match=r"Nothing is published of the model 'LLaMA9'.*Known: OLMo\+CLIP"):
        parse_study(text.replace("LLaMA3+SigLIP", "LLaMA9"), tmp_path)
