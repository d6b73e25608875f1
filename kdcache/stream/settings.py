"""`stream`: the order in which a training run sees its examples."""

from pydantic import PositiveFloat

from kdcache.config.base import Config, Count

__all__ = ["StreamConfig"]


class StreamConfig(Config):
    """The order of examples, which is the same at every world size.

    lanes: fixed streams of examples, so many places of the cache from which a step takes its own. The number of lanes
        divides global_batch, and the world size divides it. By default it is the largest divisor of global_batch up to
        256.
    memory_gb: how many GB (10⁹ bytes) a rank gives to blocks in use and read ahead. Two blocks (of about 2 MB) for each
        lane of the rank are enough to read each block once in an epoch, twice the size of the decoded cache to read it
        once in the run.
    """

    lanes: Count | None = None
    memory_gb: PositiveFloat = 2.0
