import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import make_model
from pydantic import BaseModel
from train.tiny import train_config, write_cache

from kdcache import open_cache
from kdcache.errors import ConfigError
from kdcache.stream.mixture import Mixture
from kdcache.train.engine import EngineSettings, read_deepspeed
from kdcache.train.pinned import FREE, check_unchanged, files_of_student
from kdcache.train.plan import plan
from kdcache.train.settings import TrainConfig

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "deepspeed").glob("*.json"))


def config(**changes: Any) -> TrainConfig:
    return train_config(Path("cache"), Path("out"), **changes)


def engine(**changes: Any) -> EngineSettings:
    return plan(config(**changes)).engine


def pinned(settings: TrainConfig) -> dict[str, Any]:
    return plan(settings).pinned


def test_what_a_run_means_comes_from_the_training_config() -> None:
    settings = engine(global_batch=64, micro_batch=4, stream={"lanes": 8}).for_deepspeed(4)
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["train_batch_size"] == 64
    assert settings["gradient_clipping"] == 1.0
    assert settings["optimizer"]["params"]["torch_adam"] is True
    assert settings["zero_optimization"]["stage"] == 1


def test_an_offloaded_optimizer_is_deepspeeds_own() -> None:
    offload = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}
    assert engine(deepspeed=offload).for_deepspeed(1)["optimizer"]["params"]["torch_adam"] is False


def test_monitors_stay_out_of_the_engine() -> None:
    mine = {"csv_monitor": {"enabled": True, "output_path": "x"}}
    assert "csv_monitor" not in engine(deepspeed=mine).for_deepspeed(1)
    assert engine(deepspeed=mine).for_monitors(Path("out")).keys() == {"tensorboard", "csv_monitor"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_files_are_accepted(path: Path) -> None:
    settings = read_deepspeed(str(path))
    assert str(settings["zero_optimization"]["stage"]) == path.stem[4]
    assert ("bf16" in settings) == ("bf16" in path.stem)


def test_all_stages_are_shipped() -> None:
    assert {path.stem for path in SHIPPED} == {"zero0", "zero1", "zero2", "zero3", "zero1-bf16", "zero3-bf16"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"type": "Adam"}}, "got optimizer in deepspeed, expected it only in the training config"),
        ({"gradient_clipping": 1.0}, "remove it and set optimizer.clip_norm"),
        ({"zero_optimization": {"stage": 4}}, "got zero_optimization.stage 4 in deepspeed, expected 0, 1, 2 or 3"),
        ({"bf16": {"enabled": True}}, "got bf16 at ZeRO stage 0 in deepspeed, expected stage 1, 2 or 3"),
        ({"fp16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "got fp16 at ZeRO stage 0"),
        ({"bf16": True}, "got bf16 True in deepspeed, expected a mapping such as"),
        ({"bf16": {"enabled": "false"}}, "got bf16.enabled 'false' in deepspeed, expected true or false"),
        ({"zero_optimization": 2}, "got zero_optimization 2 in deepspeed, expected a mapping"),
        (
            {"zero_optimization": {"allgather_bucket_size": "auto"}},
            'zero_optimization.allgather_bucket_size "auto"',
        ),
        ({"zero_optimization": {"offload_optimizer": {"device": "auto"}}}, "optimization.offload_optimizer.device"),
        ({"data_types": {"grad_accum_dtype": "auto"}}, 'got data_types.grad_accum_dtype "auto" in deepspeed'),
        ({"optimizer": {"type": "Adam", "params": {"lr": "auto"}}}, "got optimizer in deepspeed"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10}}}, "got scheduler in deepspeed"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}, "got optimizer in deepspeed"),
        ({"bf17": {}}, "unknown key bf17 in deepspeed; did you mean bf16"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_deepspeed(settings)


def test_auto_values_of_files_written_for_others_are_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"train_batch_size": "auto", "bf16": {"enabled": False}}))
    assert read_deepspeed(str(path)) == {"bf16": {"enabled": False}}


OF_THE_TRAINER: dict[str, Any] = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
    "steps_per_print": 2000,
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "none", "pin_memory": True},
        "offload_param": {"device": "none", "pin_memory": True},
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
"""The stage 3 file of transformers' documentation."""


def test_the_file_of_another_trainer_is_answered_from_our_settings() -> None:
    """Sizes as transformers makes them of hidden_size."""
    student = {"config": {"model_type": "llama"}, "dtype": "bfloat16"}
    settings = engine(deepspeed=OF_THE_TRAINER, student=student).for_deepspeed(1, width=40)
    assert settings["bf16"] == {"enabled": True}
    assert settings["fp16"] == {"enabled": False, "loss_scale": 0, "initial_scale_power": 16}
    assert settings["optimizer"]["params"]["torch_adam"] is True
    assert settings["zero_optimization"] == {
        "stage": 3,
        "sub_group_size": 1e9,
        "reduce_bucket_size": 1600,
        "stage3_prefetch_bucket_size": 1440,
        "stage3_param_persistence_threshold": 400,
    }
    assert '"auto"' not in json.dumps(settings)


AUTO: dict[str, Any] = {"enabled": "auto"}
ON: dict[str, Any] = {"enabled": True}
OFF: dict[str, Any] = {"enabled": False}


