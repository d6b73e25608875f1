"""Vllm: the engine that has a teacher's body run by vLLM, in this process or by a server, and applies its head here.

vLLM gives the last layer's hidden states of each prompt (vllm_connector); the final norm and the output layer are read
from the checkpoint without the body, and make the same logits that the model makes, so that every kind of record works.
Documents that are packed into one example and must not see each other are prompts of their own.

Whether those states are what the head belongs to is looked at once, before the first shard: the head's
log-probabilities after some prompts must be those that vLLM itself gives. Some model files of vLLM give other states.

L tokens, P positions, V classes, D hidden width.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from kdcache.config.base import Count, LocalText
from kdcache.dump.engines.engine import Engine, EngineSettings, Rows, Wanted, known_output_layer
from kdcache.errors import TeacherError
from kdcache.models.head import Head
from kdcache.progress import say
from kdcache.targets.host import to_device
from kdcache.targets.output_layer import OutputLayer
from kdcache.tasks import Example, Task

if TYPE_CHECKING:
    from kdcache.dump.settings import TeacherConfig

__all__ = ["Prompts", "Vllm", "VllmEngine", "load_head"]

TOP = 20
"""Log-probabilities of vLLM's that are compared."""
TRIED = 8
"""Prompts."""
NO_BITS = {"gpu_memory_utilization", "max_model_len", "url", "folder", "in_flight"}
"""Settings that decide none."""
APART = {"float32": 0.005, "bfloat16": 0.15, "float16": 0.05}
"""How far they may be from the head's on the mean, in nats: vLLM rounds its logits to the model's precision."""


class Prompts(Protocol):
    """What reads prompts: vLLM in this process, or a server."""

    def states(self, prompts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """The last layer's hidden states of each prompt, [L, D], in order, before the final norm.

        Raises:
            TeacherError: They do not come, or not as many as tokens.
        """

    def top(self, prompts: Sequence[Sequence[int]]) -> Iterator[dict[int, float]]:
        """Token -> log-probability of some of the likeliest tokens after each prompt."""


class Vllm(EngineSettings):
    """A language model that vLLM runs. teacher.placement and attention_implementation are transformers' alone.

    There is no setting for data parallelism: each rank of a dump has a vLLM of its own, and a server has its own
    --data-parallel-size.

    tensor_parallel_size: over how many GPUs each layer is split.
    pipeline_parallel_size: over how many groups of GPUs the layers are spread.
    quantization: how the weights are quantised, as vLLM calls it; by default as the checkpoint says.
    gpu_memory_utilization: what share of a GPU's memory vLLM takes. The head and blocks of logits need the rest.
    max_model_len: tokens of a prompt at most, by default those of an example.
    arguments: further arguments of vllm.LLM, as they are.
    url: of a server that runs already, such as http://node7:8000; the settings above are then the server's own, and
        a dump says how it is started. Without one, vLLM is started here.
    folder: where that server writes hidden states, as it is called here: a folder that both machines see.
    in_flight: prompts that are sent to a server at one time.
    """

    kind: Literal["vllm"] = "vllm"
    tensor_parallel_size: Count = 1
    pipeline_parallel_size: Count = 1
    quantization: str | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.7
    max_model_len: Count | None = None
    arguments: dict[str, Any] = {}  # noqa: RUF012  # frozen
    url: str | None = None
    folder: LocalText | None = None
    in_flight: Annotated[int, Field(gt=0, le=4096)] = 64

    pinned: ClassVar[tuple[str, ...]] = ("engine",)

    def load(self, wanted: Wanted) -> Engine:
        """The head, and vLLM beside it.

        The head comes first: it fails in a second, and vLLM leaves a thread behind that imports transformers too.
        """
        head = load_head(wanted)
        if self.url is not None:
            from kdcache.dump.engines.vllm_served import ServedPrompts

            served = ServedPrompts(self, wanted)
            return VllmEngine(wanted, head, served, {"engine": {"kind": "vllm", "version": served.version}})
        from kdcache.dump.engines.vllm_local import LocalPrompts

        return VllmEngine(wanted, head, LocalPrompts(self, wanted), self.ways)

    def check(self, teacher: "TeacherConfig", task: Task) -> None:
        """As EngineSettings says."""
        if (self.url is None) != (self.folder is None):
            raise ValueError("got one of teacher.engine.url and teacher.engine.folder, expected both or none")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"got teacher.engine.url {self.url}, expected one such as http://localhost:8000")
        if not task.generates:
            raise ValueError(
                f"got teacher.engine vllm for {task.name}, expected transformers: it runs language models only"
            )
        of_transformers = {"gpus_per_replica": 1, "ranks_per_replica": 1, "attention_implementation": None}
        for name, usual in {"placement": "replicate", **of_transformers}.items():
            if (got := getattr(teacher, name)) != usual:
                raise ValueError(
                    f"got teacher.{name} {got} for engine vllm, expected it left out: engine.tensor_parallel_size and "
                    "engine.pipeline_parallel_size say how it is placed"
                )

    def gpus(self, teacher: "TeacherConfig") -> int:
        """As EngineSettings says; beside a server the head alone needs one."""
        return 1 if self.url else self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def ways(self) -> dict[str, Any]:
        """What of a vLLM here decides the bits of a state."""
        settings = self.model_dump(mode="json", exclude=NO_BITS, exclude_none=True)
        return {"engine": {**settings, "version": _version()}}


