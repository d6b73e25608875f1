"""Train a student from a cache in a PyTorch loop of your own: python plain_pytorch.py CACHE STUDENT.json OUTPUT"""

import json
import sys
from itertools import islice

import torch

import kdcache

folder, config, output = sys.argv[1:]
cache = kdcache.open_cache(folder)
with open(config, encoding="utf-8") as file:
    student = kdcache.make_student(kdcache.StudentConfig(config=json.load(file)), cache, seed=0)
device = "cuda" if torch.cuda.is_available() else "cpu"
terms = kdcache.loss_terms([{"name": "divergence"}], cache)
collate = kdcache.Collator(student, cache)
model = kdcache.with_loss(student).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

with kdcache.Loader(cache, global_batch=16, micro_batch=8, seed=0) as loader:
    for step in islice(loader, 12):
        positions = sum(batch.num_positions for batch in step)
        total = 0.0
        for batch in step:
            inputs = collate(batch).pin_memory().to(device, non_blocking=True)
            loss = model(inputs, terms)[0] / positions
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss {total:.6f}", flush=True)

student.save_pretrained(output)
cache.save_tokenizer(output)
