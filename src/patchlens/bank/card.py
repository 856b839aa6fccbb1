"""The card of a bank on the Hub, written from bank.json alone. Knows nothing of the Hub's client."""

import json
from pathlib import PurePath
from typing import Any

from patchlens.bank import format as layout
from patchlens.bank.format import Manifest
from patchlens.provenance import JSON

__all__ = ["card"]

_CARD = """\
---
{header}
---

# {title}

A bank of contextual embeddings: hidden states of **{model}** at tokens of text, each with the sentence it stands in.
[LatentLens](https://arxiv.org/abs/2602.00462) looks up the hidden states of visual tokens in it, to read them as words.

```python
import patchlens as pl

bank = pl.open_bank("{repo}")                     # downloads it once; pl.pull_bank("{repo}", layers=[{layer}]) a part
vlm = pl.load_model("a model with this language model")
states = pl.capture(vlm, "photo.jpg", "Describe this image.")
pl.show(pl.LatentLens(bank).read(states, k=5))
```

| | |
|---|---|
{facts}

## What is in it

- `bank.json`: how it was made, and size and SHA-256 of every other file.
- `contexts.parquet`: one row per context: token, whole word, sentence, position, characters.
- `sentences.parquet`: the sentences, with the name and line of the file that each came from.
- `layer_NN-….safetensors`: one vector per context, a unit direction; row i is context i at every layer.

The model had read each sentence only up to the context's token. No file is a pickle.
{warnings}
## What it is not

- It answers for one language model: only hidden states of the same weights can be looked up in it, alone or inside a
  vision-language model. Opening it compares fingerprints.
- It is not for comparing sentences: a row is one token's state, not an embedding of its text.
- A nearest context shows what a state is like, not what the model does with it.
- The sentences are the corpus's, with its languages, gaps, biases and licence. patchlens does not know them, so the
  header of this card names none.
"""


def card(manifest: Manifest, repo: str) -> str:
    """Write a bank's README.md for the Hub.

    Args:
        manifest: What bank.json says.
        repo: Its name there, "owner/name".
    """
    made = manifest.provenance
    # Only a model with a revision came from the Hub; another's name may be a path on somebody's disk.
    model = made.model if made.revision else PurePath(made.model).name or made.model
    tables = {"contexts": layout.CONTEXTS, "sentences": layout.SENTENCES}
    header: dict[str, Any] = {
        "pretty_name": f"Contextual embeddings of {model}",
        "tags": ["patchlens", "latentlens", "interpretability", "contextual-embeddings"],
        **({"base_model": made.model} if made.revision else {}),
        "size_categories": [_size(manifest.rows)],
        "configs": [{"config_name": name, "data_files": file} for name, file in tables.items()],
    }
    imported = made.settings.get("imported")
    warnings = imported.get("warnings") if isinstance(imported, dict) else None
    return _CARD.format(
        # JSON is YAML too, and quotes what must be quoted.
        header="\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in header.items()),
        title=_text(f"Contextual embeddings of {model}"),
        model=_text(model),
        repo=repo,
        layer=manifest.layers[0],
        facts="\n".join(f"| {name} | {_text(said)} |" for name, said in _facts(manifest).items()),
        warnings="".join(f"\n**Beware.** {_text(said)}\n" for said in warnings) if isinstance(warnings, list) else "",
    )


def _facts(manifest: Manifest) -> dict[str, str]:
    made, settings, corpus = manifest.provenance, manifest.provenance.settings, manifest.corpus
    size = sum(file["bytes"] for file in manifest.files.values())
    chosen = "as imported from latentlens"
    if settings.get("per_token") is not None:
        chosen = f"{settings['choose']}, at most {settings['per_token']} per token, words {settings['words']}"
    return {
        "contexts": f"{manifest.rows:,}",
        "layers": f"{', '.join(map(str, manifest.layers))} (layer i is the output of the i-th block, counted from one)",
        "vectors": f"{manifest.d_model} × {manifest.dtype}",
        "size": f"{size / 1e6:,.1f} MB",
        "revision of the model": made.revision or "none recorded",
        "weights": made.fingerprint,
        "tokenizer": made.tokenizer,
        "computed in": _known(settings.get("compute_dtype")),
        "corpus": f"{_count(corpus.get('sentences'))} sentences, {_count(corpus.get('tokens'))} tokens; sha256 "
        f"{corpus.get('sha256')}",
        "contexts chosen": chosen,
        "made with": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
    }


def _known(value: JSON) -> str:
    return "unknown" if value is None else str(value)


def _count(value: JSON) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"


def _size(rows: int) -> str:
    """As the Hub names sizes."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
    return names[min(max(len(str(rows)) - 3, 0), len(names) - 1)]


def _text(said: object) -> str:
    """Plain text in Markdown: no table, link or markup of its own."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in str(said)).replace(
        "\n", " "
    )
