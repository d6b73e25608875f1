"""OutputLayer: the linear layer that makes logits, and the PostFunction that a model applies to them.

    logits = cap(scale · (W h + b))        cap(x) = c tanh(x / c) for a soft-cap c, else x

The scale is Cohere's `logit_scale` or one over Granite's `logits_scaling`, the soft-cap Gemma 2's
`final_logit_softcapping`. Everything that needs logits without a model uses these two: the calibration and the encoder
of factored records, and the fused loss, which needs the derivative of the post-function as well.

P positions, V classes, C of them in a chunk, D hidden width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.errors import ConfigError, TeacherError
from kdcache.targets.never import is_never, with_stand_ins

__all__ = ["PLAIN", "OutputLayer", "PostFunction"]

_CHUNK = 16384
TOLERANCE = 0.02


@dataclass(frozen=True)
class PostFunction:
    """What a model does to the logits of its last linear layer: cap(scale · x).

    Attributes:
        scale: what they are multiplied by.
        soft_cap: the c of c tanh(x / c), or None where there is none.
    """

    scale: float = 1.0
    soft_cap: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done to the logits."""
        return self.scale == 1.0 and self.soft_cap is None

    def apply_(self, logits_PV: Tensor, slopes_PV: Tensor | None = None) -> Tensor:
        """Applies it in place.

        Args:
            logits_PV: logits of the linear layer, [P, V], float32 or float64.
            slopes_PV: where the derivative of a soft-cap is to be put, 1 − tanh²; for `backward_`.

        Returns:
            logits_PV, which now holds the model's logits.
        """
        if self.scale != 1.0:
            logits_PV *= self.scale
        if self.soft_cap is None:
            return logits_PV
        logits_PV.div_(self.soft_cap).tanh_()
        if slopes_PV is not None:
            torch.mul(logits_PV, logits_PV, out=slopes_PV).neg_().add_(1.0)
        return logits_PV.mul_(self.soft_cap)

    def backward_(self, gradient_PV: Tensor, slopes_PV: Tensor | None) -> Tensor:
        """Turns the gradient by the model's logits into that by the linear layer's, in place.

        Args:
            gradient_PV: [P, V].
            slopes_PV: what `apply_` has put there; None without a soft-cap.

        Returns:
            gradient_PV.
        """
        if slopes_PV is not None:
            gradient_PV *= slopes_PV
        return gradient_PV if self.scale == 1.0 else gradient_PV.mul_(self.scale)


PLAIN = PostFunction()


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """A teacher's last layer, weight, bias and post-function.

    Attributes:
        weight_VD: [at least num_classes, D].
        bias_V: one number for each row of the weight, −inf for a class that is never given; None for no bias.
        soft_cap: as Gemma 2's; None for none.
        scale: as Cohere's `logit_scale`.

    Raises:
        ConfigError: the shapes of weight and bias do not go together.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    soft_cap: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        shape, bias = [*self.weight_VD.shape], self.bias_V
        if len(shape) != 2 or (bias is not None and [*bias.shape] != shape[:1]):
            got = "" if bias is None else f" and bias {[*bias.shape]}"
            raise ConfigError(f"got an output layer of weight {shape}{got}, expected [classes, hidden] and [classes]")

    @property
    def hidden(self) -> int:
        """The hidden width D."""
        return self.weight_VD.shape[1]

    @property
    def post(self) -> PostFunction:
        """What is done to the logits of the linear layer."""
        return PostFunction(self.scale, self.soft_cap)

    def logits(self, hidden_PD: Tensor) -> Tensor:
        """The logits of these hidden states.

        Args:
            hidden_PD: [P, D], taken in the dtype of the weight.

        Returns:
            float32 [P, rows of the weight].
        """
        logits_PV = (hidden_PD.to(self.weight_VD) @ self.weight_VD.T).float()
        if self.bias_V is not None:
            logits_PV = logits_PV + self.bias_V.float()
        never_PV = logits_PV.isneginf()
        return self.post.apply_(logits_PV).masked_fill_(never_PV, -torch.inf)

    def check(self, hidden_PD: Tensor, logits_PV: Tensor) -> None:
        """Raises TeacherError where these hidden states do not give these logits."""
        logits_PV = logits_PV.float()
        got_PV = self.logits(hidden_PD)[:, : logits_PV.shape[1]]
        got_PV, logits_PV = with_stand_ins(got_PV), with_stand_ins(logits_PV)
        never_PV = is_never(got_PV) & is_never(logits_PV)
        got_PV, logits_PV = got_PV.masked_fill(never_PV, 0.0), logits_PV.masked_fill(never_PV, 0.0)
        error = float((got_PV - logits_PV).norm() / logits_PV.norm().clamp(min=1e-30))
        if not error <= TOLERANCE:
            raise TeacherError(
                f"the teacher's logits are not its output layer's of its hidden states (they differ by {error:.0%}), "
                "expected cap(scale · (W h + b)): its records cannot be factored; use another record.kind"
            )

    def rows(self, num_classes: int, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The scaled weight and bias of the first classes, chunk by chunk.

        Args:
            num_classes: how many rows of the weight count.
            device: where the products that follow are made.

        Yields:
            (which classes, scaled weight [C, D], scaled bias [C]), both in float64.
        """
        for start in range(0, num_classes, _CHUNK):
            part = slice(start, min(start + _CHUNK, num_classes))
            weight_CD = self.weight_VD[part].to(device, torch.float64) * self.scale
            bias_C = weight_CD.new_zeros(len(weight_CD))
            if self.bias_V is not None:
                bias_C = self.bias_V[part].to(device, torch.float64) * self.scale
            yield part, weight_CD, bias_C
