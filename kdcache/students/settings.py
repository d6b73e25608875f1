"""`student`: what a student is made from."""

from typing import Any, Literal, Self

from pydantic import model_validator

from kdcache.config.base import Config, LocalText

__all__ = ["StudentConfig"]


class StudentConfig(Config):
    """What the student is made from: exactly one of path and config.

    path: a folder, or the name of a model on the Hugging Face hub. Special ids of a folder stay as they are where they
        are special tokens of the cache's tokenizer.
    revision: the branch, tag or commit of a model on the hub.
    config: a transformers model config, with its model_type, of a student with random weights. Its vocab_size and
        special ids (end of text, padding and so on) are the cache's unless it names them. A mixture of experts adds its
        balancing loss where output_router_logits is true, times router_aux_loss_coef.
    dtype: of the weights in the folder that is written. The precision of the run is DeepSpeed's, such as bf16.enabled;
        where its file says "auto", bfloat16 or float16 here answers it.
    attention_implementation: null leaves the choice to transformers.
    gradient_checkpointing: compute activations again in the backward pass, to save memory.
    trust_remote_code: whether code that comes with the model may run.
    """

    path: LocalText | None = None
    revision: str | None = None
    config: dict[str, Any] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.config is None):
            raise ValueError("expected exactly one of student.path and student.config")
        if self.revision is not None and self.path is None:
            raise ValueError("got student.revision without student.path, expected both or none")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("got student.config without model_type, expected one, e.g. model_type: llama")
        return self
