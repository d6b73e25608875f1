"""register_student: model classes of your own as students and teachers, beside those of transformers.

A class is known by the model_type of its config, in student.config of a run and in the config.json of a finished
student. kdcache's own small ones (small_models.py) are registered in the same way. Put the call in a module of yours
and name it as `module` in the settings of a dump or a run, and in `kdcache eval --module`:

    # my_students.py
    import kdcache
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class TinyConfig(PreTrainedConfig):
        model_type = "tiny"
        ...

    class Tiny(PreTrainedModel):                 # num_labels, vocab_size and id2label come in its config
        config_class = TinyConfig

        def __init__(self, config):
            ...
            self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)    # the head, by this name
            self.post_init()

        def forward(self, input_ids, attention_mask, **_):
            ...
            return SequenceClassifierOutput(logits=logits)      # [B, C]; [B, L, C] for token classification

    kdcache.register_student(TinyConfig, sequence_classification=Tiny)

As a teacher whose features are recorded, its config says in hidden_size how many numbers the head is fed with.
"""

from typing import Any

from kdcache.errors import ConfigError
from kdcache.models.loading import auto_class
from kdcache.tasks.registry import TASKS

__all__ = ["register_small_models", "register_student"]


def register_small_models() -> None:
    """Let transformers know kdcache's own small models."""
    from kdcache.models import small_models

    register_student(
        small_models.EmbeddingBagConfig, sequence_classification=small_models.EmbeddingBagForSequenceClassification
    )
    register_student(
        small_models.BiLSTMConfig,
        sequence_classification=small_models.BiLSTMForSequenceClassification,
        token_classification=small_models.BiLSTMForTokenClassification,
    )


def register_student(config_class: Any, **model_classes: Any) -> None:
    """Let a model class of your own be a student or a teacher, beside those of transformers.

    Args:
        config_class: A subclass of transformers' PreTrainedConfig with a model_type of its own.
        model_classes: The class for each task that it serves, by the task's name, such as
            sequence_classification=MyModel.

    Raises:
        ConfigError: There is no task of this name.
    """
    import transformers

    unknown = model_classes.keys() - {*TASKS}
    if unknown:
        raise ConfigError(f"got task {', '.join(sorted(unknown))}, expected some of {', '.join(TASKS)}")
    transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for task, model_class in model_classes.items():
        auto_class(TASKS[task]).register(config_class, model_class, exist_ok=True)
