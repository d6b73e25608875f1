"""`{name: entropy}`: the student's entropy matched to the teacher's, (H_s − H_t)², nats² (entropy.py).

Its pair has all classes of the student, and of the teacher the entropy alone.

P positions, C compared classes.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.losses.softmax_term import SoftmaxTerm

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Form, Pair
    from kdcache.targets.record import TeacherTargets

__all__ = ["EntropyTerm"]


class EntropyTerm(SoftmaxTerm):
    """The squared difference of the student's entropy and the teacher's: how sure to be, and not of what, so that it
    goes beside a divergence."""

    name: Literal["entropy"] = "entropy"

    @property
    def log_name(self) -> str:
        return f"{self.name}{self._temperature_name}"

    @property
    def needs_teacher(self) -> bool:
        return True

    def form(self, targets: "TeacherTargets | None") -> "Form":
        return "entropy"

    def value(self, pair: "Pair", num_classes: int) -> "Tensor":
        return _excess(pair) ** 2

    def slopes(self, pair: "Pair") -> "Tensor":
        """−2 (H_s − H_t) q log q, up to multiples of q."""
        return (-2 * _excess(pair))[:, None] * pair.q_log_q_PC

    def refused_at_the_limit(self) -> str | None:
        return self.name


def _excess(pair: "Pair") -> "Tensor":
    """H_s − H_t, [P]."""
    assert pair.reference.negative_entropy_P is not None
    return pair.reference.negative_entropy_P - pair.q_log_q_PC.sum(-1)
