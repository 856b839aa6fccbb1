import pytest

from patchlens.bank.bank import Bank
from patchlens.errors import OptionError
from patchlens.lenses.lens import Lens
from patchlens.lenses.registry import LENSES, make_lens
from patchlens.models.model import Model


def test_each_lens_has_the_name_it_is_registered_by(tiny_llava: Model, bank: Bank) -> None:
    assert list(LENSES) == ["latent", "logit", "embedding"]
    for name in LENSES:
        lens = make_lens(name, tiny_llava, bank)
        assert isinstance(lens, Lens)
        assert lens.name == name


def test_an_unknown_lens(tiny_llava: Model) -> None:
    with pytest.raises(OptionError, match=r"'tuned'.*latent, logit, embedding"):
        make_lens("tuned", tiny_llava)


def test_the_latent_lens_needs_a_bank(tiny_llava: Model) -> None:
    with pytest.raises(OptionError, match="needs a bank"):
        make_lens("latent", tiny_llava)
