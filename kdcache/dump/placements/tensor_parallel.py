"""TensorParallel: each rank of a replica holds a slice of the layers' matrices, by transformers' plan for the model.

Activations are summed over the ranks twice in each layer, so that a fast link between them is wanted: the GPUs of one
node. In float32 the logits differ from those of one device by rounding alone: the sums are added in another order.
"""

from inspect import signature
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

__all__ = ["TensorParallel"]

KEYS = ("k_proj", "qkv_proj", "query_key_value")
"""What transformers call the layers that make attention keys."""


class TensorParallel(Sharded):
    """transformers' `tp_plan`."""

    def check_model(self, config: Any, device: torch.device, ranks: int) -> None:
        """As Sharded says."""
        text = config.get_text_config()
        plan = getattr(text, "base_model_tp_plan", None) or {}
        if not plan:
            raise ValueError(
                f"got teacher.placement tensor_parallel and a model of type {config.model_type}, for "
                "which transformers has no tensor-parallel plan, expected placement: zero3 or device_map"
            )
        heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
        split = any(name.rpartition(".")[2] in KEYS and style == "colwise" for name, style in plan.items())
        if split and isinstance(heads, int) and heads % ranks:
            works = [count for count in range(2, heads + 1) if heads % count == 0]
            raise ValueError(
                f"got teacher.ranks_per_replica {ranks} and a model with {heads} attention heads for keys, which "
                f"cannot be shared out evenly, expected {' or '.join(map(str, works)) or 'placement: zero3'}"
            )
        if (found := torch._C._get_accelerator().type) != device.type:
            raise ConfigError(
                f"got teacher.placement tensor_parallel and compute.device {device.type} on a machine with {found}, "
                "expected compute.device: auto, or no GPU to be seen (CUDA_VISIBLE_DEVICES=)"
            )

    def load_part(
        self, model_class: Any, folder: str, teacher: "TeacherConfig", device: torch.device, replica: "Replica"
    ) -> Any:
        """As Sharded says."""
        import transformers
        from transformers.distributed.configuration_utils import DistributedConfig

        if "tp_size" not in signature(DistributedConfig).parameters:
            raise ValueError(
                f"got transformers {transformers.__version__} for teacher.placement tensor_parallel, expected a later "
                "one, such as 5.23"
            )
        plan = DistributedConfig(tp_size=replica.size)
        return load_whole(model_class, folder, distributed_config=plan, **settings_of(teacher)).eval()

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """As Sharded says."""
        from torch.distributed.tensor import DTensor

        data = parameter.detach()
        return data.full_tensor() if isinstance(data, DTensor) else data
