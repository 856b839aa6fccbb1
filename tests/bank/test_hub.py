import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    Response,
    RevisionNotFoundError,
)

from conftest import SENTENCES
from patchlens.bank import format as layout
from patchlens.bank import hub as module
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.build import build_bank
from patchlens.bank.hub import pull_bank, push_bank
from patchlens.errors import BankCorrupt, BankNotFound, HubError, OptionError, StorageError
from patchlens.models.model import Model

REPO = "someone/bank"


class FakeHub:
    """A Hub in memory, with the client's calls: commits of files by content, and a cache on the disk."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.branches: dict[str, dict[str, bytes]] = {}
        self.private: bool | None = None
        self.sent: list[str] = []
        self.fetched: list[str] = []
        self.breaks_after: int | None = None
        self.stored: set[str] = set()

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> str:
        assert (repo_id, repo_type, exist_ok) == (REPO, "dataset", True)
        if "main" not in self.branches:
            self.branches["main"], self.private = {".gitattributes": b"*.safetensors lfs"}, private
        return f"https://hub/datasets/{repo_id}"

    def create_branch(self, repo_id: str, *, branch: str, repo_type: str, exist_ok: bool) -> None:
        assert exist_ok
        self.branches.setdefault(branch, dict(self.branches["main"]))

    def upload_folder(
        self,
        *,
        repo_id: str,
        repo_type: str,
        folder_path: Path,
        allow_patterns: list[str],
        revision: str | None,
        commit_message: str,
    ) -> None:
        there = self.branches[revision or "main"]
        for path in sorted(folder_path.iterdir()):
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                self._send(path.name, path.read_bytes())
                there[path.name] = path.read_bytes()

    def list_repo_files(self, *, repo_id: str, repo_type: str, revision: str | None) -> list[str]:
        return list(self.branches[revision or "main"])

    def create_commit(
        self, *, repo_id: str, repo_type: str, operations: list[Any], revision: str | None, commit_message: str
    ) -> None:
        there = self.branches[revision or "main"]
        for operation in operations:
            if isinstance(operation, CommitOperationAdd):
                with operation.as_file() as file:
                    there[operation.path_in_repo] = file.read()
            else:
                del there[operation.path_in_repo]

    def snapshot_download(
        self, repo_id: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]
    ) -> str:
        assert (repo_id, repo_type) == (REPO, "dataset")
        commits = {self._commit(files): files for files in self.branches.values()}
        files = commits[revision] if revision in commits else self.branches[revision or "main"]
        folder = self.cache / self._commit(files)
        for name, data in files.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns) and not (folder / name).exists():
                self.fetched.append(name)
                self._transfer()
                blob = self.cache / "blobs" / sha256(data).hexdigest()
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(data)
                folder.mkdir(exist_ok=True)
                (folder / name).symlink_to(blob)
        return str(folder)

    def _commit(self, files: dict[str, bytes]) -> str:
        listed = [(name, sha256(data).hexdigest()) for name, data in sorted(files.items())]
        return sha256(json.dumps(listed).encode()).hexdigest()[:40]

    def _send(self, name: str, data: bytes) -> None:
        if (digest := sha256(data).hexdigest()) not in self.stored:
            self._transfer()
            self.sent.append(name)
            self.stored.add(digest)

    def _transfer(self) -> None:
        if self.breaks_after is not None:
            self.breaks_after -= 1
            if self.breaks_after < 0:
                raise ConnectionError("Connection reset by peer")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The client, replaced; its calls must be ones that the real client takes."""
    made = FakeHub(tmp_path / "hub-cache")
    api = create_autospec(HfApi, instance=True)
    for name in ("create_repo", "create_branch", "upload_folder", "list_repo_files", "create_commit"):
        getattr(api, name).side_effect = getattr(made, name)
    download = create_autospec(snapshot_download, side_effect=made.snapshot_download)
    monkeypatch.setattr(module, "HfApi", lambda: api)
    monkeypatch.setattr(module, "snapshot_download", download)
    monkeypatch.setenv("PATCHLENS_HOME", str(tmp_path / "home"))
    return made


