"""Workers of a Dask scheduler as an executor. Wants the package `distributed` (`pip install flynn[dask]`)."""

from __future__ import annotations

import contextlib

from ..errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Executor
    from typing import Iterator, Tuple

_TIMEOUT = 30  # seconds to reach the scheduler


@contextlib.contextmanager
def executor(address: str) -> Iterator[Tuple[Executor, int]]:
    """The workers of a scheduler, and how many threads they have now.

    Args:
        address: e.g. `tcp://host:8786`.

    Raises:
        ConfigError: `distributed` is not installed, or there is no scheduler.
    """
    try:
        from distributed import Client  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ConfigError("--dask needs the package distributed: pip install flynn[dask]") from None
    try:
        client = Client(address, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler at {address}: {error}") from None
    with client, client.get_executor(pure=False, retries=0) as workers:
        yield workers, max(1, sum(client.nthreads().values()))
