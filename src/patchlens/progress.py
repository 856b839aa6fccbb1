"""How long work reports where it is; who draws it (or does not) is the caller's affair."""

from collections.abc import Callable

__all__ = ["Report", "silent"]

Report = Callable[[str, int, int], None]
"""Called as `report(stage, done, total)`; `total` is the same on every call of one stage."""


def silent(stage: str, done: int, total: int) -> None:
    """The report of a caller that wants none."""
