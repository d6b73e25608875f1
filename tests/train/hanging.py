"""A module of a user's in which rank 1 hangs where the variable HANG says: in an evaluation, or in a save."""

import os
import time
from typing import Any

import torch
from transformers import LlamaModel

HANG = os.environ.get("HANG", "") if os.environ.get("RANK") == "1" else ""
forward, save = LlamaModel.forward, torch.save
trained = saved = 0


def slow_forward(self: Any, *given: Any, **named: Any) -> Any:
    global trained
    trained += self.training
    if trained and not self.training:
        if HANG == "evaluation after save" and saved:
            time.sleep(600)
        if HANG.startswith("slow evaluation"):
            time.sleep(2)
    return forward(self, *given, **named)


def slow_save(*given: Any, **named: Any) -> None:
    global saved
    saved += 1
    if HANG.endswith(", save"):
        time.sleep(600)
    save(*given, **named)


LlamaModel.forward = slow_forward
torch.save = slow_save
