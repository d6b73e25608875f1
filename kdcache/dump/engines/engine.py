"""Engine: what runs a teacher. Examples go in, hidden states or logits of their positions come out.

P positions, V classes, D hidden width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kdcache.config.base import Config
from kdcache.errors import TeacherError
from kdcache.launcher import World
from kdcache.models.head import Head
from kdcache.targets.kind import RecordKind
from kdcache.targets.output_layer import OutputLayer
from kdcache.tasks import Example, Task

if TYPE_CHECKING:
    from kdcache.dump.settings import ComputeConfig, TeacherConfig

__all__ = ["Engine", "EngineSettings", "Rows", "Wanted", "known_output_layer"]

Rows = tuple[slice, Tensor, Tensor | None]
"""Which of the positions, their float32 logits [P, V], and what the output layer is fed with [P, D], or None."""


@dataclass(frozen=True)
class Wanted:
    """What an engine is to load.

    Attributes:
        teacher: Which model, and how it is placed.
        compute: Its device and the sizes of batches and blocks.
        world: Which rank this is.
        devices: This rank's.
        task: What the teacher is asked.
        num_classes: Columns of its logits.
        records: What is kept of it.
        fed_with: The tokenizer whose tokens it reads.
        examples: Gives some of the run's own, to try it out with.
    """

    teacher: "TeacherConfig"
    compute: "ComputeConfig"
    world: World
    devices: Sequence[torch.device]
    task: Task
    num_classes: int
    records: Sequence[RecordKind]
    fed_with: Any
    examples: Callable[[], Sequence[Example]]


class Engine(ABC):
    """A teacher that is loaded.

    Attributes:
        device: Where its logits lie.
        num_classes: Columns of them that are given.
    """

    device: torch.device
    num_classes: int

    @abstractmethod
    def rows_of(self, examples: Sequence[Example], *, transient: bool = False) -> Iterator[Rows]:
        """What the teacher says at the positions of a batch, block by block.

        Args:
            examples: Of the batch; the blocks' positions are those of all of them in order.
            transient: Whether a block's logits may be overwritten when the next one is asked for.
        """

    @abstractmethod
    def hidden_of(self, examples: Sequence[Example]) -> Tensor:
        """The inputs of the output layer at these examples' positions, [P, D]. Of an engine with an `output_layer`."""

    @abstractmethod
    def output_layer(self) -> OutputLayer:
        """The layer that makes the logits of `hidden_of`, with the model's soft-cap and scale.

        Raises:
            TeacherError: That is not what the model does.
        """

    @abstractmethod
    def try_out(self, wanted: Wanted, longest: int) -> None:
        """Find out how the teacher is to be run, so that what it says of an example depends on nothing else.

        Args:
            wanted: What it was loaded for.
            longest: Tokens of an example at most.

        Raises:
            TeacherError: It cannot be used.
        """

    @property
    @abstractmethod
    def ways(self) -> dict[str, Any]:
        """How it is run, as the header of a cache pins it in `compute`."""

    @abstractmethod
    def run_as(self, ways: Mapping[str, Any]) -> None:
        """Run it as a cache was begun, instead of trying it out.

        Raises:
            TeacherError: It cannot be run so.
        """


def known_output_layer(head: Head) -> OutputLayer:
    """`Engine.output_layer` of an engine that has a head of transformers.

    Raises:
        TeacherError: What the head does is not known as a formula.
    """
    layer = head.output_layer()
    if layer is None:
        raise TeacherError(
            f"the logits of {type(head.model).__name__} are not its output layer's of its hidden states, expected "
            "cap(scale · (W h + b)): its records cannot be factored; use another record.kind"
        )
    return layer


class EngineSettings(Config, ABC):
    """The settings of an engine, `teacher.engine`; it loads the engine. A subclass has a field `kind`.

    Attributes:
        kind: The engine's name.
        pinned: The names of `Engine.ways`.
    """

    kind: str
    pinned: ClassVar[tuple[str, ...]] = ()

    def check(self, teacher: "TeacherConfig", task: Task) -> None:  # nothing to check is the usual case
        """Compare the other settings of a teacher, and the task, with the engine's.

        Raises:
            ValueError: They do not go together; the message says what was got and what is expected.
        """

    def gpus(self, teacher: "TeacherConfig") -> int:
        """How many GPUs of a node one copy of the teacher takes."""
        return 1

    @abstractmethod
    def load(self, wanted: Wanted) -> Engine:
        """Load a teacher.

        Raises:
            TeacherError: It does not load, or cannot be used for what is wanted.
            ConfigError: The settings do not fit the machine.
        """
