"""Models of transformers: loading them whole, feeding them, their heads, and making smaller ones.

loading       the Auto class of a task, loading a model whole, trying a classifier out
hub           a folder or a name on the hub -> a folder
registry      register_student: model classes of a user's own
small_models  an embedding bag and a BiLSTM
modes         evaluating: eval mode for a while
inputs        examples -> the arguments of a model's forward, the same for teacher and student
feeding       in which passes examples go through, documents packed or apart
neighbours    whether a model's logits depend on an example's neighbours        probes    the rows to try that with
head          Head: what the body hands over, and the logits made of it        head_probe    what is true of it
wide_linear   the output layer, with float32 logits, that does a task with its own weight
taps          what goes into a module of a model and comes out of it
cut           a smaller model from some of a model's layers
saving        write a model as a plain Hugging Face folder

This package knows nothing of caches, dumps or training.
"""
