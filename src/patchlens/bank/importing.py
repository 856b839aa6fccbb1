"""From the reference package's folders to a bank, layer by layer.

    layer_8/embeddings_cache.pt     {"embeddings": tensor [row, d_model], "metadata": a dict a row}, more keys allowed
    metadata.json                   the model's name and the layers, where there is one

Both the library latentlens (rows of unit length) and the paper's own pipeline (as the model made them) write these.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from patchlens import __version__
from patchlens.axes import Float
from patchlens.bank import format as layout
from patchlens.bank.bank import Bank, open_bank
from patchlens.bank.encoding import DTYPES, encode
from patchlens.bank.extract import unit
from patchlens.bank.foreign import kind_of, read_cache
from patchlens.bank.format import Manifest, VectorFiles
from patchlens.bank.merge import RULE, UNKNOWN, shard_rows
from patchlens.bank.placing import Ints, Places, Rows, place
from patchlens.bank.trie import Bytes8, mixed
from patchlens.errors import BankCorrupt, BankMismatch, BankNotFound, ModelError, OptionError
from patchlens.models.loading import load_model
from patchlens.models.model import Model
from patchlens.models.site import layers_among
from patchlens.progress import Report, silent
from patchlens.provenance import JSON, Provenance
from patchlens.storage import readable, replacing_folder

__all__ = ["import_bank"]

CACHE = "embeddings_cache.pt"

_FOLDER = re.compile(r"layer_(\d{1,4})")
_BLOCK_BYTES = 64 << 20  # of rows converted together, in float32

# Of 517,726 rows that latentlens builds of its own corpus 38 % stand in the last third of their sentences; padded on
# the left 19 % (a tokenizer of 32,000 pieces trained on that corpus, at most 50 contexts a token).
_FEW_LATE, _ENOUGH = 0.25, 1000

# What tokenizers call padding, the start of a text, and what is used as padding where there is none.
_PADDING = frozenset(
    {
        *("<pad>", "[PAD]", "<|padding|>", "<|pad|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[UNK]"),
        *("<unk>", "<|finetune_right_pad_id|>", "<|vision_pad|>", "<s>", "<bos>", "<|begin_of_text|>"),
    }
)


def import_bank(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | Path | Model | None = None,
    layers: object = "all",
    dtype: str = "float16",
    overwrite: bool = False,
    report: Report = silent,
) -> Bank:
    """Make a bank of a folder that the reference package latentlens or the paper's pipeline wrote.

    Its files are Python pickles. They are read with PyTorch's `weights_only`, which builds tensors, numbers, texts,
    lists and dicts and runs nothing; then all that they hold is checked. Rows keep their order and become unit
    directions; rows of padding are left out.

    The reference writes a token's position, not its characters. With the model they are found by its tokenizer.
    Without, each token's text is looked for in its sentence, behind the tokens that stand before it: the first place
    that fits is taken, which may be an earlier one than the token's own. Where a sentence does not contain its token,
    the token's own text is the word, with the empty span at the sentence's end.

    What the reference does not record stays unknown (None): the rule of choice, the type computed in, and without the
    model its weights and tokenizer; such a bank answers only where another model's states are allowed.
    `settings["imported"]` of the bank's provenance says how many tokens were placed how. Signs of padding on the left,
    which makes the reference store padding and lose the ends of sentences, are kept there too and given as warnings.

    Args:
        folder: Holds `layer_N/embeddings_cache.pt` for some N.
        out: The folder to make.
        model: The model that the rows are from, or what `load_model` takes; whoever gives it vouches for it.
        layers: Which of the folder's layers: "all", "1,8", numbers.
        dtype: What the vectors are stored as.
        overwrite: Replace a bank that is at `out`.
        report: Called with stage "import" and bytes of the folder's files done.

    Returns:
        The bank, opened.

    Raises:
        BankNotFound: The folder holds no such files.
        BankCorrupt: A file is broken, holds code or anything else that does not belong there, or disagrees with
            another one; names the row.
        BankMismatch: The rows cannot be of this model.
        OptionError: An unknown type or layer, or something in the way at `out`.
        ModelError: The model cannot be loaded, or its tokenizer has no fast version.
        StorageError: The disk refused.

    Cost:
        Every file is read once; memory for one layer's metadata, which Python needs some 500 bytes a row for.

    Reference:
        latentlens 0.1.0, `ContextualIndex.save`; the paper's `extract_embeddings.py`. Departure: raw lengths are
        dropped, as every search divides them out.
    """
    if dtype not in DTYPES:
        raise OptionError(f"Importing a bank: dtype is {dtype!r}. Expected one of {', '.join(DTYPES)}.")
    folder, out = Path(folder), Path(out)
    with readable(folder):
        about = _about(folder)
        paths = _caches(folder, about, layers)
    with replacing_folder(out, overwrite=overwrite, marker=layout.MANIFEST) as made:
        loaded = None if model is None else _loaded(model, paths)
        every, rows, d_model = _convert(made, paths, dtype, loaded, report)
        places = place(rows, None if loaded is None else loaded.tokenizer)
        rank, repeated = _ranks(rows, places.position)
        _write_tables(made, rows, places, rank, loaded)
        told = list(_warnings(every, rows, places, repeated, tuple(paths), loaded))
        settings: dict[str, JSON] = {
            **dict.fromkeys(RULE),
            "choose": "imported",
            "layers": list(paths),
            "dtype": dtype,
            "compute_dtype": None,
            "imported": {
                "exact": int(places.exact.sum()),
                "found": int(places.found.sum()),
                "not_found": int((~places.exact & ~places.found).sum()),
                "warnings": [*told],
            },
        }
        manifest = Manifest(
            provenance=_provenance(about, loaded, settings),
            corpus=_corpus(rows),
            layers=tuple(paths),
            d_model=d_model,
            dtype=dtype,
            rows=len(rows),
            files=layout.describe(made),
        )
        layout.write_manifest(made, manifest)
    for said in told:
        warnings.warn(said, stacklevel=2)
    return open_bank(out)


def _about(folder: Path) -> dict[str, Any]:
    """What metadata.json says; nothing where there is none."""
    if not os.path.isdir(folder):
        raise BankNotFound(
            f"Importing {folder}: there is no such folder. Check the path; one on the Hub is downloaded first, with "
            "'hf download'."
        )
    path = folder / "metadata.json"
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BankCorrupt(
            f"Importing {folder}: metadata.json is not whole JSON ({error}). Copy it again, or remove it: it is not "
            "needed."
        ) from error
    if not isinstance(about, dict):
        raise BankCorrupt(
            f"Importing {folder}: metadata.json holds {kind_of(about)}, expected an object. Copy it again, or remove "
            "it: it is not needed."
        )
    return about


def _caches(folder: Path, about: dict[str, Any], layers: object) -> dict[int, Path]:
    """The file of each wanted layer, ascending."""
    folders = {int(match[1]): path for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))}
    if not folders:
        what = "a bank already; open it" if (folder / layout.MANIFEST).exists() else "not what latentlens writes"
        raise BankNotFound(f"Importing {folder}: it holds no layer_N/{CACHE} but is {what}. Check the path.")
    listed = about.get("layers", about.get("layers_extracted"))
    listed = [layer for layer in listed if type(layer) is int] if isinstance(listed, list) else []
    wanted = layers_among(layers, sorted(folders.keys() | set(listed)), f"the folder {folder}")
    paths = {layer: folders.get(layer, folder / f"layer_{layer}") / CACHE for layer in wanted}
    if missing := [layer for layer, path in paths.items() if not path.is_file()]:
        raise BankCorrupt(
            f"Importing {folder}: {paths[missing[0]]} is missing. Copy it again, or name the layers to import; the "
            f"others are {', '.join(str(layer) for layer in paths if layer not in missing) or 'missing too'}."
        )
    return paths


def _loaded(model: str | Path | Model, paths: dict[int, Path]) -> Model:
    loaded = load_model(model)
    if not getattr(loaded.tokenizer, "is_fast", False):
        raise ModelError(
            f"Importing a bank: {type(loaded.tokenizer).__name__} of {loaded.name} is not a fast tokenizer, so it "
            "cannot say which characters a token covers. Convert it with transformers' AutoTokenizer, or leave the "
            "model out."
        )
    if (deepest := max(paths)) > loaded.n_layers:
        raise BankMismatch(
            f"Importing a bank: the folder holds layer {deepest}, but {loaded.name} has {loaded.n_layers} blocks. "
            "Give the model that the rows are from."
        )
    return loaded


def _convert(
    made: Path, paths: dict[int, Path], dtype: str, loaded: Model | None, report: Report
) -> tuple[Rows, Rows, int]:
    """Write the vectors of all layers; the rows and the width are the first layer's, and must be everyone's.

    Returns:
        What is said of all rows, and of those that were kept; the width.
    """
    sizes = [path.stat().st_size for path in paths.values()]
    done, total = 0, sum(sizes)
    first: tuple[Rows, int]
    kept: Ints
    files: VectorFiles
    for number, ((layer, path), size) in enumerate(zip(paths.items(), sizes, strict=True)):
        report("import", done, total)
        with readable(path):
            embeddings, rows = read_cache(path)
        if number == 0:
            first = rows, embeddings.shape[1]
            _check_width(path, first[1], rows, loaded)
            kept = np.flatnonzero(~_is_padding(rows))
            if not len(kept):
                raise BankCorrupt(f"Importing {path}: all of its {len(rows):,} rows are padding. Build a bank anew.")
            shards = shard_rows(len(kept), first[1], dtype)
            files = VectorFiles.create(made, tuple(paths), shards, first[1], dtype)
        else:
            _check_same(path, (rows, embeddings.shape[1]), first)
        per_block = max(1, _BLOCK_BYTES // (4 * embeddings.shape[1]))
        for start in range(0, len(kept), per_block):
            some = kept[start : start + per_block]
            files.write(layer, start, encode(_directions(path, some, embeddings), dtype))
            report("import", done + size * start // len(kept), total)
        done += size
    files.flush()
    report("import", done, total)
    return first[0], first[0].only(kept), first[1]


def _is_padding(rows: Rows) -> npt.NDArray[np.bool_]:
    """The rows of padding on the left, the start of the text behind it included; those at position 0 may stay.

    They have the name of such a token, and stand before all others of their sentence: the same token inside a text is
    a part of it.
    """
    named = np.array([text.strip() in _PADDING for text in rows.tokens])[rows.token]
    begins = np.full(len(rows.captions), np.iinfo(np.int64).max)
    np.minimum.at(begins, rows.caption[~named], rows.position[~named])
    return named & (rows.position > 0) & (rows.position < begins[rows.caption])


def _check_width(path: Path, d_model: int, rows: Rows, loaded: Model | None) -> None:
    if loaded is None:
        return
    vocabulary, width = loaded.vocabulary, loaded.d_model
    if d_model != width or (largest := int(rows.token_id.max())) >= vocabulary:
        found = f"{d_model}-dimensional rows" if d_model != width else f"the token id {largest:,}"
        raise BankMismatch(
            f"Importing {path}: it holds {found}, but {loaded.name} has {width} dimensions and {vocabulary:,} token "
            "ids. Give the model that the rows are from."
        )


def _check_same(path: Path, found: tuple[Rows, int], first: tuple[Rows, int]) -> None:
    """Rows are the same contexts at every layer, so every file must say the same of them."""
    (rows, d_model), (expected, width) = found, first
    if d_model != width or len(rows) != len(expected):
        raise BankCorrupt(
            f"Importing {path}: it holds {len(rows):,} rows of {d_model} dimensions, but the folder's first layer "
            f"{len(expected):,} of {width}. Expected the same contexts at every layer; import them one by one, into "
            "banks of their own."
        )
    numbers = ("caption", "token", "token_id", "position")
    if (rows.captions, rows.tokens) != (expected.captions, expected.tokens) or not all(
        np.array_equal(getattr(rows, name), getattr(expected, name)) for name in numbers
    ):
        row = next(row for row in range(len(rows)) if rows.said(row) != expected.said(row))
        raise BankCorrupt(
            f"Importing {path}: row {row:,} is {rows.said(row)}; at the folder's first layer it is "
            f"{expected.said(row)}. Expected the same contexts in the same order at every layer; copy it again."
        )


def _directions(path: Path, rows: Ints, embeddings: Float[Tensor, "row d_model"]) -> Float[Tensor, "_block d_model"]:
    # Consecutive where nothing was left out; not every type can be indexed.
    block = embeddings[int(rows[0]) : int(rows[-1]) + 1].float()
    directions = unit(block[torch.from_numpy(rows - rows[0])])
    wrong = ~torch.isfinite(directions).all(dim=-1)
    if wrong.any():
        raise BankCorrupt(
            f"Importing {path}: row {rows[int(wrong.nonzero()[0])]:,} of embeddings is NaN, infinite or zero, so it "
            "has no direction. Copy it again, or build a bank with 'patchlens bank build'."
        )
    return directions


def _write_tables(made: Path, rows: Rows, places: Places, rank: Bytes8, loaded: Model | None) -> None:
    if loaded is None:
        pieces = [rows.tokens[token] for token in rows.token]
    else:
        pieces = loaded.tokenizer.convert_ids_to_tokens(rows.token_id.tolist())
    spans = dict(zip(("word_start", "word_end", "token_start", "token_end"), places.spans.T, strict=True))
    columns = {
        "token_id": rows.token_id,
        "sentence": rows.caption,
        "position": places.position,
        **spans,
        "rank": rank,
        "word": places.words,
        "token": pieces,
    }
    table = pa.table(columns).select(layout.CONTEXT_COLUMNS.names).cast(layout.CONTEXT_COLUMNS)
    layout.write_table(table, made / layout.CONTEXTS)
    numbers = range(len(rows.captions))
    sentences = {"id": numbers, "text": rows.captions, "source": [f"caption:{number + 1}" for number in numbers]}
    layout.write_table(pa.table(sentences).cast(layout.SENTENCE_COLUMNS), made / layout.SENTENCES)


def _ranks(rows: Rows, position: Ints) -> tuple[Bytes8, int]:
    """What stands in for the hash of the prefix, which is not known, and how many rows are twice.

    The first eight bytes of the sentence's SHA-256 as a little-endian number, mixed with position and token id; and
    where rows are the same in all three, with how many such rows came before.
    """
    captions = b"".join(hashlib.sha256(caption.encode()).digest()[:8] for caption in rows.captions)
    rank = mixed(mixed(np.frombuffer(captions, "<u8").astype(np.uint64)[rows.caption], position), rows.token_id)
    order = np.argsort(rank, kind="stable")
    before = np.empty(len(rank), dtype=np.int64)
    before[order] = np.arange(len(rank), dtype=np.int64) - np.searchsorted(rank[order], rank[order])
    return np.where(before > 0, mixed(rank, before), rank), int((before > 0).sum())


def _provenance(about: dict[str, Any], loaded: Model | None, settings: dict[str, JSON]) -> Provenance:
    if loaded is not None:
        return replace(loaded.provenance("bank", **settings), created=None)
    name = about.get("model_name")
    return Provenance(
        kind="bank",
        model=name if isinstance(name, str) else UNKNOWN,
        revision=None,
        fingerprint=UNKNOWN,
        tokenizer=UNKNOWN,
        versions={"patchlens": __version__, "torch": torch.__version__},
        settings=settings,
    )


def _corpus(rows: Rows) -> dict[str, JSON]:
    digest = hashlib.sha256()
    for caption in rows.captions:
        digest.update(caption.encode() + b"\n")
    return {"sha256": digest.hexdigest(), "sentences": len(rows.captions)}


def _warnings(
    every: Rows, rows: Rows, places: Places, repeated: int, layers: tuple[int, ...], loaded: Model | None
) -> Iterator[str]:
    """Signs that the rows are not what they should be."""
    if padding := len(every) - len(rows):
        text = every.tokens[every.token[_is_padding(every).argmax()]]
        yield (
            f"{padding:,} of {len(every):,} rows are padding or the start of a text ('{text}') and were left out: the "
            "reference counted positions wrongly with a tokenizer that pads on the left, and lost the ends of "
            "sentences. Build the bank again with 'patchlens bank build'."
        )
    moved = int((places.position != rows.position).sum())
    if moved:
        yield (
            f"{moved:,} of {len(rows):,} rows stand where padding on the left moved them; their positions were put "
            "right, but the ends of their sentences are missing."
        )
    placed = places.exact | places.found
    lengths = np.array([len(caption) for caption in rows.captions])[rows.caption]
    if (known := int(placed.sum())) >= _ENOUGH:
        late = float((3 * places.spans[placed, 3] > 2 * lengths[placed]).mean())
        if late < _FEW_LATE:
            yield (
                f"Only {late:.0%} of {known:,} rows stand in the last third of their sentences, where a third or more "
                "is usual: the ends of sentences may be missing, as padding on the left makes the reference lose them."
            )
    if repeated:
        yield (
            f"{repeated:,} of {len(rows):,} rows are contexts that earlier rows are already (the same token in the "
            "same sentence). They are kept; a search may give one context several times."
        )
    if loaded is not None and layers[-1] == loaded.n_layers:
        yield (
            f"Layer {layers[-1]} is the last: the reference stores it after the final norm, while hidden states here "
            "are taken before it, so the two should not be compared."
        )
