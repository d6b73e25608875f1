"""TRL's SFTTrainer: python trl_sft.py CACHE STUDENT.json OUTPUT"""

import json
import sys

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

import kdcache

folder, config, output = sys.argv[1:]
cache = kdcache.open_cache(folder)
with open(config, encoding="utf-8") as file:
    student = kdcache.make_student(kdcache.StudentConfig(config=json.load(file)), cache, seed=0)
terms = kdcache.loss_terms([{"name": "divergence"}], cache)
collate = kdcache.Collator(student, cache)
cache.save_tokenizer(output)


class Distiller(SFTTrainer):
    def get_train_dataloader(self):
        rank = {"rank": self.args.process_index, "world_size": self.args.world_size}
        loader = kdcache.Loader(cache, global_batch=16 * self.args.world_size, seed=0, **rank)
        return loader.micro_batches(lambda batch: {"inputs": collate(batch)})

    def compute_loss(self, model, batch, return_outputs=False, num_items_in_batch=None):
        inputs = batch["inputs"].to(self.args.device)
        positions = torch.tensor(float(inputs.supervision.num_positions), device=self.args.device)
        return model(inputs, terms)[0] / self.accelerator.reduce(positions, "mean")  # so that long batches count more


arguments = SFTConfig(
    output, max_steps=12, learning_rate=0.01, lr_scheduler_type="constant", logging_steps=1, save_strategy="no",
    disable_tqdm=True, report_to=[], max_grad_norm=0, bf16=torch.cuda.is_available(),
    gradient_checkpointing=False,
)  # fmt: skip
tokens = [cache.read(0, 1).tokens(0).tolist()]  # TRL wants a dataset; the batches come from the cache
trainer = Distiller(
    student, arguments, train_dataset=Dataset.from_dict({"input_ids": tokens}),
    processing_class=AutoTokenizer.from_pretrained(output),
)  # fmt: skip
trainer.model = trainer.model_wrapped = kdcache.with_loss(student)
trainer.train()
for entry in trainer.state.log_history[:-1]:
    print(f"loss {entry['loss']:.6f}")

student.save_pretrained(output)
