import json
import subprocess
import sys

import pytest

from patchlens.errors import OptionError
from patchlens.provenance import Provenance

RECORD = Provenance(
    kind="bank",
    model="picturebook",
    revision=None,
    fingerprint="abc",
    tokenizer="def",
    versions={"patchlens": "0.1.0"},
    settings={"layers": [1, 2], "seed": 0},
    created="2026-01-01T00:00:00+00:00",
)


def test_a_record_survives_being_written_down() -> None:
    assert Provenance.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_the_time_may_be_missing() -> None:
    record = RECORD.to_json()
    del record["created"]
    assert Provenance.from_json(record).created is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record.pop("model"), "missing: model"),
        (lambda record: record.update(colour="red"), "unknown: colour"),
        (lambda record: record.update(fingerprint=7), "wrong kind: fingerprint"),
        (lambda record: record.update(versions={"torch": 2}), "wrong kind: versions"),
        (lambda record: record.update(settings=None), "wrong kind: settings"),
        (lambda record: record.update(revision=1), "wrong kind: revision"),
    ],
)
def test_wrong_fields_are_named(change: object, told: str) -> None:
    record = RECORD.to_json()
    change(record)
    with pytest.raises(OptionError, match=told):
        Provenance.from_json(record)


def test_what_must_not_need_torch_does_not() -> None:
    modules = "patchlens.provenance, patchlens.storage, patchlens.inputs.words, patchlens.inputs.corpus"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)
