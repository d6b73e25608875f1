"""The precision that a run really has, as the engine says after it is made, whatever its settings asked for."""

from typing import Any

__all__ = ["precision_in_use", "spoken_precision"]


def precision_in_use(engine: Any, student_dtype: str) -> dict[str, str]:
    """Names of dtypes by what has them. student_dtype: of the folder that is written.

    Keys: parameters (of forward and backward), gradients (the sum over micro-batches), master_weights (what the
    optimizer updates), student (the folder that is written). At stage 0 the optimizer updates the parameters.
    """
    optimizer = engine.optimizer
    parameters = next(engine.module.parameters()).dtype
    dtypes = {
        "parameters": parameters,
        "gradients": getattr(optimizer, "gradient_accumulation_dtype", parameters),
        "master_weights": getattr(optimizer, "master_weights_and_grads_dtype", parameters),
    }
    return {name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items()} | {"student": student_dtype}


def spoken_precision(precision: dict[str, str]) -> str:
    """The line that a run begins with, and the row of its model card."""
    return (
        f"parameters {precision['parameters']}, gradients summed in {precision['gradients']}, master weights "
        f"{precision['master_weights']}; the student is written in {precision['student']}"
    )