class VllmEngine(Engine):
    """A teacher's body elsewhere, and its head here.

    Args:
        wanted: What it is loaded for.
        head: The teacher's.
        prompts: What reads prompts.
        ways: How that is run.
    """

    def __init__(self, wanted: Wanted, head: Head, prompts: Prompts, ways: dict[str, Any]) -> None:
        self.head = head
        self.device, self.num_classes, self._ways, self._prompts = wanted.devices[0], wanted.num_classes, ways, prompts
        self._dtype, self._apart = wanted.teacher.dtype, wanted.task.attention == "document"
        self._block = wanted.compute.block_positions_on(self.device.type)

    @torch.inference_mode()
    def rows_of(self, examples: Sequence[Example], *, transient: bool = False) -> Iterator[Rows]:
        """As Engine says."""
        hidden_PD = self.hidden_of(examples)
        for start in range(0, len(hidden_PD), self._block):
            part = slice(start, min(start + self._block, len(hidden_PD)))
            yield part, self._logits(hidden_PD[part])[:, : self.num_classes].float(), hidden_PD[part]

    @torch.inference_mode()
    def hidden_of(self, examples: Sequence[Example]) -> Tensor:
        """As Engine says."""
        pieces = [piece for example in examples for piece in self._pieces(example)]
        found = self._prompts.states([tokens.tolist() for tokens, _ in pieces])
        picked = [states_LD[torch.from_numpy(at)] for states_LD, (_, at) in zip(found, pieces, strict=True)]
        if not picked:
            return torch.empty(0, self._width, device=self.device)
        return self._normed(torch.cat(picked))

    @torch.inference_mode()
    def output_layer(self) -> OutputLayer:
        """As Engine says."""
        return known_output_layer(self.head)

    @torch.inference_mode()
    def try_out(self, wanted: Wanted, longest: int) -> None:
        """Compare the head's log-probabilities after some prompts with vLLM's own."""
        prompts = [tokens.tolist() for e in wanted.examples()[:TRIED] for tokens, _ in self._pieces(e)][:TRIED]
        differences = []
        for states_LD, top in zip(self._prompts.states(prompts), self._prompts.top(prompts), strict=True):
            own_V = self._logits(self._normed(states_LD[-1:])).float().log_softmax(-1)[0].cpu()
            differences.append(float(np.mean([abs(own_V[token].item() - value) for token, value in top.items()])))
        worst = max(differences, default=0.0)
        if not worst <= APART[self._dtype]:
            raise TeacherError(
                f"the hidden states that vLLM gives of {type(self.head.model).__name__} are not those before its final "
                f"norm: the head's log-probabilities are {worst:.3g} nats from vLLM's own, expected at most "
                f"{APART[self._dtype]}; use teacher.engine: transformers, or another version of vLLM"
            )
        say(f"the head's log-probabilities are vLLM's own to {worst:.1g} nats, on {len(prompts)} prompts")

    @property
    def ways(self) -> dict[str, Any]:
        """Its version and settings."""
        return self._ways

    def run_as(self, ways: Mapping[str, Any]) -> None:
        """As Engine says."""
        if dict(ways) != self._ways:
            raise TeacherError(
                f"got vLLM as {self._ways['engine']}, expected {ways.get('engine')}, with which the cache was begun: "
                "use the same, or another output folder"
            )

    @property
    def _width(self) -> int:
        return int(self.head.model.get_output_embeddings().in_features)

    def _pieces(self, example: Example) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(tokens, positions in them) of each prompt that an example makes, up to its last position."""
        ends = np.cumsum(example.documents) if self._apart else np.array([len(example.tokens)])
        start = 0
        for end in ends:
            at = example.positions[(example.positions >= start) & (example.positions < end)] - start
            if len(at):
                yield example.tokens[start : start + at[-1] + 1], at
            start = end

    def _normed(self, states_PD: Tensor) -> Tensor:
        if states_PD.shape[-1] != self._width:
            raise TeacherError(
                f"got hidden states of width {states_PD.shape[-1]} from vLLM, expected {self._width}, the head's: "
                "is it the same model?"
            )
        return self.head.normed(to_device(states_PD, self.device).to(getattr(torch, self._dtype)))

    def _logits(self, hidden_PD: Tensor) -> Tensor:
        return self.head.logits(hidden_PD)


def load_head(wanted: Wanted) -> Head:
    """The head of a teacher without its body.

    Raises:
        TeacherError: It does not load, has no final norm that can be told, or too few classes.
    """
    from kdcache.dump.teacher import teacher_folder

    head = Head.load(teacher_folder(wanted.teacher), getattr(torch, wanted.teacher.dtype), wanted.devices[0])
    assert head.found is not None
    if head.norm is None:
        raise TeacherError(
            f"got {type(head.model).__name__}, whose final norm cannot be told, expected one that is: use "
            "teacher.engine: transformers"
        )
    if head.found.num_rows < wanted.num_classes:
        raise TeacherError(
            f"got a teacher with {head.found.num_rows} classes, expected at least the tokenizer's {wanted.num_classes}"
        )
    return head


def _version() -> str:
    """Of vLLM here; its builds for other processors are packages of other names."""
    import vllm

    return str(vllm.__version__) if hasattr(vllm, "__version__") else version("vllm")
