"""Students as a stranger uses them: python stranger.py JOBS.json, a folder and transformers, and no kdcache.

JOBS.json: a list of {"folder", "task", "rows", ...}. Prints a list of scores, one dict a job, by the plain formulas and
seqeval. The tests compare them with what `kdcache eval` says.
"""

import json
import math
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline


def language_model(folder: str, rows: list[str], ended: bool) -> dict[str, float]:
    """Loss in nats a token. ended: whether the end of text is a token to be foretold."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for text in rows:
        ids = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if ended else [])
        with torch.no_grad():
            logits_LV = model(torch.tensor([ids])).logits[0, :-1, : len(tokenizer)]
        total += torch.nn.functional.cross_entropy(logits_LV, torch.tensor(ids[1:]), reduction="sum").item()
        count += len(ids) - 1
    (generated,) = pipeline("text-generation", model=folder)(rows[0][:20], max_new_tokens=4, min_new_tokens=1)
    assert generated["generated_text"].startswith(rows[0][:20])
    return {"label_nll": total / count}


def sequence_classification(folder: str, rows: list[dict[str, str]], **_: Any) -> dict[str, float]:
    """rows: text, label, and of pairs text_pair."""
    classify = pipeline("text-classification", model=folder, truncation=True, top_k=None, trust_remote_code=True)
    inputs = [{key: row[key] for key in ("text", "text_pair") if key in row} for row in rows]
    labels, loss, predicted = [row["label"] for row in rows], 0.0, []
    for found, label in zip(classify(inputs), labels, strict=True):
        predicted.append(found[0]["label"])
        loss -= math.log(next(one["score"] for one in found if one["label"] == label))
    batched = (
        [found[0]["label"] for found in classify(inputs, batch_size=4)] if classify.tokenizer.pad_token else predicted
    )
    assert batched == predicted
    return {"label_nll": loss / len(rows), "macro_f1": macro_f1(labels, predicted), **accuracy(labels, predicted)}


def token_classification(folder: str, rows: list[tuple[list[str], list[str]]], between: str = " ") -> dict[str, float]:
    """rows: words and their tags. A word's tag is that of its first token, the space before it included."""
    from seqeval.metrics import f1_score

    tag = pipeline("token-classification", model=folder, ignore_labels=[], trust_remote_code=True)
    predicted: list[list[str]] = []
    for words, _ in rows:
        tokens = tag(between.join(words))
        end, tags = 0, []
        for word in words:
            tags.append(next(token["entity"] for token in tokens if token["start"] >= end))
            end += (len(between) if end else 0) + len(word)
        predicted.append(tags)
    true = [tags for _, tags in rows]
    flat = [tag for tags in true for tag in tags], [tag for tags in predicted for tag in tags]
    entity_f1 = float(f1_score(true, predicted, zero_division=0))
    return {"entity_f1": entity_f1, "macro_f1": macro_f1(*flat), **accuracy(*flat)}


def accuracy(true: list[str], predicted: list[str]) -> dict[str, float]:
    return {"accuracy": sum(a == b for a, b in zip(true, predicted, strict=True)) / len(true)}


def macro_f1(true: list[str], predicted: list[str]) -> float:
    """Over the classes that occur, as scikit-learn has it."""
    values = []
    for name in sorted({*true, *predicted}):
        hits = sum(a == b == name for a, b in zip(true, predicted, strict=True))
        values.append(2 * hits / (true.count(name) + predicted.count(name)))
    return sum(values) / len(values)


TASKS: dict[str, Any] = {
    "causal_lm": language_model,
    "sequence_classification": sequence_classification,
    "token_classification": token_classification,
}

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    found = []
    for job in jobs:
        task = TASKS[job.pop("task")]
        found.append(task(**job))
    assert not [name for name in sys.modules if name.split(".")[0] == "kdcache"]
    print(json.dumps(found))
