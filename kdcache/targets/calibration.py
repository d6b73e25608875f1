"""From an output layer and calibration hidden states to a Basis, and to the Encoder that writes coefficients in it.

Principal component analysis of the logits W h + b (Pearson 1901), never made: with G = WᵀW and C the covariance of h,
the principal directions of W (h − μ) are the columns of W G^{-1/2} Q, Q the eigenvectors of G^{1/2} C G^{1/2}, largest
eigenvalue first, and a row's coefficients along them Qᵀ G^{1/2} (h − μ). At full rank that is a rotation. Where there
is no soft-cap a constant over the classes of a row changes nothing, so it is taken out of W first.

Rounding: the step of a direction is 6/127 of its standard deviation, so that ±6 of these fit an int8, or, where that
is more, the step at which all rounding together moves a logit by 0.05 nats, or by a fifth of what the directions left
out do. Weak directions then take few of the 255 integers and few bits on disk, and rows that reach further than the
calibration rows did are not cut. Held-out rows of a 135M model (V = 49,152, D = 576), mean KL to the teacher at T = 2
and bytes after compression: full .0004 and 390, where a standard deviation of 25 steps in each direction gives .0007
and 550; rank 128 .195 and 58; rank 64 .284 and 26.

The encoder is the least-squares solution for the basis as stored, float16: whoever has the basis and the output layer
has the encoder. float64 on the host, with signs fixed: the same inputs on the same hardware give the same bytes.
Time: three products of V × D × D and two eigenvalue problems of size D: 3 s for V = 49,152 and D = 576 on 2 cores.

N calibration rows, P positions, V classes, D hidden width, R directions.
"""

from typing import Literal

import torch
from torch import Tensor

from kdcache.errors import ConfigError, TeacherError
from kdcache.targets.basis import Basis
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.precision import full_precision

__all__ = ["Encoder", "make_basis"]

_LEAST = 1e-10
_MAX = 127
_REACH = 6.0
_NOISE, _NOISE_SHARE = 0.05, 0.2


@torch.no_grad()
def make_basis(
    layer: OutputLayer, calibration_ND: Tensor, rank: int | Literal["full"], num_classes: int | None = None
) -> Basis:
    """The principal directions of the logits of these hidden states, on the CPU.

    num_classes: of the weight's rows, the first so many count. "full" has as many directions as the logits.
    Raises ConfigError for a rank above that, or for no calibration rows.
    """
    V, device = num_classes or len(layer.weight_VD), torch.device("cpu")
    hidden_ND = calibration_ND.to(device, torch.float64)
    if hidden_ND.ndim != 2 or hidden_ND.shape[1] != layer.hidden or len(hidden_ND) < 2:
        raise ConfigError(
            f"got calibration hidden states {[*calibration_ND.shape]}, expected [2 or more, {layer.hidden}]"
        )
    centre_D = hidden_ND.mean(0)
    offset_D = hidden_ND.new_zeros(layer.hidden)
    if layer.soft_cap is None:
        for _, weight_CD, _ in layer.rows(V, device):
            offset_D += weight_CD.sum(0) / V
    gram_DD = sum((w - offset_D).T @ (w - offset_D) for _, w, _ in layer.rows(V, device))
    spread_D, axes_DD = torch.linalg.eigh(gram_DD)
    real_D = spread_D > _LEAST * spread_D[-1]
    root_SD = (axes_DD * spread_D.clamp(min=0).sqrt())[:, real_D].T
    covariance_SS = (root_SD @ (hidden_ND - centre_D).T).cov(correction=0)
    variance_S, directions_SS = torch.linalg.eigh(covariance_SS.reshape(len(root_SD), -1))
    R = len(variance_S) if rank == "full" else rank
    if len(variance_S) < R:
        raise ConfigError(
            f"got record.rank {rank}, expected at most {len(variance_S)}, the directions that this teacher's "
            "logits have; use full"
        )
    directions_SR = directions_SS.flip(1)[:, :R]
    strongest_R = directions_SR.abs().argmax(0)
    directions_SR = directions_SR * directions_SR.gather(0, strongest_R[None]).sign()
    variance_S = variance_S.flip(0).clamp(min=0)
    step_R = _steps(variance_S[:R].sqrt(), float(variance_S[R:].sum()), V)
    # W G^{-1/2} Q, G^{1/2} = root in the axes of G.
    to_basis_DR = axes_DD[:, real_D] @ (directions_SR / spread_D[real_D].sqrt()[:, None] * step_R)
    basis_VR = torch.empty(V, R, dtype=torch.float16)
    mean_V = torch.empty(V)
    for part, weight_CD, bias_C in layer.rows(V, device):
        basis_VR[part] = ((weight_CD - offset_D) @ to_basis_DR).half().masked_fill(bias_C.isneginf()[:, None], 0.0)
        mean_V[part] = ((weight_CD - offset_D) @ centre_D + bias_C).float()
    return Basis(basis_VR, mean_V, layer.soft_cap)


class Encoder:
    """Hidden states to the coefficients that come nearest to their logits in a basis, by least squares."""

    @torch.no_grad()
    def __init__(self, basis: Basis, layer: OutputLayer) -> None:
        self.basis, self.layer = basis, layer
        device, R = torch.device("cpu"), basis.rank
        normal_RR = torch.zeros(R, R, dtype=torch.float64)
        right_RD = torch.zeros(R, layer.hidden, dtype=torch.float64)
        right_R = torch.zeros(R, dtype=torch.float64)
        for part, weight_CD, bias_C in layer.rows(basis.num_classes, device):
            basis_CR = basis.basis_VR[part].to(device, torch.float64)
            normal_RR += basis_CR.T @ basis_CR
            right_RD += basis_CR.T @ weight_CD
            difference_C = bias_C - basis.mean_V[part].to(device, torch.float64)
            right_R += basis_CR.T @ difference_C.masked_fill(bias_C.isneginf(), 0.0)
        solution = torch.linalg.solve(normal_RR, torch.cat([right_RD, right_R[:, None]], 1))
        self._matrix_DR, self._offset_R = solution[:, :-1].T.float().contiguous(), solution[:, -1].float()

    def check_never(self, logits_PV: Tensor) -> None:
        """Raises TeacherError where these rows ban other classes (logits of −inf) than the basis."""
        never_PV = logits_PV.isneginf()
        expected_V = False if self.basis.never_V is None else self.basis.never_V.to(never_PV.device)
        if bool((never_PV != expected_V).any()):
            raise TeacherError(
                "the teacher bans other classes (logits of −inf) at some positions than at others, expected the same "
                "ones: its records cannot be factored; use another record.kind"
            )

    @torch.no_grad()
    def coefficients(self, hidden_PD: Tensor) -> Tensor:
        """int8 [P, R], on the device of the hidden states."""
        if hidden_PD.device != self._matrix_DR.device:
            self._matrix_DR, self._offset_R = (x.to(hidden_PD.device) for x in (self._matrix_DR, self._offset_R))
        with full_precision(hidden_PD.device):
            coefficients_PR = torch.addmm(self._offset_R, hidden_PD.float(), self._matrix_DR)
        return coefficients_PR.round_().clamp_(-_MAX, _MAX).to(torch.int8)


def _steps(deviation_R: Tensor, left_out: float, num_classes: int) -> Tensor:
    """The step of each direction. deviation_R: of its coefficient. left_out: variance in all other directions."""
    noise = max(_NOISE, _NOISE_SHARE * (left_out / num_classes) ** 0.5)
    return (deviation_R * (_REACH / _MAX)).clamp(min=noise * (12 * num_classes / len(deviation_R)) ** 0.5)
