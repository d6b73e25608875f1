"""Students: made or loaded, fed from a cache, their loss and their score. No DeepSpeed: for any trainer.

settings       StudentConfig
making         the model from a config or a folder, and the checks that it fits the cache
special_ids    the tokenizer's special ids in a student's configs
trial          whether neighbours in a batch or a packed example change what a student says
collate        Collator: a Batch of a cache -> the tensors of one forward pass
loss           StudentWithLoss: body, head and loss in one forward
balance        the balancing loss of a mixture of experts
class_weights  what each class counts in a cross_entropy term
scoring        held-out figures
deployed       what makes transformers' pipelines feed a finished student as its training did
"""
