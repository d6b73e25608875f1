"""OutputTerm: a term of the student's raw outputs against values, without a softmax: for scores and embeddings.

The values are the labels of the cache, numbers, or the teacher's raw outputs from a record that has all of them. A
value that is not there (NaN, and −inf of a class that a teacher never gives) is padding: the frame takes it out of what
a term makes of it, so that no formula has to know of it.

P positions, K outputs.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.errors import ConfigError
from kdcache.losses.term import Term

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kdcache.losses.supervision import Supervision

__all__ = ["OutputTerm"]


class OutputTerm(Term):
    """A function of the student's outputs and of values of the same shape.

    against: whether the values are the teacher's outputs or the labels.
    """

    against: Literal["teacher", "labels"] = "teacher"

    @property
    def log_name(self) -> str:
        return f"{self.name}_{self.against}"

    @property
    def needs_teacher(self) -> bool:
        return self.against == "teacher"

    @property
    def needs_labels(self) -> bool:
        return self.against == "labels"

    def value_and_slopes(
        self, outputs_PK: "Tensor", values_PK: "Tensor", missing_PK: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Of each position, and by each of its outputs, in new tensors.

        Args:
            outputs_PK: The student's outputs, [P, K], float32 or float64.
            values_PK: What they are compared with, of the same shape and type; the student's own where missing.
            missing_PK: Where there is no value, bool; what the slopes are there is thrown away.

        Returns:
            The plain value, [P], and its derivative by the outputs, [P, K].
        """
        raise NotImplementedError

    def values(self, supervision: "Supervision", num_classes: int, dtype: "torch.dtype") -> "Tensor":
        """What the outputs are compared with, [P, K]; not finite where there is no value.

        Raises ConfigError for records that have not every output, and for labels that are not numbers of this shape.
        """
        if self.against == "teacher":
            targets = supervision.targets
            if targets is None or not targets.is_exact:
                raise ConfigError(
                    f"got {self.spoken} term against the teacher on sparse records, expected ones that hold every "
                    "output: dump with record.kind dense"
                )
            return targets.logits_PE.to(dtype)
        labels = supervision.labels_P
        if not labels.is_floating_point():
            raise ConfigError(
                f"got {self.spoken} term against labels that are numbers of classes, expected values as labels, such "
                "as a regression's scores; use cross_entropy for classes"
            )
        values_PK = labels.to(dtype).reshape(len(labels), -1)
        if values_PK.shape[1] != num_classes:
            raise ConfigError(
                f"got {values_PK.shape[1]} values for each label, expected {num_classes}, one for each output"
            )
        return values_PK

    def compare(self, outputs_PK: "Tensor", values_PK: "Tensor") -> "tuple[Tensor, Tensor]":
        """The value and the slopes, with 0 where a value is missing."""
        missing_PK = ~values_PK.isfinite()
        value_P, slopes_PK = self.value_and_slopes(outputs_PK, values_PK.where(~missing_PK, outputs_PK), missing_PK)
        return value_P, slopes_PK.masked_fill_(missing_PK, 0.0)
