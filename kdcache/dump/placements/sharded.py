"""Sharded: several ranks, a replica, hold one copy of the teacher between them.

The body of the model is what is sharded: each forward pass of it on the replica's first rank begins by telling the
others its arguments, and all run it together. The head is whole on the first rank, which applies it block by block to
the positions that it wants, so that everything that is done with a head or its weights works as on one device. Its
price is the output layer's memory there: 2.5 GB for 152,000 classes of width 8,192 in bfloat16.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcache.dump.placements.placement import Placement
from kdcache.errors import TeacherError
from kdcache.models.last_bit import last_bit_of
from kdcache.models.strangers import model_config

if TYPE_CHECKING:
    from kdcache.dump.placements.replica import Replica
    from kdcache.dump.settings import TeacherConfig

__all__ = ["Sharded", "how_to_start"]


def how_to_start(ranks: int) -> str:
    """The command that starts ranks which find each other."""
    return f"torchrun --nproc-per-node {ranks} -m kdcache dump-logits CONFIG"


class Sharded(Placement):
    """A placement over the ranks of a replica."""

    def check(self, teacher: "TeacherConfig") -> None:
        """As Placement says."""
        if teacher.ranks_per_replica < 2:
            raise ValueError(
                f"got teacher.placement {teacher.placement} with ranks_per_replica {teacher.ranks_per_replica}, "
                "expected 2 or more, the number of ranks that hold one copy of the teacher between them"
            )
        if teacher.gpus_per_replica != 1:
            raise ValueError(
                f"got teacher.gpus_per_replica {teacher.gpus_per_replica} for placement {teacher.placement}, expected "
                "it left out: each of the ranks_per_replica ranks has one GPU"
            )

    def ranks(self, teacher: "TeacherConfig") -> int:
        """As Placement says."""
        return teacher.ranks_per_replica

    def pins(self, teacher: "TeacherConfig") -> dict[str, Any]:
        """As Placement says."""
        return {"placement": teacher.placement, "ranks_per_replica": teacher.ranks_per_replica}

    def load(
        self,
        model_class: Any,
        folder: str,
        teacher: "TeacherConfig",
        devices: Sequence[torch.device],
        replica: "Replica | None",
    ) -> Any:
        """As Placement says."""
        if replica is None:
            raise TeacherError(
                f"teacher.placement {teacher.placement} runs the teacher in {teacher.ranks_per_replica} ranks "
                f"together, and this command has one process, expected kdcache dump-logits under a launcher: "
                f"{how_to_start(teacher.ranks_per_replica)}"
            )
        self.check_model(model_config(folder, trust_remote_code=teacher.trust_remote_code), devices[0], replica.size)
        replica.tell("load", (model_class.__name__, teacher.model_dump(mode="json"), torch.get_num_threads()))
        model = self.load_with_the_others(model_class, folder, teacher, devices[0], replica)
        replica.wait_for_others()

        def tell_the_others(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            replica.tell("forward", (arguments, named, last_bit_of(model)))

        # Before hooks that begin to gather weights.
        model.base_model.register_forward_pre_hook(tell_the_others, with_kwargs=True, prepend=True)
        return model

    def load_with_the_others(
        self, model_class: Any, folder: str, teacher: "TeacherConfig", device: torch.device, replica: "Replica"
    ) -> Any:
        """This rank's part of the model, with a whole head. All ranks of the replica call it together."""
        replica.connect(device)
        model = self.load_part(model_class, folder, teacher, device, replica)
        if model.base_model is not model:
            self._make_head_whole(model, device)
        self.make_ready(model.base_model, teacher, replica)
        return model

    def _make_head_whole(self, model: Any, device: torch.device) -> None:
        """Each weight outside the body. One that is tied to the body's gets memory of its own."""
        body = {id(module) for module in model.base_model.modules()}
        for module in model.modules():
            if id(module) in body:
                continue
            for name, parameter in [*module._parameters.items()]:
                if parameter is not None:
                    whole = self.whole(parameter).to(device)
                    module._parameters[name] = nn.Parameter(whole, requires_grad=False)
            vars(module).pop("forward", None)  # what a plan put there

    @abstractmethod
    def check_model(self, config: Any, device: torch.device, ranks: int) -> None:
        """Before anything is loaded: whether a model of this config can be sharded so on such devices.

        Raises:
            ValueError: It cannot.
        """

    @abstractmethod
    def load_part(
        self, model_class: Any, folder: str, teacher: "TeacherConfig", device: torch.device, replica: "Replica"
    ) -> Any:
        """Load this rank's part of a model."""

    @abstractmethod
    def whole(self, parameter: nn.Parameter) -> Tensor:
        """A weight, gathered from all ranks, which all call this."""

    def make_ready(self, body: Any, teacher: "TeacherConfig", replica: "Replica") -> None:  # most are ready
        """Make the body's forward work, on all ranks."""
