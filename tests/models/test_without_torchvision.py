import sys

import pytest
from transformers.models.auto import processing_auto
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.utils.import_utils import is_torchvision_available

from patchlens.models.without_torchvision import processor_class, torchvision_optional


@pytest.mark.parametrize("name", ["PixtralProcessor", "LlavaProcessor"])
def test_a_processor_that_prepares_with_pillow_can_be_made(name: str) -> None:
    found = processor_class(name)
    assert found.__name__ == name
    assert not getattr(found, "is_dummy", False)


def test_what_there_is_not() -> None:
    assert processor_class("NoSuchProcessor") is None


def test_no_stand_in_stays_behind() -> None:
    module = "transformers.models.pixtral.image_processing_pixtral"
    before = (processing_auto.processor_class_from_name, AutoVideoProcessor.from_pretrained)

    def interrupted() -> None:
        with torchvision_optional():
            processing_auto.processor_class_from_name("PixtralProcessor")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (processing_auto.processor_class_from_name, AutoVideoProcessor.from_pretrained) == before
    assert module not in sys.modules or is_torchvision_available()
