"""Cache -> student: the DeepSpeed engine around a transformers model, and nothing of the teacher.

launch       run_train: one process, ranks of a launcher, or starting the launcher; one error line whoever fails
distributed  World: which rank this is, the few collectives of a run, who speaks when ranks fail
run          the story of a run: cache, student, engine, resume, steps, evaluation, export
class_weights  what each class counts in a cross_entropy term
cautions     what is worth a warning before a run
student      the model from a config or a folder, and the checks that it fits the cache
special_ids  the tokenizer's special ids in a student's configs
balance      the balancing loss of a mixture of experts
trial        whether neighbours in a batch or a packed example change what a student says
model        StudentWithLoss: body, head and loss in one forward, so that the loss is computed inside the engine
collate      Collator: a Batch of a cache -> the tensors of one forward pass
engine       DeepSpeed's settings and initialize
deepspeed_autos  what other trainers leave open in a DeepSpeed file
precision    the dtypes that a run really has
schedule     pure: the learning rate of a step
loop         the steps
checkpoint   save, resume, change of world size
settings     which settings a resumed run may not change
evaluate     held-out figures, with or without DeepSpeed
export       the plain Hugging Face folder and its model card
cut          a smaller model from a model's layers

Only this package imports deepspeed, inside functions.
"""
