"""The only file that touches torch hooks: context managers that leave no hook behind.

It knows blocks and their order, not where in a model they are found. Layer 0 is the input of the first block,
layer i the output of the i-th block counted from one. Own hooks rather than `output_hidden_states`, because
the last entry of that tuple is after the final norm, and because only the wanted rows need be kept.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["observe", "watch"]


class _Enough(Exception):
    """Leaves a forward once its deepest wanted layer has been seen; never reaches a caller."""


@contextmanager
def observe(
    blocks: Sequence[nn.Module],
    layers: Collection[int],
    keep: Callable[[int, Tensor], None],
    *,
    then_stop: bool = False,
) -> Iterator[None]:
    """Show the residual stream at some layers while the body runs the model.

    Args:
        blocks: The language model's blocks, in order.
        layers: Which layers to show; 0 to `len(blocks)`.
        keep: Called once a layer and pass as `keep(layer, state)` with the state of shape (batch, position, d_model),
            the very tensor that the model goes on with: copy what must last, change nothing.
        then_stop: Leave the body after the deepest of `layers`, so that the blocks above it never run. By an
            exception, since not every family's loop can be cut short (some run over all blocks whatever their
            config says).

    Yields:
        Nothing; the hooks are gone when the body ends, however it ends.
    """
    deepest = max(layers)

    def see(layer: int, state: Tensor) -> None:
        keep(layer, state)
        if then_stop and layer == deepest:
            raise _Enough

    with ExitStack() as hooks:
        for layer in sorted(layers):
            for handle in _hooks(blocks, layer, see):
                hooks.callback(handle.remove)
        try:
            yield
        except _Enough:
            pass


@contextmanager
def watch(module: nn.Module, see: Callable[[Tensor, Tensor], None], *, then_stop: bool = False) -> Iterator[None]:
    """Show what goes into one module and what comes out of it while the body runs the model.

    Args:
        module: Called once in the body.
        see: Called as `see(given, output)` with the first tensor of either.
        then_stop: Leave the body after it.

    Yields:
        Nothing; the hook is gone when the body ends, however it ends.
    """

    def leaving(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        see(_first_tensor((*args, *kwargs.values())), _first_tensor(output))
        if then_stop:
            raise _Enough

    handle = module.register_forward_hook(leaving, with_kwargs=True)
    try:
        yield
    except _Enough:
        pass
    finally:
        handle.remove()


def _first_tensor(found: Any) -> Tensor:
    if isinstance(found, Tensor):
        return found
    values = found.values() if isinstance(found, dict) else found
    return next(each for each in values if isinstance(each, Tensor))


def _hooks(blocks: Sequence[nn.Module], layer: int, see: Callable[[int, Tensor], None]) -> Iterator[Any]:
    left = False  # whether the block below has given its output in this pass

    def leaving(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        nonlocal left
        left = True
        # A tensor in current transformers, a tuple that begins with it in older and remote code.
        see(layer, output if isinstance(output, Tensor) else output[0])

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal left
        if not left:
            # Mllama's vision encoder says "hidden_state".
            see(layer, args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "hidden_state"])
        left = False

    if layer > 0:
        yield blocks[layer - 1].register_forward_hook(leaving)
    if layer < len(blocks):
        # Of a block that is skipped, as Mllama skips cross-attention without an image, the output is what enters the
        # next.
        yield blocks[layer].register_forward_pre_hook(entering, with_kwargs=True)
