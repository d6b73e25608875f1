"""The settings of a run: one YAML file, read by config_file.py into frozen classes that refuse what they do not know.

Every class names its defaults here and nowhere else. Relative paths are relative to the working directory;
~ and $NAME are expanded in all of them.

base     what every section has
corpus   where the text is
tasks    what is asked of each row
dump     a dump: teacher, tokenizer, compute
terms    what a loss is made of
train    a training run: student, stream, optimizer, checkpoints, evaluation
"""

from kdcache.config.base import Config
from kdcache.config.corpus import CONLLU, CorpusConfig
from kdcache.config.dump import ComputeConfig, DumpConfig, TeacherConfig
from kdcache.config.tasks import (
    LABEL_FIELDS,
    CausalLMConfig,
    ClassificationConfig,
    SequenceClassificationConfig,
    TaskConfig,
    TokenClassificationConfig,
)
from kdcache.config.terms import TermConfig
from kdcache.config.train import (
    CheckpointConfig,
    EvalConfig,
    OptimizerConfig,
    ScheduleConfig,
    StreamConfig,
    StudentConfig,
    TrainConfig,
)

__all__ = [
    "CONLLU",
    "LABEL_FIELDS",
    "CausalLMConfig",
    "CheckpointConfig",
    "ClassificationConfig",
    "ComputeConfig",
    "Config",
    "CorpusConfig",
    "DumpConfig",
    "EvalConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "SequenceClassificationConfig",
    "StreamConfig",
    "StudentConfig",
    "TaskConfig",
    "TeacherConfig",
    "TermConfig",
    "TokenClassificationConfig",
    "TrainConfig",
]
