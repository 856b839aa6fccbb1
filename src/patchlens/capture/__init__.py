"""Hidden states of one image or text: taken from a model, kept as a record, saved."""

import sys
from types import ModuleType
from typing import Any


class _FolderAndVerb(ModuleType):
    """This package, which can also be called as the verb of the same name.

    Importing any file of it makes Python bind `patchlens.capture` to the package, over the function that
    `patchlens.capture(...)` means; so the package passes the call on.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from patchlens.capture.capture import capture

        return capture(*args, **kwargs)


sys.modules[__name__].__class__ = _FolderAndVerb
