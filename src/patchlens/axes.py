"""Axis names used in shape annotations; the same word always means the same size.

The test run checks them (jaxtyping with beartype); production pays nothing and does not need jaxtyping.
Modules that use them leave out `from __future__ import annotations`, which would defeat the check.

    layer     entries of a tuple of layers, in its order
    pack      sequences of one forward pass, each holding many runs
    position  places in a sequence, padding included
    token     positions kept from one sequence
    d_model   width of the language model's residual stream
    vocab     rows of the vocabulary
    row       rows of a bank
    query     vectors that are searched for
    k         matches per query, best first
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num
else:
    try:
        from jaxtyping import Bool, Float, Int, Num
    except ImportError:

        class _Unchecked:
            """Stands in for jaxtyping's types where it is not installed: the array type itself."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Num = _Unchecked

__all__ = ["Bool", "Float", "Int", "Num"]
