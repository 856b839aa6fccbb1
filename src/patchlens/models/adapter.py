"""The few questions that every model family answers. It knows no family."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from patchlens.axes import Int
from patchlens.inputs.image import ImageInput
from patchlens.models.patch_grid import PatchGrid

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["Adapter", "Prepared"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image and prompt, ready for a model."""

    inputs: dict[str, Tensor]
    """What `network(**inputs)` takes; a batch of one, on the CPU."""

    token_ids: Int[Tensor, " position"]
    """The whole sequence, with one placeholder per visual token."""

    visual_positions: Int[Tensor, " token"]
    """Where the visual tokens stand in the sequence, in (row, column) order; empty without an image."""

    grid: PatchGrid | None
    """Where they lie in the image; None without an image."""


class Adapter(ABC):
    """What patchlens has to know about one family of models. Leaves are not subclassed."""

    family: ClassVar[str]
    """Name shown to people."""

    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` values of config.json that it serves."""

    modalities: ClassVar[tuple[str, ...]]
    """What it takes besides a prompt and including it: ("text",) or ("image", "text")."""

    @abstractmethod
    def prepare(self, model: "patchlens.models.model.Model", image: ImageInput | None, prompt: str) -> Prepared:
        """Turn an image and a prompt into the model's inputs.

        Args:
            model: The loaded model; its processor and tokenizer are used, its network is not run.
            image: The image, or None for text alone.
            prompt: Plain text. Where the processor has a chat template the prompt becomes a user's turn; a
                prompt that already holds the image placeholder is taken as it is.

        Returns:
            The inputs, with as many visual positions as the grid has cells.

        Raises:
            PromptError: The prompt does not fit the model.
            ImageError: The image does not fit the model.
            OptionError: An image for a model that takes none.
            ModelIncomplete: The processor and the model disagree about the number of visual tokens.
        """
