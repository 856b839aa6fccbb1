"""Banks on the Hugging Face Hub, as datasets: pushed and pulled as they are, or some of their layers.

Both go on where an interrupted one was: the Hub's client sends and fetches no content twice. bank.json goes last, so
that a repository without one is an upload that has not ended.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.card import card as card_of
from patchlens.bank.format import Manifest
from patchlens.errors import BankCorrupt, BankError, BankNotFound, HubError, OptionError, PatchlensError
from patchlens.models.site import layers_among
from patchlens.progress import Report, silent
from patchlens.storage import cache_folder, refusals, replacing_folder

__all__ = ["pull_bank", "push_bank"]

CARD = "README.md"

_KIND = "dataset"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
_VECTORS = re.compile(r"layer_(\d+)-\d+-of-\d+\.safetensors")


def push_bank(
    bank: str | Path | Bank,
    repo_id: str,
    *,
    layers: object = "all",
    private: bool = True,
    revision: str | None = None,
    card: bool = True,
    report: Report = silent,
) -> str:
    """Put a bank, or some layers of it, on the Hub.

    The repository is made if there is none. It then holds this bank alone: vector files of an earlier one are removed.
    All files are checked before, so that no damaged bank is spread. The token is found as huggingface_hub does:
    HF_TOKEN, or what `hf auth login` has stored.

    Args:
        bank: A bank, opened or by folder or name.
        repo_id: "owner/name".
        layers: Which of its layers: "all", "1,8", numbers. The result is a bank of these.
        private: Whether a new repository is: the sentences are not always for everyone. An old one stays as it is.
        revision: The branch; None for the main one. It is made if there is none.
        card: Write README.md from bank.json; otherwise leave what is there.
        report: Called with stage "verify" and bytes checked. The client draws its own bars for the upload.

    Returns:
        The address of the repository.

    Raises:
        OptionError: A layer that the bank lacks, or a name that the Hub does not allow.
        HubError: The Hub refused or could not be reached. The same call goes on where this one ended.
        BankError: The bank cannot be opened, or a file is not what bank.json says.
    """
    opened = open_bank(bank, report=report)
    manifest = _only(opened.manifest, layers_among(layers, opened.layers, f"the bank {opened.name}"))
    doing = f"Pushing the bank {opened.name} to {repo_id}"
    _check(doing, opened.folder, manifest, report)
    api = HfApi()
    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": _KIND}
    with TemporaryDirectory() as scratch, _talking(doing, HubError):
        layout.write_manifest(Path(scratch), manifest)
        address = api.create_repo(**where, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(**where, branch=revision, exist_ok=True)
        where["revision"] = revision
        api.upload_folder(
            **where,
            folder_path=opened.folder,
            allow_patterns=sorted(manifest.files),
            commit_message="Vectors and tables",
        )
        there = api.list_repo_files(**where)
        stale = sorted(name for name in there if _VECTORS.fullmatch(name) and name not in manifest.files)
        operations = [CommitOperationAdd(layout.MANIFEST, Path(scratch) / layout.MANIFEST)]
        if card:
            operations.append(CommitOperationAdd(CARD, card_of(manifest, repo_id).encode()))
        api.create_commit(
            **where,
            operations=[*operations, *map(CommitOperationDelete, stale)],
            commit_message=f"{manifest.rows:,} contexts at layers {', '.join(map(str, manifest.layers))}",
        )
    return str(address)


def pull_bank(
    repo_id: str,
    out: str | Path | None = None,
    *,
    layers: object = "all",
    revision: str | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Bank:
    """Get a bank from the Hub, or some layers of it.

    Only the wanted layers are downloaded, into the cache of huggingface_hub. The bank's files are the same files under
    another name, where the disk allows that.

    Args:
        repo_id: "owner/name".
        out: The folder to make; None for one in the cache, which a later call finds again.
        layers: Which of its layers: "all", "1,8", numbers.
        revision: Branch, tag or commit; None for the main branch.
        overwrite: Replace a bank that is at `out`.
        report: Called with stage "verify" and bytes checked. The client draws its own bars for the download.

    Returns:
        The bank, opened.

    Raises:
        BankNotFound: There is no such repository for this token, or it holds no bank.
        BankCorrupt: A file is not what bank.json says.
        BankVersionError: Written in a format that this release does not know.
        OptionError: A layer that the bank lacks, a name that the Hub does not allow, or something in the way at `out`.
        HubError: The Hub refused or could not be reached. The same call goes on where this one ended.
        StorageError: The disk refused.
    """
    doing = f"Pulling the bank {repo_id}"
    found = _download(doing, repo_id, revision, [layout.MANIFEST])
    if not (found / layout.MANIFEST).is_file():
        raise BankNotFound(
            f"{doing}: the repository holds no bank.json, so it is no bank, or its upload has not ended. Check the "
            "name and the revision."
        )
    manifest = layout.read_manifest(found)
    if strange := sorted(name for name, file in manifest.files.items() if not _belongs(name, file)):
        raise BankCorrupt(
            f"{doing}: its bank.json lists {strange[0]!r}, which is no file of a bank, or not with its size and hash. "
            "Ask who made it."
        )
    manifest = _only(manifest, layers_among(layers, manifest.layers, f"the bank {repo_id}"))
    commit = found.name
    folder = _cached(repo_id, commit, manifest) if out is None else Path(out)
    if out is None and (bank := _opened(folder)) is not None:
        return replace(bank, name=repo_id)
    with replacing_folder(folder, overwrite=overwrite or out is None, marker=layout.MANIFEST) as made:
        found = _download(doing, repo_id, commit, sorted(manifest.files))
        for name in manifest.files:
            _take(doing, found / name, made / name, copy=out is not None)
        layout.write_manifest(made, manifest)
        _check(doing, made, manifest, report)
    return replace(open_bank(folder), name=repo_id) if out is None else open_bank(folder)


def _only(manifest: Manifest, layers: tuple[int, ...]) -> Manifest:
    """The manifest of a bank of some layers, as if no others had been built."""
    if layers == manifest.layers:
        return manifest
    made = manifest.provenance
    wanted = {name for name in manifest.files if (match := _VECTORS.fullmatch(name)) is None or int(match[1]) in layers}
    return replace(
        manifest,
        layers=layers,
        provenance=replace(made, settings={**made.settings, "layers": list(layers)}),
        files={name: file for name, file in manifest.files.items() if name in wanted},
    )


def _belongs(name: str, file: object) -> bool:
    """Whether a foreign manifest's entry names a file of a bank, and nothing outside of its folder."""
    known = name in (layout.CONTEXTS, layout.SENTENCES) or _VECTORS.fullmatch(name) is not None
    return known and isinstance(file, dict) and type(file.get("bytes")) is int and type(file.get("sha256")) is str


