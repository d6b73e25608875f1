"""The teacher: load it where the config says, and give its logits in blocks of positions, with their hidden states.

The body runs once for each batch, and the head (models/head.py) for each block of supervised positions, so that never
more than a block of positions × V exists. From the output layer on all is float32, whatever the model's dtype. A model
whose head cannot be run apart from its body gives whole batches of logits instead, and no hidden states.

B examples, L tokens, P positions, V classes, D hidden width.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from kdcache.dump.engines.engine import Rows, known_output_layer
from kdcache.dump.engines.model_engine import ModelEngine
from kdcache.dump.placements.placement import placement_of
from kdcache.dump.settings import ComputeConfig, TeacherConfig
from kdcache.errors import ConfigError, TeacherError, one_line
from kdcache.launcher import World, find_device
from kdcache.models.feeding import Feeding
from kdcache.models.head import Head
from kdcache.models.hub import model_folder
from kdcache.models.inputs import Attention, ModelInputs
from kdcache.models.loading import auto_class
from kdcache.models.wide_linear import HALF
from kdcache.progress import say
from kdcache.targets.host import to_device
from kdcache.targets.output_layer import OutputLayer
from kdcache.tasks import Task

__all__ = ["Teacher", "load_model", "load_teacher", "own_devices", "teacher_folder"]


def teacher_folder(config: TeacherConfig, *, weights: bool = True) -> str:
    """The folder of the teacher's files; a hub name is fetched first (safetensors only, no pickle).

    weights: False where its config and tokenizer are enough.

    Raises TeacherError when there is no such model.
    """
    folder = model_folder(
        config.path,
        what="teacher",
        error=TeacherError,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        weights=weights,
    )
    if not (folder / "config.json").is_file() or (weights and not any(folder.glob("*.safetensors"))):
        raise TeacherError(
            f"{folder} holds no config.json with *.safetensors; expected a model saved by save_pretrained"
        )
    return str(folder)


def load_teacher(
    config: TeacherConfig,
    compute: ComputeConfig,
    world: World,
    *,
    task: Task,
    num_classes: int,
    features: bool = False,
) -> "Teacher":
    """Load, place and check a causal language model. features: whether its hidden states are recorded.

    Raises TeacherError when it does not load, has fewer classes than num_classes, or no hidden states to record.
    """
    model, device = load_model(config, compute, world, task)
    feeding = replace(Feeding.of(model, cast(Attention, task.attention)), pad=0)
    teacher = Teacher(model, device, num_classes, compute.block_positions_on(device.type), feeding=feeding)
    if features and not teacher.gives_hidden_states:
        raise TeacherError(
            f"got a record of features and a teacher, {type(model).__name__}, whose head cannot be run apart from its "
            "body, expected one whose hidden states can be told: drop that record"
        )
    return teacher


def load_model(config: TeacherConfig, compute: ComputeConfig, world: World, task: Task) -> tuple[Any, torch.device]:
    """The model, placed, and the device of its inputs. Raises TeacherError when it does not load whole."""
    devices = own_devices(config, compute, world)
    folder = teacher_folder(config)
    try:
        model = placement_of(config).load(auto_class(task), folder, config, devices, world.replica)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise TeacherError(f"the teacher {config.path} does not load: {one_line(error)}") from None
    return model.eval().requires_grad_(False), devices[0]


def own_devices(config: TeacherConfig, compute: ComputeConfig, world: World) -> list[torch.device]:
    """The devices of this rank: disjoint groups of gpus_per_replica on a node, or the CPU."""
    if find_device(compute.device, "compute.device:") == "cpu":
        return [torch.device("cpu")]
    group = config.engine.gpus(config)
    first = world.local_rank * group
    available = torch.cuda.device_count()
    if first + group > available:
        raise ConfigError(
            f"{world.word} {world.rank} needs GPUs {first} to {first + group - 1} of its node, which has {available}; "
            f"expected ranks per node × {group}, the GPUs of one copy of the teacher, to be at most the GPUs of a node"
        )
    return [torch.device("cuda", first + i) for i in range(group)]


class Teacher(ModelEngine):
    """A placed model. `rows` gives rows of the first num_classes logits in float32.

    feeding: how it is fed.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        num_classes: int,
        block_positions: int,
        *,
        feeding: Feeding = Feeding("document"),  # noqa: B008  # frozen
    ) -> None:
        self.model, self.device, self.feeding = model, device, feeding
        self.num_classes, self.block_positions = num_classes, block_positions
        self.head = Head(model, probed=True)
        self._memory = torch.empty(0)
        self._check_logits()

    @property
    def gives_hidden_states(self) -> bool:
        """Whether `rows` gives what the output layer is fed with."""
        return self.head.splits

    @torch.inference_mode()
    def rows(self, inputs: ModelInputs, flat_P: Tensor, *, transient: bool = False) -> Iterator[Rows]:
        """(which of the P positions, their logits, the output layer's inputs or None) block by block.

        flat_P: indices into B·L. transient: whether a block's logits may be overwritten when the next one is asked for.
        """
        if not self.head.splits:
            logits_PV = self.model(**self._arguments(inputs)).logits.flatten(0, 1)[flat_P.to(self.device)]
            yield from ((part, self._kept(logits_PV[part]), None) for part in self._blocks(len(flat_P)))
            return
        hidden_PD = self.hidden(inputs, flat_P)
        for part in self._blocks(len(flat_P)):
            memory = self._room(part.stop - part.start) if transient else None
            yield part, self._kept(self.head.logits(hidden_PD[part], memory=memory)), hidden_PD[part]

    @torch.inference_mode()
    def hidden(self, inputs: ModelInputs, flat_P: Tensor) -> Tensor:
        """The inputs of the output layer at these positions, [P, D]. For a teacher that has an `output_layer`."""
        there_P = to_device(flat_P, self.device)
        hidden_BLD = self.head.hidden(**self._arguments(inputs))
        return hidden_BLD.flatten(0, 1)[there_P.to(hidden_BLD.device)]

    @torch.inference_mode()
    def output_layer(self) -> OutputLayer:
        """The layer that makes the logits of `hidden`, with the model's soft-cap and scale.

        Raises:
            TeacherError: that is not what the model does.
        """
        return known_output_layer(self.head)

    def _blocks(self, count: int) -> Iterator[slice]:
        return (slice(i, min(i + self.block_positions, count)) for i in range(0, count, self.block_positions))

    def _room(self, count: int) -> Tensor | None:
        """Memory for the logits of so many positions, always the same; None on a GPU, where torch does that itself."""
        if self.device.type != "cpu" or self.head.layer is None:
            return None
        wanted = count * self.head.layer.out_features
        if self._memory.numel() < wanted:
            self._memory = torch.empty(wanted)
        return self._memory

    def _kept(self, logits_PV: Tensor) -> Tensor:
        return logits_PV[:, : self.num_classes].float()

    def _arguments(self, inputs: ModelInputs) -> dict[str, Any]:
        arguments = {name: to_device(tensor, self.device) for name, tensor in inputs.arguments.items()}
        return {**arguments, "use_cache": False}

    def _check_logits(self) -> None:
        """Raises TeacherError for too few classes, and warns of logits that are rounded in spite of the wide layer."""
        found = self.head.found
        assert found is not None
        if found.dtype in HALF:
            say(
                f"warning: {type(self.model).__name__} gives its logits in {str(found.dtype).removeprefix('torch.')}, "
                "rounded before the softmax; set teacher.dtype: float32 to have them whole"
            )
        if found.num_rows < self.num_classes:
            raise TeacherError(
                f"got a teacher with {found.num_rows} classes, expected at least the tokenizer's "
                f"{self.num_classes}; the tokenizer is not this teacher's, or set task.num_classes: "
                f"{found.num_rows} where no text contains the ids above"
            )
