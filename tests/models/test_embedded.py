from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from patchlens.errors import ModelError, ModelNotFound, OptionError
from patchlens.models import embedded as module
from patchlens.models.embedded import GROUP, Embedded, embedded, embedded_names
from patchlens.models.loading import load_model

OFFERED: Embedded | None = None
NOT_ONE = "a string"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Entry points as an installed package would add them; they name attributes of this file."""

    def install(**entries: str) -> None:
        points = EntryPoints(EntryPoint(name, value, GROUP) for name, value in entries.items())
        monkeypatch.setattr(module, "entry_points", lambda **wanted: points.select(**wanted))

    return install


@pytest.fixture
def storybook(installed, monkeypatch: pytest.MonkeyPatch, llava_folder) -> Embedded:
    made = Embedded("storybook", llava_folder(), lambda: ["A cat."], {"layers": "1,2"}, "A test model.")
    monkeypatch.setitem(globals(), "OFFERED", made)
    installed(storybook=f"{__name__}:OFFERED")
    return made


def test_found_by_name(storybook: Embedded) -> None:
    assert embedded("storybook") is storybook
    assert embedded("picturebooks") is None
    assert embedded_names() == ("storybook",)


def test_loaded_by_name_as_any_folder_is(storybook: Embedded) -> None:
    model = load_model("storybook")
    assert model.name == "storybook"
    assert model.revision is None
    assert model.fingerprint == load_model(storybook.folder).fingerprint
    assert load_model(model) is model


def test_it_has_no_revisions(storybook: Embedded) -> None:
    with pytest.raises(OptionError, match="revision 'v2'"):
        load_model("storybook", revision="v2")


def test_what_cannot_be_found_is_told_what_there_is(storybook: Embedded, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="'storybook'"):
        load_model(str(tmp_path / "nothing"))


def test_a_package_that_cannot_be_imported(installed) -> None:
    installed(broken="no_such_package_at_all:MODEL")
    with pytest.raises(ModelError, match=r"'broken'.*no_such_package_at_all"):
        embedded("broken")


def test_a_package_that_offers_something_else(installed) -> None:
    installed(odd=f"{__name__}:NOT_ONE")
    with pytest.raises(ModelError, match="is a str and not an Embedded"):
        embedded("odd")
