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

loader = kdcache.Loader(cache, global_batch=16, micro_batch=8, seed=0)
with loader, kdcache.Prefetcher(loader, collate, device) as feed:
    for _ in range(12):
        first = next(feed)
        total = 0.0
        for fed in (first, *islice(feed, first.of - 1)):
            loss = model(fed.inputs, terms)[0] / fed.positions
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss {total:.6f}", flush=True)

student.save_pretrained(output)
cache.save_tokenizer(output)
