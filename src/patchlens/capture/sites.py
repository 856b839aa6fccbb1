"""Where states are taken from: the language model's stream, the vision encoder, either side of the projector."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from patchlens.axes import Float, Int
from patchlens.capture.hidden_states import SITES
from patchlens.errors import OptionError
from patchlens.models.adapter import Prepared
from patchlens.models.hooks import observe, watch
from patchlens.models.model import Model
from patchlens.models.site import resolve_layers
from patchlens.models.token_map import TokenMap

__all__ = ["Place", "places"]

Keep = Callable[[int, Tensor], None]


class Place(ABC):
    """A site of one model: which layers it has, which rows of its states are wanted, how to see them."""

    on_sequence = False
    """Its rows are positions of the sequence."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def layers(self, asked: object) -> tuple[int, ...]:
        """The layers that exist here among those asked for."""

    @abstractmethod
    def chosen(self, prepared: Prepared, row: int, positions: str) -> tuple[Int[Tensor, " token"], TokenMap] | None:
        """Which rows are wanted of one prompt, and what they hold; None for all that there are, without places."""

    @abstractmethod
    def observe(self, layers: tuple[int, ...], keep: Keep) -> AbstractContextManager[None]:
        """Show the states while the body runs the model."""

    @abstractmethod
    def rows(self, state: Tensor, number: int, wanted: Int[Tensor, " token"] | None) -> Float[Tensor, "token d_model"]:
        """The wanted rows of one prompt's states."""


def places(model: Model, site: str, positions: str) -> Place:
    """Find a site in a model.

    Raises:
        OptionError: There is no such site, or this model does not have it.
    """
    if site not in SITES:
        raise OptionError(f"There is no site {site!r} to capture at. Choose among {', '.join(SITES)}.")
    if site == "language":
        beside = model.adapter.beside_sequence and "visual" in positions.split(",")
        if beside and positions != "visual":
            raise OptionError(
                f"The visual tokens of {model.name} lie beside its sequence and have layer 0 alone, so they cannot be "
                f"captured together with {positions.replace('visual', '').strip(',')} tokens. Capture each by itself."
            )
        return _Beside(model) if beside else _Stream(model)
    if model.processor is None:
        raise OptionError(f"{model.name} reads text alone, so it has no {site}. Capture at the site 'language'.")
    return _Encoder(model) if site == "encoder" else _Projector(model, site)


class _Stream(Place):
    """The language model's residual stream, at positions of the sequence."""

    on_sequence = True

    def layers(self, asked: object) -> tuple[int, ...]:
        return resolve_layers(asked, self.model.n_layers)

    def chosen(self, prepared: Prepared, row: int, positions: str) -> tuple[Tensor, TokenMap]:
        tokens = prepared.sequences[row].tokens
        visual, answer = tokens.visual, tokens.having("answer")
        kinds = {"visual": visual, "text": ~visual & ~answer, "answer": answer, "all": torch.ones_like(visual)}
        rows = torch.nonzero(torch.stack([kinds[kind] for kind in positions.split(",")]).any(dim=0))[:, 0]
        if not len(rows):
            why, what = {
                "visual": ("no image was given", "Give one to a vision-language model, or ask for positions='text'"),
                "answer": ("no answer was asked for", "Pass answer=20, or a text"),
            }.get(positions, ("the prompt has none", "Ask for positions='all'"))
            raise OptionError(f"There are no {positions} tokens to capture from {self.model.name}: {why}. {what}.")
        return rows, tokens.take(rows)

    def observe(self, layers: tuple[int, ...], keep: Keep) -> AbstractContextManager[None]:
        return observe(self.model.blocks, layers, keep, then_stop=True)

    def rows(self, state: Tensor, number: int, wanted: Tensor | None) -> Tensor:
        return state[number] if wanted is None else state[number, wanted.to(state.device)]


class _OneLayer(Place):
    """A module that runs once, seen as layer 0."""

    what = "what leaves the projector"

    def layers(self, asked: object) -> tuple[int, ...]:
        if asked != "all" and resolve_layers(asked, self.model.n_layers) != (0,):
            raise OptionError(
                f"Only layer 0 can be captured of {self.model.name} here: {self.what}, which passes through no block. "
                "Ask for layers=0."
            )
        return (0,)


class _Beside(_OneLayer):
    """The visual states of a model whose blocks look at them by cross-attention."""

    what = "its visual states lie beside the sequence"

    def chosen(self, prepared: Prepared, row: int, positions: str) -> tuple[Tensor, TokenMap]:
        from patchlens.inputs.image import ImageInput
        from patchlens.inputs.prompt import Prompt
        from patchlens.models.adapter import Request

        model, sources = self.model, prepared.sequences[row].sources
        images = tuple(source for source in sources if isinstance(source, ImageInput))
        if not images:
            raise OptionError(f"There are no visual tokens to capture from {model.name}: no image was given.")
        tokens = model.adapter.visual_map(model.config, model.processor, Request(Prompt(""), images))
        rows = torch.nonzero(tokens.visual)[:, 0]
        return rows, tokens.take(rows)

    def observe(self, layers: tuple[int, ...], keep: Keep) -> AbstractContextManager[None]:
        module = self.model.adapter.visual_module(self.model.network)
        return watch(module, lambda _, output: keep(0, output), then_stop=True)

    def rows(self, state: Tensor, number: int, wanted: Tensor | None) -> Tensor:
        flat = state.flatten(0, -2)
        return flat if wanted is None else flat[wanted.to(state.device)]


class _Flat(Place):
    """States in an order of the encoder's own, all of them, without places; how many, only running it says."""

    def chosen(self, prepared: Prepared, row: int, positions: str) -> None:
        sources = prepared.sequences[row].sources
        if not sources:
            raise OptionError(
                f"This part of {self.model.name} does not run without an image or a recording. Give one, or capture at "
                "the site 'language'."
            )

    def rows(self, state: Tensor, number: int, wanted: Tensor | None) -> Tensor:
        return state.flatten(0, -2)


class _Encoder(_Flat):
    """The vision (or speech) encoder's blocks: layer 0 enters the first, layer i leaves the i-th."""

    def layers(self, asked: object) -> tuple[int, ...]:
        return resolve_layers(asked, len(self.model.encoder_blocks))

    def observe(self, layers: tuple[int, ...], keep: Keep) -> AbstractContextManager[None]:
        return observe(self.model.encoder_blocks, layers, keep, then_stop=True)


class _Projector(_OneLayer, _Flat):
    """What goes into the module between encoder and language model, or what comes out."""

    def __init__(self, model: Model, site: str) -> None:
        super().__init__(model)
        self.what = f"the {site}"
        self._inward = site == "projector input"

    @contextmanager
    def observe(self, layers: tuple[int, ...], keep: Keep) -> Iterator[None]:
        projector: nn.Module = self.model.projector
        with watch(projector, lambda given, output: keep(0, given if self._inward else output), then_stop=True):
            yield
