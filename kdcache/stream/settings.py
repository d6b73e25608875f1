"""`stream`: the order in which a training run sees its examples."""

from pydantic import NonNegativeInt, PositiveFloat

from kdcache.config.base import Config, Count, PathText

__all__ = ["MixedCache", "StreamConfig"]


class MixedCache(Config):
    """One cache of a mixture.

    path: its folder or URL.
    weight: how much of each global batch is from it, beside the weights of the others; they need not sum to 1.
    """

    path: PathText
    weight: PositiveFloat = 1.0


class StreamConfig(Config):
    """The order of examples, which is the same at every world size.

    lanes: fixed streams of examples, so many places of the cache from which steps take their own. The number of lanes
        divides global_batch, or is a multiple of it: then each step takes of other lanes than the steps before. The
        world size divides both. By default it is the largest such number up to 256, with length_groups up to 256 /
        length_blocks, and of a small cache at most a 64th of its examples. A mixture of K caches has up to a K-th of
        that, and at most as many as its smallest cache has examples.
    length_groups: into how many groups of examples of like length a global batch falls, for less padding where a rank's
        part of it is few micro-batches: their number, or a divisor of it, so that each is of one group. 0 leaves
        lengths to chance; a rank's part of a step is sorted by length all the same before it is cut. With 1 all of a
        step is of one length: least padding, but steps of short examples count as much as those of long ones. With 8
        the tokens of a step vary little more than by chance. Which of a lane's examples comes when then depends on its
        length and no more on the shuffle inside blocks; the order of blocks stays random (kdcache/stream/by_length.py).
    length_blocks: over how many blocks of a lane examples are sorted for that, all of them in use at one time. More of
        them, and fewer lanes, make lengths more alike: of log-normal lengths, 1 group of a global batch of 1,024 on 8
        ranks is padded by 1% at a micro-batch of 8 and 7% at one of 32 with 64 lanes of 4 blocks of 256 examples, and
        by 1% and 4% with 8 lanes of 32, where chance leaves 21% and 105%.
    memory_gb: how many GB (10⁹ bytes) a rank gives to blocks in use and read ahead. Two blocks (of about 2 MB) for each
        lane of the rank are enough to read each block once in an epoch, with length_groups two for each of
        length_blocks; twice the size of the decoded cache to read it once in the run. The caches of a mixture share it,
        in proportion to the blocks that their lanes are in.
    """

    lanes: Count | None = None
    length_groups: NonNegativeInt = 0
    length_blocks: Count = 4
    memory_gb: PositiveFloat = 2.0

    @property
    def stretch(self) -> int:
        """How many blocks a lane uses at one time."""
        return self.length_blocks if self.length_groups else 1
