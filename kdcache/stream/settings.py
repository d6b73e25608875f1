"""`stream`: the order in which a training run sees its examples."""

from pydantic import PositiveFloat

from kdcache.config.base import Config, Count

__all__ = ["StreamConfig"]


class StreamConfig(Config):
    """The order of examples, which is the same at every world size.

    lanes: fixed streams of examples. The number of lanes divides global_batch, and the world size divides it.
    window: a lane shuffles its examples inside windows of so many examples.
    memory_gb: how many GB (10⁹ bytes) a rank gives to shards being read and examples read ahead.
    """

    lanes: Count = 64
    window: Count = 256
    memory_gb: PositiveFloat = 2.0
