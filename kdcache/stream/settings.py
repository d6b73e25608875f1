"""`stream`: the order in which a training run sees its examples."""

from pydantic import PositiveFloat, PositiveInt

from kdcache.config.base import Config

__all__ = ["StreamConfig"]


class StreamConfig(Config):
    """The order of examples. lanes divides global_batch; the world size divides lanes.

    window: a lane shuffles its examples inside windows of so many. memory_gb: shards kept open by a rank.
    """

    lanes: PositiveInt = 64
    window: PositiveInt = 256
    memory_gb: PositiveFloat = 2.0
