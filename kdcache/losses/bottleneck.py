"""Bottleneck: information-bottleneck distillation of the teacher's hidden features.

The student's hidden state h_s passes a stochastic code z of few numbers, and from z alone a linear map g guesses the
teacher's features h_t. The loss of a position, in nats for each of the teacher's H numbers,

    (−log N(h_t | g(z), diag σ_t²) + β · KL(q(z | x) ‖ N(0, I))) / H,      q(z | x) = N(μ(h_s), diag σ(h_s)²),

bounds H(h_t) − I(z; h_t) + β I(z; x) from above: what z leaves unsaid of the teacher, and at β a nat what it says of
the input at all (Alemi, Fischer, Dillon, Murphy 2017, arXiv 1612.00410, section 3, with the teacher's features for the
label; the Gaussian term is that of Ahn, Hu, Damianou, Lawrence, Dai 2019, arXiv 1904.05835, σ_t² learned for each
number). At β = 1 it is a variational autoencoder's; 1e-3 to 1e-1 is usual. Divided by H the loss is about 1 a position
whatever the teacher's width, like a divergence; it may be below 0, as the density of what is well known is above 1.

h_t is normalised first, each position to mean 0 and variance 1 as LayerNorm does: features are some 0.1 in one teacher
and 100 in another, and σ_t would take thousands of steps to get there. Variances are exp of a value that is bent to
stay between −10 and 10, never cut off, so that its gradient never is 0. One draw of z a position, from torch's own
generator, which a training loop seeds for dropout; z = μ in eval.

The module is no part of the student: it shapes h_s and is thrown away. Cost: 2 D Z + Z H products per position.

P positions, D the student's width, Z that of the code, H the teacher's.
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["Bottleneck", "gaussian_kl", "gaussian_nll"]

LARGEST_LOG_VARIANCE = 10.0
FIRST_LOG_VARIANCE = -4.0


class Bottleneck(nn.Module):
    """forward(hidden_PD, features_PH) gives the loss of each position, [P], float32 for half-precision weights."""

    def __init__(self, student_width: int, teacher_width: int, width: int = 64, beta: float = 0.01) -> None:
        super().__init__()
        self.beta = beta
        self.mean = nn.Linear(student_width, width)
        self.log_variance = nn.Linear(student_width, width)
        self.decoder = nn.Linear(width, teacher_width)
        self.teacher_log_variance = nn.Parameter(torch.zeros(teacher_width))
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, FIRST_LOG_VARIANCE)

    def forward(self, hidden_PD: Tensor, features_PH: Tensor) -> Tensor:
        weight = self.teacher_log_variance
        wide = torch.promote_types(weight.dtype, torch.float32)
        hidden_PD = hidden_PD.to(weight.dtype)
        mean_PZ, log_variance_PZ = self.mean(hidden_PD).to(wide), _bent(self.log_variance(hidden_PD).to(wide))
        code_PZ = mean_PZ
        if self.training:
            code_PZ = mean_PZ + (log_variance_PZ / 2).exp() * torch.randn_like(mean_PZ)
        guess_PH = self.decoder(code_PZ.to(weight.dtype)).to(wide)
        features_PH = nn.functional.layer_norm(features_PH.to(wide), features_PH.shape[-1:])
        unsaid_P = gaussian_nll(features_PH, guess_PH, _bent(weight.to(wide)))
        return (unsaid_P + self.beta * gaussian_kl(mean_PZ, log_variance_PZ)) / features_PH.shape[-1]


def gaussian_kl(mean_PZ: Tensor, log_variance_PZ: Tensor) -> Tensor:
    """KL(N(μ, diag σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²), [P], nats."""
    return (mean_PZ**2 + torch.expm1(log_variance_PZ) - log_variance_PZ).sum(-1) / 2


def gaussian_nll(values_PH: Tensor, mean_PH: Tensor, log_variance_H: Tensor) -> Tensor:
    """−log N(values | mean, diag σ²), [P], nats."""
    squares_PH = (values_PH - mean_PH) ** 2 * (-log_variance_H).exp()
    return (squares_PH + log_variance_H + math.log(2 * math.pi)).sum(-1) / 2


def _bent(log_variance: Tensor) -> Tensor:
    return LARGEST_LOG_VARIANCE * torch.tanh(log_variance / LARGEST_LOG_VARIANCE)
