"""Accelerate with FSDP2: torchrun --nproc-per-node 2 accelerate_fsdp2.py CACHE STUDENT.json OUTPUT"""

import json
import sys
from itertools import islice

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import kdcache

folder, config, output = sys.argv[1:]
accelerator = Accelerator(cpu=not torch.cuda.is_available())
world, device = accelerator.num_processes, accelerator.device
cache = kdcache.open_cache(folder)
with open(config, encoding="utf-8") as file:
    student = kdcache.make_student(kdcache.StudentConfig(config=json.load(file)), cache, seed=0)
terms = kdcache.loss_terms([{"name": "divergence"}], cache)
collate = kdcache.Collator(student, cache)
model = kdcache.with_loss(student).to(device)
mesh = init_device_mesh(device.type, (world,))
for layer in student.base_model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = accelerator.prepare(torch.optim.AdamW(model.parameters(), lr=0.01))

sizes = {"global_batch": 16, "rank": accelerator.process_index, "world_size": world}
with kdcache.Loader(cache, **sizes, seed=0) as loader:
    for (batch,) in islice(loader, 12):
        positions = accelerator.reduce(torch.tensor(batch.num_positions, device=device))
        loss = model(collate(batch).to(device), terms)[0] / positions
        accelerator.backward(world * loss)  # FSDP takes the mean over processes
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"loss {accelerator.reduce(loss.detach()).item():.6f}", flush=True)

weights = {name: weight.full_tensor() for name, weight in student.state_dict().items()}
if accelerator.is_main_process:
    student.save_pretrained(output, state_dict=weights)
    cache.save_tokenizer(output)
accelerator.end_training()
