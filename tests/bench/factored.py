"""Factored tails of a real teacher: how near they come to it, what they do to a gradient, and what they take on disk.

Text: Python's reference documentation; the basis is calibrated on its beginning as a dump does (8 positions for each
number in h), rows are measured on its second half.

KL: mean KL(teacher ‖ record), nats. MSE: Σ ‖g − g_dense‖² / Σ ‖g_dense‖², g the gradient of the forward KL by the
logits of a student that knows how frequent each token is. Bytes per position in a Zarr shard: of the coefficients, and
of everything but the tokens. Records: samples 0, exact_top_k 8.

SmolLM2-135M (D = 576), 4,608 calibration positions, 1,024 held out, 2026-11-24:

    rank    coefficients B   all B    KL T=1    KL T=2    KL T=4    MSE T=1    MSE T=2    MSE T=4
    16                 5.6    65.0    0.3241    0.3566    0.1002     0.0052     0.0109     0.2154
    64                26.1    85.5    0.2018    0.2167    0.0631     0.0049     0.0094     0.1408
    256              137.7   197.0    0.0739    0.0757    0.0220     0.0021     0.0040     0.0530
    full             383.8   443.2    0.0004    0.0003    0.0001     0.0000     0.0000     0.0002

What a low rank leaves out is in the text, not in the rounding: unquantised, rank 64 has a KL of .210 at T = 2 where the
stored one has .216 (another 342 rows). Directions weighted by the teacher's mean probabilities at T = 2 in place of all
classes alike bring that to .200; 16 certain entries in place of 8 bring the stored one to .198, 32 to .182.
"""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor

from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.compress import compress, compress_to_arrays
from kdcache.targets.factored import Factored
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.record import TeacherTargets
from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder, use_threads
from tests.bench.shards import shard_bytes
from tests.bench.tables import figure, table
from tests.real_rows import load_teacher

TEMPERATURES = (1.0, 2.0, 4.0)
LENGTH = 256
RANKS = (16, 64, 256, "full")


def run(quick: bool) -> Rows:
    use_threads()
    folder = teacher_folder()
    teacher = load_teacher(folder)
    layer = OutputLayer(teacher.get_output_embeddings().weight.detach())
    V = len(layer.weight_VD)
    positions = 4 * LENGTH if quick else 8 * layer.hidden
    calibration, heldout, log_frequencies_V = texts(folder, V, 1 if quick else 8, positions)
    hidden_ND = torch.cat([hidden(teacher, tokens) for tokens in calibration])[:positions]
    rows = [(tokens, hidden(teacher, tokens)) for tokens in heldout]
    found = [measured(rank, layer, hidden_ND, rows, log_frequencies_V) for rank in ((16,) if quick else RANKS)]
    return {"calibration": len(hidden_ND), "heldout": len(heldout) * LENGTH, "rows": found}


def texts(folder: Path, V: int, windows: int, positions: int) -> tuple[Tensor, Tensor, Tensor]:
    """(windows to calibrate with, windows held out, log share of each token), [windows, LENGTH + 1]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor([t for topic in sorted(topics) for t in tokenizer(topics[topic], verbose=False)["input_ids"]])
    parts = tokens.unfold(0, LENGTH + 1, LENGTH)
    middle = len(parts) // 2
    chosen = torch.linspace(middle, len(parts) - 1, windows).long()
    counts_V = tokens.bincount(minlength=V) + 0.1
    return parts[: -(-positions // LENGTH)], parts[chosen], (counts_V / counts_V.sum()).log()


@torch.no_grad()
def hidden(teacher: object, tokens: Tensor) -> Tensor:
    return teacher.model(tokens[None, :-1], use_cache=False).last_hidden_state[0]  # type: ignore[attr-defined]


def gradient(student_V: Tensor, targets: TeacherTargets, temperature: float) -> Tensor:
    """The training loss's own, by student logits / T."""
    term = make_term(name="divergence", temperature=temperature, temperature_squared=False)
    gradient_PV = student_V.repeat(targets.num_positions, 1)
    labels_P = torch.zeros(targets.num_positions, dtype=torch.int64)
    LossTerms([term], len(student_V)).value_and_gradient_(gradient_PV, Supervision(labels_P, targets))
    return gradient_PV.mul_(temperature)


def measured(
    rank: int | str, layer: OutputLayer, calibration_ND: Tensor, rows: list[tuple[Tensor, Tensor]], student_V: Tensor
) -> Rows:
    spec = Factored(rank=rank)
    V = len(student_V)
    basis = make_basis(layer, calibration_ND, rank)  # type: ignore[arg-type]
    encoder = Encoder(basis, layer)
    stored: list[dict[str, np.ndarray]] = []
    kl, error = dict.fromkeys(TEMPERATURES, 0.0), dict.fromkeys(TEMPERATURES, 0.0)
    norms = dict.fromkeys(TEMPERATURES, 0.0)
    positions = 0
    for window, (tokens, hidden_PD) in enumerate(rows):
        logits_PV = layer.logits(hidden_PD)
        keys = [[0, window, p] for p in range(len(hidden_PD))]
        arrays = compress_to_arrays(logits_PV, spec, keys, tokens[1:], hidden_PD, encoder)
        stored.append(arrays)
        targets = compress(logits_PV, spec, keys, labels_P=tokens[1:], hidden_PD=hidden_PD, encoder=encoder)
        positions += len(hidden_PD)
        for temperature in TEMPERATURES:
            log_p_PV = (logits_PV / temperature).log_softmax(-1)
            kl[temperature] += (log_p_PV.exp() * (log_p_PV - targets.dense_log_probs(temperature))).sum().item()
            exact_PV = student_V.div(temperature).softmax(-1) - log_p_PV.exp()
            norms[temperature] += exact_PV.square().sum().item()
            made_PV = gradient(student_V, targets, temperature)
            error[temperature] += made_PV.sub_(exact_PV).square_().sum().item()
    fields = spec.fields(V, rank=basis.rank)
    arrays = {name: np.concatenate([part[name] for part in stored]) for name in stored[0]}
    sizes, *_ = shard_bytes(fields, arrays, LENGTH)
    return {
        "rank": rank,
        "coefficients": sizes["coefficients"],
        "bytes": sum(sizes.values()),
        "kl": [kl[t] / positions for t in TEMPERATURES],
        "mse": [error[t] / norms[t] for t in TEMPERATURES],
    }


def render(rows: Rows) -> str:
    header = ["rank", "bytes of coefficients", "bytes in all", *(f"KL, T = {t:g}" for t in TEMPERATURES)]
    lines = [
        [str(row["rank"]), f"{row['coefficients']:.1f}", f"{row['bytes']:.1f}", *map(figure, row["kl"] + row["mse"])]
        for row in rows["rows"]
    ]
    return (
        f"SmolLM2-135M (width 576), {rows['calibration']:,} calibration positions, {rows['heldout']:,} held out. Bytes "
        "per position are of everything but the tokens, in a Zarr shard. KL is from the teacher to the record, in "
        "nats; the error is of a forward-KL gradient, squared, relative to the dense one's. It is bias.\n\n"
        + table([*header, *(f"error, T = {t:g}" for t in TEMPERATURES)], lines)
    )


PART = Part(name="factored", title="Factored tails by rank", minutes=4, run=run, render=render)
