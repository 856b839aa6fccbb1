"""The reference package's files: foreign pickles, of which nothing is run and everything is checked.

A file holds {"embeddings": tensor [row, d_model], "metadata": a dict a row}, as `torch.save` writes it; the paper's
pipeline adds further keys, which are not looked at.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchlens.axes import Float
from patchlens.bank.placing import Rows
from patchlens.errors import BankCorrupt

__all__ = ["kind_of", "read_cache"]

_FLOATS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)
_LARGEST = 2**31  # of token ids and positions, which banks store in 32 bits


def read_cache(path: Path) -> tuple[Float[Tensor, "row d_model"], Rows]:
    """Read one layer.

    PyTorch's `weights_only` builds tensors, numbers, texts, lists and dicts, and refuses a pickle that asks for
    anything else before it runs it.

    Returns:
        The vectors as they are stored, mapped from the file; and what is said of the rows.

    Raises:
        BankCorrupt: The file is broken, holds code or something else that does not belong there; names the row.
        PermissionError: It may not be read.
    """
    try:
        sizes = _record_sizes(path)
        found = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|Unsupported (operand \d+)", str(error))
        what = "something" if named is None else named[1] or f"something unusual ({named[2]})"
        raise BankCorrupt(
            f"Importing {path}: it holds {what}, where tensors, numbers and texts alone belong. It was read with "
            "weights_only, so nothing in it was run. Do not open it in another way; ask whoever made it for a file "
            "without Python objects."
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # what a broken file makes of the zip reader, the unpickler and the tensors' rebuilding
        raise BankCorrupt(
            f"Importing {path}: it is no whole file of torch.save ({_first_line(error)}). Nothing in it was run: it is "
            "read with weights_only. It was cut short, edited, or written in the form of before PyTorch 1.6; copy it "
            "again."
        ) from error
    if not isinstance(found, dict) or not {"embeddings", "metadata"} <= found.keys():
        keys = f"a dict of {len(found)} other things" if isinstance(found, dict) else kind_of(found)
        raise BankCorrupt(
            f"Importing {path}: it holds {keys}, expected a dict with 'embeddings' and 'metadata'. Check what wrote it."
        )
    embeddings, metadata = found["embeddings"], found["metadata"]
    _check_tensor(path, embeddings, sizes)
    if not isinstance(metadata, list) or len(metadata) != len(embeddings):
        count = f"{len(metadata):,} entries" if isinstance(metadata, list) else kind_of(metadata)
        raise BankCorrupt(
            f"Importing {path}: metadata is {count}, expected a list of {len(embeddings):,}, one for each row of "
            "embeddings. Copy it again."
        )
    return embeddings.detach(), _rows(path, metadata)


def _record_sizes(path: Path) -> set[int]:
    """The sizes of the records in a file of torch.save, none of which is damaged.

    Where a file is mapped, PyTorch compares neither checksums nor sizes.

    Raises:
        BadZipFile: It is no such file, or damaged.
    """
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise zipfile.BadZipFile("Records are compressed, which torch.save does not do")
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"Bad checksum of {damaged}")
        return {record.file_size for record in archive.infolist()}


def _check_tensor(path: Path, embeddings: object, sizes: set[int]) -> None:
    found = kind_of(embeddings)
    if isinstance(embeddings, Tensor):
        plain = embeddings.layout == torch.strided and embeddings.device.type == "cpu"
        if plain and embeddings.ndim == 2 and embeddings.numel() and embeddings.dtype in _FLOATS:
            if (size := embeddings.untyped_storage().nbytes()) in sizes:
                return
            raise BankCorrupt(
                f"Importing {path}: embeddings takes {size:,} bytes, and no record of the file has as many. It was "
                "edited; copy it again."
            )
        found = f"a tensor {list(embeddings.shape)} of {embeddings.dtype}, {embeddings.layout}, {embeddings.device}"
    raise BankCorrupt(
        f"Importing {path}: embeddings is {found}, expected a dense tensor [row, d_model] of floating-point numbers. "
        "Check what wrote it."
    )


def _rows(path: Path, metadata: list[Any]) -> Rows:
    captions: dict[str, int] = {}
    tokens: dict[str, int] = {}
    numbers = np.empty((4, len(metadata)), dtype=np.int64)
    for row, said in enumerate(metadata):
        if (wrong := _wrong(said)) is not None:
            raise BankCorrupt(f"Importing {path}: in row {row:,} of metadata {wrong}. Check what wrote it.")
        numbers[:, row] = (
            captions.setdefault(said["caption"], len(captions)),
            tokens.setdefault(said["token_str"], len(tokens)),
            said["token_id"],
            said["position"],
        )
    return Rows(list(captions), numbers[0], list(tokens), *numbers[1:])


def _wrong(said: Any) -> str | None:
    """What is wrong with one entry of the metadata."""
    if not isinstance(said, dict):
        return f"stands {kind_of(said)}, expected a dict"
    for key in ("token_str", "caption"):
        text = said.get(key)
        if type(text) is not str:
            return f"{key} is {kind_of(text)}, expected a text"
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return f"{key} holds half a surrogate pair, which is no text"
    for key in ("token_id", "position"):
        number = said.get(key)
        if type(number) is not int:
            return f"{key} is {kind_of(number)}, expected a whole number"
        if not 0 <= number < _LARGEST:
            found = number if abs(number) < 2**64 else f"a number of {number.bit_length():,} bits"
            return f"{key} is {found}, expected 0 to {_LARGEST - 1}"
    return None


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