@pytest.fixture(scope="module")
def bank(tiny_causal: Model, tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return build_bank(tiny_causal, SENTENCES, tmp_path_factory.mktemp("banks") / "tiny")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_there_and_back(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    assert push_bank(bank, REPO) == f"https://hub/datasets/{REPO}"
    assert fake.private
    there = fake.branches["main"]
    assert there.keys() == {*content(bank.folder), "README.md", ".gitattributes"}
    pulled = pull_bank(REPO, tmp_path / "pulled")
    assert content(pulled.folder) == content(bank.folder)
    assert pulled.name == "pulled"
    assert "README.md" not in fake.fetched


def test_without_a_folder_it_goes_to_the_cache(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    push_bank(bank, REPO, private=False)
    assert fake.private is False
    pulled = pull_bank(REPO)
    assert pulled.name == REPO
    assert pulled.folder.is_relative_to(tmp_path / "home")
    assert content(pulled.folder) == content(bank.folder)
    fetched = list(fake.fetched)
    assert pull_bank(REPO).folder == pulled.folder
    assert fake.fetched == fetched
    shutil.rmtree(fake.cache / "blobs")  # the bank's files are files of their own
    open_bank(pulled.folder).verify()


def test_opening_by_the_name_on_the_hub(
    fake: FakeHub, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_bank(bank, REPO)
    opened = open_bank(REPO)
    assert (opened.name, len(opened)) == (REPO, len(bank))
    fetched = list(fake.fetched)
    assert open_bank(REPO).folder == opened.folder
    assert fake.fetched == fetched, "from the cache"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bank.folder, tmp_path / REPO)
    assert open_bank(REPO).folder == Path(REPO), "a folder of that name comes first"


@pytest.mark.parametrize("error", [BankNotFound, HubError])
def test_opening_what_is_nowhere(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error("The Hub says no.")

    monkeypatch.setattr(module, "pull_bank", refuse)
    with pytest.raises(error, match=r"Opening the bank nobody/nothing: there is no such folder here\. The Hub says no"):
        open_bank("nobody/nothing")


def test_a_cached_bank_that_was_damaged_is_pulled_again(fake: FakeHub, bank: Bank) -> None:
    push_bank(bank, REPO)
    folder = pull_bank(REPO).folder
    (folder / "contexts.parquet").unlink()
    assert content(pull_bank(REPO).folder) == content(bank.folder)


def test_chosen_layers_pushed(fake: FakeHub, bank: Bank, tmp_path: Path, tiny_causal: Model) -> None:
    """What arrives is the bank that would have been built with these layers alone."""
    push_bank(bank.folder, REPO, layers="1,3")
    pulled = pull_bank(REPO, tmp_path / "pulled")
    assert pulled.layers == (1, 3)
    built = build_bank(tiny_causal, SENTENCES, tmp_path / "built", layers=(1, 3))
    assert content(pulled.folder) == content(built.folder)
    assert not [name for name in fake.sent if name.startswith("layer_02")]


def test_chosen_layers_pulled(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    push_bank(bank, REPO)
    for layers, out in ((2, tmp_path / "pulled"), ([2], None)):
        pulled = pull_bank(REPO, out, layers=layers)
        pulled.verify()
        assert pulled.layers == (2,)
        assert pulled.provenance.settings["layers"] == [2]
        assert torch.equal(pulled.vectors(2), bank.vectors(2))
    assert sorted(name for name in fake.fetched if "layer" in name) == ["layer_02-00001-of-00001.safetensors"]
    with pytest.raises(OptionError, match="4 are not among those that it holds, 1, 2, 3"):
        pull_bank(REPO, layers=4)
    with pytest.raises(OptionError, match="'9' are not among"):
        push_bank(bank, REPO, layers="9")
    assert pull_bank(REPO).layers == (1, 2, 3)


def test_an_interrupted_push_goes_on(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    fake.breaks_after = 3
    with pytest.raises(HubError, match=r"Pushing the bank tiny to someone/bank: Connection reset.*it goes on"):
        push_bank(bank, REPO)
    assert "bank.json" not in fake.branches["main"]
    fake.breaks_after = None
    with pytest.raises(BankNotFound, match=r"no bank\.json.*its upload has not ended"):
        pull_bank(REPO)
    sent = list(fake.sent)
    push_bank(bank, REPO)
    assert len(sent) == 3
    assert sorted(fake.sent) == sorted(set(fake.sent)) == sorted(bank.manifest.files)
    assert content(pull_bank(REPO, tmp_path / "pulled").folder) == content(bank.folder)


def test_an_interrupted_pull_goes_on(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    push_bank(bank, REPO)
    fake.breaks_after = 3
    with pytest.raises(HubError, match=r"Pulling the bank someone/bank: Connection reset.*it goes on"):
        pull_bank(REPO, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    fake.breaks_after = None
    pull_bank(REPO, tmp_path / "pulled").verify()
    assert len(fake.fetched) == len(set(fake.fetched)) + 1  # the one that broke


def test_another_bank_takes_the_place_of_the_first(
    fake: FakeHub, bank: Bank, tmp_path: Path, tiny_causal: Model
) -> None:
    push_bank(bank, REPO)
    fake.branches["main"]["notes.txt"] = b"mine"
    smaller = build_bank(tiny_causal, SENTENCES[:2], tmp_path / "smaller", layers=2)
    push_bank(smaller, REPO, card=False)
    there = fake.branches["main"]
    assert there.keys() == {*content(smaller.folder), "README.md", ".gitattributes", "notes.txt"}
    assert f"{len(bank):,}" in there["README.md"].decode()
    assert content(pull_bank(REPO, tmp_path / "pulled").folder) == content(smaller.folder)


def test_a_branch(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    push_bank(bank, REPO, revision="draft")
    assert "bank.json" not in fake.branches["main"]
    with pytest.raises(BankNotFound, match=r"no bank\.json"):
        pull_bank(REPO)
    pull_bank(REPO, tmp_path / "pulled", revision="draft").verify()


def test_pulling_into_something(fake: FakeHub, bank: Bank, tmp_path: Path) -> None:
    push_bank(bank, REPO, layers=1)
    out = build_to(tmp_path / "pulled", bank)
    fetched = len(fake.fetched)
    with pytest.raises(OptionError, match="not empty"):
        pull_bank(REPO, out)
    assert fake.fetched[fetched:] == ["bank.json"]  # refused before the download
    assert pull_bank(REPO, out, overwrite=True).layers == (1,)


def build_to(folder: Path, bank: Bank) -> Path:
    return shutil.copytree(bank.folder, folder)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_a_cache_on_another_disk(
    fake: FakeHub, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    push_bank(bank, REPO)
    pull_bank(REPO, tmp_path / "pulled").verify()
    assert not any(path.is_symlink() for path in (tmp_path / "pulled").iterdir())
    cached = pull_bank(REPO)
    cached.verify()
    assert sum(path.is_symlink() for path in cached.folder.iterdir()) == len(bank.manifest.files)
    shutil.rmtree(fake.cache)  # then the links lead nowhere, and the next call mends that
    assert content(pull_bank(REPO).folder) == content(bank.folder)


def test_no_space(fake: FakeHub, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_bank(bank, REPO)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fake, "_transfer", full)
        with pytest.raises(StorageError, match=r"No space left on device\. What came stays"):
            pull_bank(REPO, tmp_path / "pulled")
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match="pulled failed: No space left"):
        pull_bank(REPO, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_damaged_bank_is_not_pushed(
    fake: FakeHub, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_to(tmp_path / "copy", bank)
    path = folder / "layer_03-00001-of-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    monkeypatch.setattr(layout, "HASHED_BYTES", 0)
    with pytest.raises(BankCorrupt, match=r"Pushing the bank copy .*layer_03.* is not what bank\.json says"):
        push_bank(folder, REPO)
    assert fake.branches == {}
    push_bank(folder, REPO, layers="1,2")  # those are sound


@pytest.mark.parametrize("change", ["cut", "missing", "edited"])
def test_a_repository_that_is_not_what_its_bank_json_says(
    fake: FakeHub, bank: Bank, tmp_path: Path, change: str
) -> None:
    push_bank(bank, REPO)
    there, name = fake.branches["main"], "layer_03-00001-of-00001.safetensors"
    if change == "missing":
        del there[name]
    else:
        there[name] = there[name][:-1] + (b"" if change == "cut" else b"\x55")
    with pytest.raises(BankCorrupt, match=rf"Pulling the bank someone/bank: {name} is"):
        pull_bank(REPO, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    pull_bank(REPO, tmp_path / "part", layers="1,2").verify()


@pytest.mark.parametrize(
    "files",
    [
        {"../../outside": {"bytes": 1, "sha256": "0"}},
        {"*": {"bytes": 1, "sha256": "0"}},
        {"model.pkl": {"bytes": 1, "sha256": "0"}},
        {"contexts.parquet": {"bytes": "1", "sha256": "0"}},
        {"contexts.parquet": {"bytes": 1}},
    ],
)
def test_a_bank_json_that_lists_other_files(fake: FakeHub, bank: Bank, tmp_path: Path, files: Any) -> None:
    push_bank(bank, REPO)
    body = replace(bank.manifest, files={**bank.manifest.files, **files}).to_json()
    fake.branches["main"]["bank.json"] = json.dumps(body).encode()
    with pytest.raises(BankCorrupt, match=r"no file of a bank, or not with its size and hash"):
        pull_bank(REPO, tmp_path / "pulled")
    assert set(fake.fetched) == {"bank.json"}


def http(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = create_autospec(Response, instance=True)
    response.status_code = status
    response.headers = {}
    return kind(f"{status} said the server.\nRequest ID: 1", response=response)


@pytest.mark.parametrize(
    ("error", "kinds", "told"),
    [
        (
            lambda: http(RepositoryNotFoundError, 404),
            (HubError, BankNotFound),
            "no such repository .*HF_TOKEN",
        ),
        (lambda: http(GatedRepoError, 403), (HubError, BankNotFound), "access must be asked for"),
        (lambda: http(RevisionNotFoundError, 404), (HubError, BankNotFound), "no such revision"),
        (lambda: http(HfHubHTTPError, 403), (HubError, HubError), "answered 403 .*the right to write"),
        (lambda: http(HfHubHTTPError, 503), (HubError, HubError), "answered 503 .*Wait a while"),
        (lambda: OfflineModeIsEnabled("offline"), (HubError, HubError), "cannot be reached.*HF_HUB_OFFLINE"),
        (lambda: LocalEntryNotFoundError("not there"), (HubError, HubError), "cannot be reached"),
        (lambda: TimeoutError(110, "Connection timed out"), (HubError, HubError), "timed out. Check the network"),
        (lambda: RuntimeError("xet broke"), (HubError, HubError), "xet broke. Check the network"),
    ],
)
def test_what_the_hub_refuses(
    fake: FakeHub,
    bank: Bank,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    kinds: tuple[type[Exception], type[Exception]],
    told: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error()

    monkeypatch.setattr(module.HfApi(), "create_repo", refuse)
    with pytest.raises(kinds[0], match=f"Pushing the bank tiny to someone/bank: .*{told}"):
        push_bank(bank, REPO)
    monkeypatch.setattr(module, "snapshot_download", refuse)
    with pytest.raises(kinds[1], match=f"Pulling the bank someone/bank: .*{told}"):
        pull_bank(REPO)


class TestTheRealClient:
    """Offline, as all tests are."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATCHLENS_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))

    @pytest.mark.parametrize("name", ["no/such/name", "spaces are/not allowed", ""])
    def test_names_that_are_none(self, bank: Bank, name: str) -> None:
        with pytest.raises(OptionError, match="Expected 'owner/name'"):
            pull_bank(name)
        with pytest.raises(OptionError, match="Expected 'owner/name'"):
            push_bank(bank, name)

    def test_offline(self, bank: Bank) -> None:
        with pytest.raises(HubError, match="cannot be reached"):
            pull_bank("someone/nothing")
        with pytest.raises(HubError, match="cannot be reached"):
            push_bank(bank, "someone/nothing")

    def test_offline_with_what_is_in_its_cache(self, bank: Bank, tmp_path: Path) -> None:
        commit = "c" * 40
        repo = tmp_path / "hub-cache" / "datasets--someone--bank"
        shutil.copytree(bank.folder, repo / "snapshots" / commit)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(commit)
        assert content(pull_bank(REPO, tmp_path / "pulled").folder) == content(bank.folder)
        (repo / "snapshots" / commit / "layer_02-00001-of-00001.safetensors").unlink()
        with pytest.raises((HubError, BankCorrupt)):
            pull_bank(REPO, tmp_path / "again")
        assert pull_bank(REPO, layers=(1, 3)).layers == (1, 3)


class TestTheCard:
    def card(self, fake: FakeHub, bank: Bank, **changes: Any) -> DatasetCard:
        made = replace(bank.provenance, **changes)
        push_bank(replace(bank, manifest=replace(bank.manifest, provenance=made)), REPO)
        return DatasetCard(fake.branches["main"]["README.md"].decode())

    def test_its_header_is_read_by_the_hub(self, fake: FakeHub, bank: Bank) -> None:
        data = self.card(fake, bank, model="some/model", revision="abc").data
        assert data.base_model == "some/model"
        assert data.pretty_name == "Contextual embeddings of some/model"
        assert "patchlens" in data.tags
        assert data.license is None
        assert [part["data_files"] for part in data.configs] == ["contexts.parquet", "sentences.parquet"]

    def test_a_folders_path_stays_at_home(self, fake: FakeHub, bank: Bank) -> None:
        card = self.card(fake, bank, model="/home/someone/secret/llama")
        assert "base_model" not in card.data.to_dict()
        assert "secret" not in card.content
        assert "**llama**" in card.content

    def test_it_says_what_the_bank_is(self, fake: FakeHub, bank: Bank) -> None:
        text = self.card(fake, bank).content
        for said in (f"{len(bank):,}", "1, 2, 3", "32 × float16", bank.provenance.fingerprint, "8 sentences", "spread"):
            assert said in text
        assert f'pl.open_bank("{REPO}")' in text

    def test_names_cannot_break_it(self, fake: FakeHub, bank: Bank) -> None:
        card = self.card(fake, bank, model='x: "y"\n---\n# <b>|*z*')
        assert card.data.pretty_name == 'Contextual embeddings of x: "y"\n---\n# <b>|*z*'
        assert "<b>" not in card.text.replace("\\<b\\>", "")
        assert "\n# \\<b" not in card.text

    def test_warnings_of_an_import_are_on_it(self, fake: FakeHub, bank: Bank) -> None:
        imported = {"warnings": ["50 rows are padding (<pad>)."]}
        settings = {**bank.provenance.settings, "per_token": None, "imported": imported}
        text = self.card(fake, bank, settings=settings).content
        assert "**Beware.** 50 rows are padding (\\<pad\\>)." in text
        assert "as imported from latentlens" in text

    @pytest.mark.parametrize(
        ("rows", "size"),
        [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (3_000_000, "1M<n<10M"), (10**12, "1B<n<10B")],
    )
    def test_sizes(self, bank: Bank, rows: int, size: str) -> None:
        from patchlens.bank.card import card

        assert DatasetCard(card(replace(bank.manifest, rows=rows), REPO)).data.size_categories == [size]