@pytest.mark.parametrize(
    ("halves", "dtype", "answer"),
    [
        ({"bf16": AUTO}, "bfloat16", {"bf16": ON}),
        ({"fp16": AUTO}, "bfloat16", {"bf16": ON, "fp16": OFF}),
        ({"bf16": AUTO, "fp16": AUTO}, "float16", {"bf16": OFF, "fp16": ON}),
        ({"bf16": ON, "fp16": AUTO}, "float32", {"bf16": ON, "fp16": OFF}),
        ({"bf16": AUTO}, "float32", None),
        ({"bf16": AUTO, "fp16": OFF}, "float16", None),
        ({"bf16": OFF, "fp16": AUTO}, "bfloat16", None),
    ],
)
def test_half_precision_left_open_is_never_float32(
    halves: dict[str, Any], dtype: str, answer: dict[str, Any] | None
) -> None:
    settings = {**halves, "zero_optimization": {"stage": 1}}
    if answer is None:
        with pytest.raises(ConfigError, match=r'16\.enabled "auto" in deepspeed and student.dtype .*: write student'):
            read_deepspeed(settings, dtype)
    else:
        got = read_deepspeed(settings, dtype)
        assert {key: got[key] for key in got if key != "zero_optimization"} == answer


@pytest.mark.parametrize("idle", [{"device": "none"}, {"device": None}, {"pin_memory": True}, None])
def test_offloading_to_nothing_is_none(idle: dict[str, Any] | None) -> None:
    zero = {"stage": 3, "offload_optimizer": idle, "offload_param": idle}
    settings = engine(deepspeed={"zero_optimization": zero}).for_deepspeed(1)
    assert settings["zero_optimization"] == {"stage": 3}
    assert settings["optimizer"]["params"]["torch_adam"] is True


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; expected a DeepSpeed JSON file"):
        read_deepspeed(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_deepspeed(str(tmp_path / "bad.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds list, expected a mapping"):
        read_deepspeed(str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"terms": [{"name": "cross_entropy"}]}, "terms"),
        ({"seed": 1}, "seed"),
        ({"stream": {"lanes": 8}}, "stream.lanes"),
        ({"global_batch": 16}, "global_batch"),
        ({"stage": 2}, "deepspeed.zero_optimization.stage"),
        ({"optimizer": {"learning_rate": 0.5, "eps": 0.01}}, "optimizer.learning_rate"),
        ({"student": {"config": {"model_type": "llama"}}}, "student.config"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 1}, "prescale_gradients": True}},
            "deepspeed.prescale_gradients",
        ),
    ],
)
def test_a_changed_setting_that_matters_is_named(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"got {key} .*, expected .* as in the checkpoints of out"):
        check_unchanged(pinned(config()), pinned(config(**change)), "out")


def test_another_cache_is_named(tmp_path: Path) -> None:
    run, held = plan(config()), [open_cache(write_cache(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    pinned = [run.pinned_with(Mixture.of(one)) for one in held]
    check_unchanged(pinned[0], pinned[0], "out")
    with pytest.raises(ConfigError, match=f"got cache {held[1].digest}, expected {held[0].digest}"):
        check_unchanged(pinned[0], pinned[1], "out")


def test_settings_that_do_not_decide_a_step_may_change() -> None:
    now = train_config(
        Path("moved"),
        Path("elsewhere"),
        steps=99,
        micro_batch=1,
        log_every=7,
        loss_chunk=5,
        checkpoint={"every": 3},
        eval={"cache": "held-out"},
    )
    check_unchanged(pinned(config()), pinned(now), "out")


def test_every_setting_is_pinned_but_for_the_free_ones() -> None:
    """So a setting that is added is pinned, until somebody decides that it may change."""
    settings = set(dotted(config()))
    free = {key for key in settings if any(key == name or key.startswith(f"{name}.") for name in FREE)}
    assert settings - free - {"deepspeed"} == {key for key in pinned(config()) if not key.startswith("deepspeed.")}
    sections = {key.rpartition(".")[0] for key in settings}
    assert {name for name in FREE if not name.startswith("deepspeed.")} <= settings | sections | {"eval"}


def dotted(section: BaseModel, name: str = "") -> Iterator[str]:
    for key, value in section:
        yield from dotted(value, f"{name}{key}.") if isinstance(value, BaseModel) else [f"{name}{key}"]


def test_the_folder_of_a_student_is_pinned_by_content(tmp_path: Path) -> None:
    make_model(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("of no matter")
    make_model(tmp_path / "other", seed=1)
    one, moved, other = (files_of_student(tmp_path / name) for name in ("one", "moved", "other"))
    check_unchanged(one, moved, "out")
    with pytest.raises(ConfigError, match=r"got student.path model.safetensors .*, expected .* as in the checkpoints"):
        check_unchanged(one, other, "out")
    (tmp_path / "moved" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"got student.path config\.json"):
        check_unchanged(one, files_of_student(tmp_path / "moved"), "out")


def test_the_source_of_a_users_module_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "of_mine_to_pin.py"
    source.write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = pinned(config(module="of_mine_to_pin"))
    source.write_text("A = 2\n")
    after = pinned(config(module="of_mine_to_pin"))
    with pytest.raises(ConfigError, match=r"got module .*; go on with the old one, allow the change with -o allow_c"):
        check_unchanged(before, after, "out")
    (change,) = check_unchanged(before, after, "out", ["module"])
    assert change["key"] == "module"
