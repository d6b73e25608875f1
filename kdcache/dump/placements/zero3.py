"""Zero3: each rank of a replica holds a slice of every weight, by DeepSpeed's ZeRO-3, and any model can be sharded so.

Before a layer runs, every rank gathers the layer's weights, and all of them compute the same: a replica is as fast as
one device that has to wait for the weights. It is for a teacher that fits nowhere else and has no tensor-parallel plan,
or whose devices are linked slowly; large batches hide the gathering best. Of the files only the first rank reads the
weights, into the memory of its host. In float32 on CPUs the logits were those of one device, bit for bit.
"""

import logging
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcache.dump.placements.sharded import Sharded
from kdcache.dump.placements.whole import settings_of
from kdcache.errors import ConfigError
from kdcache.models.loading import load_whole

if TYPE_CHECKING:
    from kdcache.dump.placements.replica import Replica
    from kdcache.dump.settings import TeacherConfig

__all__ = ["Zero3"]

KEPT = 10_000
"""Weights of no more numbers, such as those of norms, are whole on every rank."""


class Zero3(Sharded):
    """DeepSpeed's ZeRO-3, without an optimizer."""

    def check_model(self, config: Any, device: torch.device, ranks: int) -> None:
        """As Sharded says."""
        from deepspeed.accelerator import get_accelerator

        if (found := get_accelerator().device_name()) != device.type:
            raise ConfigError(
                f"got teacher.placement zero3 and compute.device {device.type}, while DeepSpeed takes {found}, "
                f"expected DS_ACCELERATOR={device.type} in the environment"
            )

    def load_part(
        self, model_class: Any, folder: str, teacher: "TeacherConfig", device: torch.device, replica: "Replica"
    ) -> Any:
        """As Sharded says."""
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        import deepspeed
        import deepspeed.ops
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        if device.type == "cpu":
            deepspeed.ops.__compatible_ops__ = {}  # or it compiles a module that this does not use, for a minute
        os.environ.setdefault("LOCAL_RANK", str(replica.own.local_rank))
        deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
        kept = HfDeepSpeedConfig(_settings(teacher))  # transformers looks whether one is alive
        model = load_whole(model_class, folder, **settings_of(teacher)).eval()
        del kept
        return model

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """As Sharded says."""
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def make_ready(self, body: Any, teacher: "TeacherConfig", replica: "Replica") -> None:
        """As Sharded says: the hooks that gather a layer's weights and let go of them."""
        import deepspeed

        engine = deepspeed.initialize(model=body, config=_settings(teacher))[0]
        engine.eval()
        replica.keep(engine)


def _settings(teacher: "TeacherConfig") -> dict[str, Any]:
    dtypes = {"bfloat16": {"bf16": {"enabled": True}}, "float16": {"fp16": {"enabled": True}}}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": KEPT},
        **dtypes.get(teacher.dtype, {}),
    }
