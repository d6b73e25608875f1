"""Models of transformers: loading them whole, feeding them, their heads, and making smaller ones.

loading       the Auto class of a task, loading a model whole, trying a classifier out
strangers     what is refused in a model's folder before anything of it is loaded, and its config
hub           a folder or a name on the hub -> a folder
registry      register_student: model classes of a user's own
small_models  kdcache's own embedding bag and BiLSTM
modes         evaluating: eval mode for a while
inputs        examples -> the arguments of a model's forward, the same for teacher and student
feeding       in which forward passes examples go through the model, documents packed or apart
neighbours    whether a model's logits depend on an example's neighbours in a batch
probes        the rows to try that with
last_bit      input embeddings with their last bit changed: what rounding does
head          Head: what a model's body hands over, and the logits made of it (bias, soft-cap, scale, final norm)
head_parts    which module of a model is its head, how wide it is, what it reads
head_probe    finds out what is true of a head
replay        a model's own forward over given hidden states, in the place of its body's
head_file     a head with its final norm from a checkpoint, without the body
wide_linear   the output layer with float32 logits, which does a task with its own weight
taps          what goes into a module of a model and what comes out of it
cut           a smaller model from some of a model's layers
saving        write a model as a plain Hugging Face folder

This package knows nothing of caches, dumps or training.

How to add a student class
--------------------------
A student (or a teacher) may be a class of your own beside those of transformers. Write one file:

1. a subclass of transformers' PreTrainedConfig with a `model_type` of its own;
2. a subclass of PreTrainedModel whose `forward` takes input_ids and attention_mask and returns logits, with its last
   layer called `classifier`, `score` or, in a language model, what get_output_embeddings gives;
3. `kdcache.register_student(MyConfig, sequence_classification=MyModel)`, by the names of the tasks that it serves.

Name the file's module as `module` in the settings of a dump or a run, and as `kdcache eval --module`. Then
`student: {config: {model_type: mine, …}}` makes one with random weights. registry.py shows a whole file, and
small_models.py has two classes that are registered in the same way.
"""
