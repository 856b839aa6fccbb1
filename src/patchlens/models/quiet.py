"""Transformers without its chatter, for as long as a block runs."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging

__all__ = ["quiet"]

# What is set and put back is global, here and inside transformers' own loading, which replaces
# `PreTrainedModel.tie_weights` meanwhile: of two threads at once, the second would put back the first one's stand-in.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages, warnings and loading bars of transformers, and put everything back.

    The Hub's download bars stay as they are: a person who waits for gigabytes should see them. One thread at a time.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        level, hub_level = logging.get_verbosity(), hub_logging.get_verbosity()
        bars, hub_bars = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
        try:
            logging.set_verbosity(logging.CRITICAL)
            hub_logging.set_verbosity(logging.CRITICAL)
            _show_bars(False, hub_bars)
            warnings.simplefilter("ignore")
            yield
        finally:
            logging.set_verbosity(level)
            hub_logging.set_verbosity(hub_level)
            _show_bars(bars, hub_bars)


def _show_bars(loading: bool, downloads: bool) -> None:
    # Transformers' switch moves the Hub's too, so the Hub's is set again after it.
    if loading:
        logging.enable_progress_bar()
    else:
        logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
