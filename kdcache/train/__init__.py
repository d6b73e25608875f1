"""Cache -> student: the DeepSpeed engine around a transformers model, and nothing of the teacher.

launch       run_train: one process, ranks of a launcher, or starting the launcher; one error line whoever fails
distributed  how ranks meet, and who speaks when they fail
run          the story of a run: cache, student, engine, resume, steps, evaluation, export
cautions     what is worth a warning before a run
engine       DeepSpeed's settings and initialize
deepspeed_autos  what other trainers leave open in a DeepSpeed file
precision    the dtypes that a run really has
schedule     pure: the learning rate of a step
loop         the steps
checkpoint   save, resume, change of world size
settings     TrainConfig
pinned       which settings a resumed run may not change
export       the plain Hugging Face folder and its model card

Only this package imports deepspeed, inside functions.
"""