def _check(doing: str, folder: Path, manifest: Manifest, report: Report) -> None:
    done, total = 0, sum(file["bytes"] for file in manifest.files.values())
    report("verify", done, total)
    for name, file in manifest.files.items():
        if (found := layout.sha256(folder / name)) != file["sha256"]:
            raise BankCorrupt(
                f"{doing}: {name} is not what bank.json says (sha256 {found[:12]}…, expected {file['sha256'][:12]}…). "
                "It was edited, or belongs to another upload; copy or build the bank again."
            )
        done += file["bytes"]
        report("verify", done, total)


def _download(doing: str, repo_id: str, revision: str | None, names: list[str]) -> Path:
    """Fetch files into the client's cache; gives the folder that they are in, named after the commit."""
    cache = Path(constants.HF_HUB_CACHE)
    with refusals(cache, left="What came stays, and the same call goes on. "), _talking(doing, BankNotFound):
        return Path(snapshot_download(repo_id, repo_type=_KIND, revision=revision, allow_patterns=names))


def _cached(repo_id: str, commit: str, manifest: Manifest) -> Path:
    layers = "-".join(map(str, manifest.layers))
    return cache_folder() / "banks" / f"{repo_id.replace('/', '--')}-{commit[:16]}-{layers}"


def _opened(folder: Path) -> Bank | None:
    """What an earlier call left in the cache; None if there is none, or a part was cleaned away."""
    try:
        return open_bank(folder)
    except BankError:
        return None


def _take(doing: str, source: Path, target: Path, *, copy: bool) -> None:
    """Give a downloaded file another name: the same file, or else a copy or a link to it."""
    source = Path(os.path.realpath(source))
    if not source.is_file():
        raise BankCorrupt(
            f"{doing}: {target.name} is missing there. Its upload has not ended; pull again later, or ask who made it."
        )
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        if copy:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source)


@contextmanager
def _talking(doing: str, missing: type[PatchlensError]) -> Iterator[None]:
    """Turn what the Hub's client raises into our errors, and leave the disk's refusals as they are.

    Args:
        doing: What is being done, for the message.
        missing: What to raise where there is no such repository.
    """
    token = "the token: 'hf auth login' stores one, HF_TOKEN sets one; pushing needs the right to write"
    again = "run the same again; it goes on where it was"
    try:
        yield
    except PatchlensError:
        raise
    except HFValidationError as error:
        raise OptionError(f"{doing}: the Hub does not allow that name. Expected 'owner/name'.") from error
    except GatedRepoError as error:
        raise missing(f"{doing}: access must be asked for on the repository's page. Then check {token}.") from error
    except RepositoryNotFoundError as error:
        raise missing(f"{doing}: the Hub has no such repository for this token. Check the name and {token}.") from error
    except RevisionNotFoundError as error:
        raise missing(f"{doing}: the repository has no such revision. Check the branch, tag or commit.") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{doing}: the Hub cannot be reached, and the cache does not hold all of it. Check the network and that "
            f"HF_HUB_OFFLINE is not set, and {again}."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = f"Check {token}" if status in (401, 403) else f"Wait a while, and {again}"
        raise HubError(f"{doing}: the Hub answered {_first_line(error)} {advice}.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        raise HubError(f"{doing}: {_first_line(error)} Check the network, and {again}.") from error


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if line.endswith(".") else f"{line}."
