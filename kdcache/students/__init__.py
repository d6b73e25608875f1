"""Students: made or loaded, fed from a cache, their loss and their scores. No DeepSpeed here: this is for any trainer.

settings       StudentConfig, the section `student` of a settings file
making         makes the model from a config or loads it from a folder, and checks that it fits the cache
same_tokenizer whether a student's tokenizer is the cache's
special_ids    the tokenizer's special ids in a student's configs
trial          whether neighbours in a batch or a packed example change what a student says
collate        Collator: a Batch of a cache -> the tensors of one forward pass
prefetch       Prefetcher: the inputs of the next micro-batch, made by a thread and copied while a step runs
loss           StudentWithLoss: body, head and loss in one forward
head_loss      HeadLoss: the output layer and the loss together, as a module of its own, for any trainer
balance        the balancing loss of a mixture of experts
terms          loss_terms: the loss that some terms are on a cache
class_weights  what each class counts in a cross_entropy term
held_out       the batches of an evaluation, of like length and as many on every rank
scoring        the figures of a student on held-out text
deployed       what makes transformers' pipelines feed a finished student as its training did

tests/examples/ has training loops of plain PyTorch, Accelerate, Hugging Face's Trainer and TRL that use these.
"""
