"""Workers of a build as actors of a Ray cluster, which brings back those that die. The extra `ray`.

The actors do what `bank.workers.join` does; Ray only starts them where there is room, and again when they or their
machines die. They and this process must see the build folder under the same path.
"""

import logging
import os
import signal
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from patchlens.bank.journal import Record, complete
from patchlens.bank.workers import POLL_SECONDS, Advance, join
from patchlens.errors import BankError, MissingExtra

__all__ = ["check_installed", "run"]


def check_installed() -> None:
    """Make sure that Ray is there.

    Raises:
        MissingExtra: It is not.
    """
    if find_spec("ray") is None:
        raise MissingExtra("Building a bank with Ray needs an extra: pip install 'patchlens[ray]'.")


def run(folder: Path, record: Record, workers: int, advance: Advance) -> None:
    """Have actors work on a build until it is complete.

    A cluster that this process is connected to, that RAY_ADDRESS names or that runs on this machine is used, or else
    one is started here and stopped at the end.

    Args:
        folder: Of the build.
        record: What it makes.
        workers: How many actors; those that the cluster has no room for wait, or it grows.
        advance: Told now and then.

    Raises:
        PatchlensError: What an actor raised, or Ray itself.
    """
    import ray

    ours = not ray.is_initialized()
    threads = record.threads or 1
    if ours:
        _init(workers * threads)
    actors: list[Any] = []
    try:
        each = {"num_gpus": 1} if record.device == "cuda" else {"num_cpus": threads}
        # An actor that dies is started again and begins its only task anew, which goes on where the journals end.
        remote = ray.remote(max_restarts=-1, max_task_retries=-1, **each)(BankWorker)
        actors += [remote.remote() for _ in range(workers)]
        device = "cuda:0" if record.device == "cuda" else record.device  # Ray shows each actor its own GPU alone
        tasks = [actor.work.remote(str(folder), number, workers, device) for number, actor in enumerate(actors)]
        while not complete(folder, record):
            ended, tasks = ray.wait(tasks, timeout=POLL_SECONDS)
            for task in ended:
                _check(task)
            advance(None, 0)
    finally:
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()


class BankWorker:
    """The actor."""

    def work(self, folder: str, number: int, workers: int, device: str) -> None:
        """See `join`."""
        join(Path(folder), number, workers, device)


def _init(cpus: int) -> None:
    import ray

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    asked_to_end = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(num_cpus=max(cpus, os.cpu_count() or 1), **quiet)
    except ValueError:  # there is a cluster, whose size is not ours to choose
        ray.init(**quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, asked_to_end)  # Ray's own would end the process without unwinding the build


def _check(task: Any) -> None:
    import ray

    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise BankError(
            f"Building a bank with Ray: a worker was lost for good ({next(iter(str(error).splitlines()), '')}). Check "
            "the cluster, and run the same again."
        ) from error
