"""Cache -> student: the DeepSpeed engine around a transformers model. It knows nothing of the teacher.

settings         TrainConfig, the settings of a training run
launch           run_train: one process, a rank of a launcher, or the process that starts the launcher; one error line
                 whoever fails
local_ranks      the ranks of --nproc: started, told of signals, waited for
ancestors        the launchers above a rank, which ends when one of them is gone
watch            one thread per rank, for signals and for whatever a rank cannot see while it waits
phases           what a rank is doing, and whether it gets on
beats            heartbeats of the ranks, so that one that hangs is named
leaving          when a run saves and when it leaves early, agreed by all ranks
output           the folder of a run: marked, and held by one run at a time
plan             what a run is, decided once before it starts: its settings taken apart for each part of the run
distributed      how ranks meet, and which of them speaks when they fail
run              the story of a run: cache, student, engine, resume, steps, evaluation, export
cautions         what is worth a warning before a run
engine           DeepSpeed's settings, and making its engine
deepspeed_autos  what "auto" in a DeepSpeed file means here
precision        the dtypes that a run really has
schedule         the learning rate of a step, a pure function
loop             the steps, and what the log says of them
checkpoint       saving, resuming, and changing the world size
checkpoint_folder  which checkpoints there are, which is the newest, which go
checkpoint_engine  what DeepSpeed writes and reads their files with
sealed           a folder with the size and digest of each of its files
digest           the digest of a large file, piece by piece
unpickling       torch.load that runs no code
universal        a checkpoint for another world size, in a process of its own
pinned           which settings a resumed run may not change, by content
done             done.json: what a finished run came to, and whether that stands
log              log.jsonl and TensorBoard, which say the same
export           the Hugging Face folder of the student and its model card
export_step      the same of a checkpoint: kdcache export

Only this package imports deepspeed, and only inside functions. Other trainers (plain PyTorch, Accelerate, Hugging
Face's) do not need it: they take their batches from `kdcache.stream` and their loss from `kdcache.students`.
"""
