"""A cache names the features of the format that it uses, and a reader that lacks one says so and touches nothing."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import Run, make_model, make_tokenizer, sentences, write_jsonl
from store.making import tree, write_cache
from store.test_manifest import header

from kdcache import open_cache
from kdcache.errors import CacheError
from kdcache.store.manifest import Header, canonical, parse
from kdcache.targets.dense import Dense
from kdcache.targets.features import Features
from kdcache.targets.fields import Field

NEEDS = "needs a newer kdcache, or a module of yours that registers it: feature "


def newer(path: Path, *, feature: str = "quaternions") -> None:
    """Make a header or manifest one of a later kdcache: with a feature and with keys that are not known here."""
    values = json.loads(path.read_bytes())
    for model in (values, values.get("header", {})):
        model["later"] = {"key": 1}
    values.get("header", values)["requires"] += [feature]
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["backend/zarr", "record/sampled", "task/causal_lm"]),
        ({"records": (), "backend": "arrow"}, ["backend/arrow", "task/causal_lm"]),
        (
            {"records": (Dense(), Features()), "task": {"name": "token_classification"}},
            ["backend/zarr", "record/dense", "record/features", "task/token_classification"],
        ),
        (
            {"fields": (Field("token_types", "token", "uint8"), Field("continues", "example", "uint8"))},
            ["backend/zarr", "record/sampled", "task/causal_lm", "token_types", "windows"],
        ),
    ],
)
def test_requires_follows_from_what_is_used(changes: dict, expected: list[str]) -> None:
    made = header(**changes)
    assert made.requires == json.loads(canonical(made))["requires"] == expected
    assert parse(Header, canonical(made), "header.json").requires == expected


def test_of_a_changed_header_it_follows_anew() -> None:
    assert header().model_copy(update={"backend": "arrow"}).requires[0] == "backend/arrow"


@pytest.mark.parametrize("stored", [None, [], "all", ["backend/zarr"], ["basis", "record/sampled"]])
def test_another_one_than_follows_is_damage(stored: object) -> None:
    values = json.loads(canonical(header())) | {"requires": stored}
    with pytest.raises(CacheError, match=r"header\.json is damaged: requires: got "):
        parse(Header, json.dumps(values).encode(), "header.json")


@pytest.mark.parametrize("feature", ["quaternions", "record/mine", "backend/mine", "task/mine", "sampled"])
def test_an_unknown_feature_is_named_before_anything_else_is_wrong(tmp_path: Path, feature: str) -> None:
    write_cache(tmp_path / "cache")
    newer(tmp_path / "cache/cache.json", feature=feature)
    with pytest.raises(CacheError, match=f"{tmp_path}/cache/cache.json {NEEDS}{feature}") as caught:
        open_cache(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert ("--module" in str(caught.value)) == ("/" in feature)


def test_every_command_says_it_in_a_line_and_touches_nothing(tmp_path: Path, run: Run) -> None:
    cache = tmp_path / "cache"
    make_tokenizer(tmp_path / "teacher")
    make_model(tmp_path / "teacher", vocab_size=330)
    dump = {
        "output": str(cache),
        "corpus": {"paths": str(write_jsonl(tmp_path / "corpus.jsonl", sentences(20))), "format": "jsonl"},
        "teacher": {"path": str(tmp_path / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 32},
    }
    model = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    train = {
        "cache": str(cache),
        "output": str(tmp_path / "student"),
        "student": {"config": model | {"num_attention_heads": 1}},
        "steps": 2,
        "terms": [{"name": "cross_entropy"}],
    }
    for name, config in {"dump.yaml": dump, "train.yaml": train}.items():
        (tmp_path / name).write_text(yaml.safe_dump(config))

    assert run("dump-logits", tmp_path / "dump.yaml")[0] == 0
    newer(cache / "cache.json")
    newer(cache / "header.json")
    before = tree(tmp_path)
    for command in (
        ("inspect", cache),
        ("verify", cache),
        ("convert", cache, tmp_path / "converted", "--to", "arrow"),
        ("train", tmp_path / "train.yaml"),
        ("dump-logits", tmp_path / "dump.yaml"),
    ):
        status, _, err = run(*command)
        last = err.strip().splitlines()[-1]
        assert f"{NEEDS}quaternions" in last, (command, err)
        assert "damaged" not in err
        assert status == 1, command
        assert tree(tmp_path) == before, command
