"""What needs DeepSpeed and two ranks, in two launches: see launched.py."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Run, next_typed
from safetensors.torch import load_file
from torch import Tensor
from train.tiny import stream_of, student_config, train_config

from kdcache.errors import ConfigError, TrainError
from kdcache.launcher import World
from kdcache.losses.distillation import distillation_loss
from kdcache.store.cache import open_cache
from kdcache.stream.mixture import Mixture
from kdcache.students.collate import Collator
from kdcache.students.making import make_student
from kdcache.students.scoring import evaluate_model
from kdcache.train.done import check_steps
from kdcache.train.export_step import export_step
from kdcache.train.plan import plan
from kdcache.train.schedule import learning_rate
from kdcache.train.settings import TrainConfig

pytestmark = pytest.mark.launch

STAGES = (0, 1, 2, 3)


def weights(root: Path, name: str) -> dict[str, Tensor]:
    return load_file(root / name / "student" / "model.safetensors")


def log(root: Path, name: str, group: str = "train") -> list[dict[str, Any]]:
    lines = (root / name / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["group"] == group]


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def plain(root: Path) -> dict[int, Any]:
    """The same ten steps as each stage's by torch's AdamW and autograd over whole logits."""
    by_chance, by_length = (
        plain_training(train_config(root / "cache", root / "plain", steps=10, stream=stream_of(stage)))
        for stage in (1, 2)
    )
    return {stage: by_length if stage == 2 else by_chance for stage in STAGES}


def plain_training(config: TrainConfig) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    cache = open_cache(config.cache)
    student = make_student(config.student, cache, config.seed)
    settings = config.optimizer
    groups = [
        {"params": [p for p in student.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in student.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)
    lines = []
    collate = Collator(student, cache)
    with plan(config).batches.loader(Mixture.of(cache), World()) as loader:
        for step in range(10):
            loss, positions = torch.zeros(()), 0
            for batch in next(loader):
                inputs = collate(batch)
                arguments = inputs.model.arguments
                logits_PV = student(**arguments, use_cache=False).logits.flatten(0, 1)[inputs.flat_P]
                supervision = inputs.supervision
                assert supervision.targets is not None
                kl = distillation_loss(logits_PV, supervision.targets, reduction="sum")
                nll = torch.nn.functional.cross_entropy(logits_PV, supervision.labels_P, reduction="sum")
                loss, positions = loss + 0.7 * kl + 0.3 * nll, positions + len(logits_PV)
            loss = loss / positions
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(student.parameters(), settings.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total_steps=10, peak=settings.learning_rate, schedule=config.schedule)
            optimizer.step()
            lines.append({"loss": float(loss.detach()), "gradient_norm": float(norm)})
    state = {name: p.detach() for name, p in student.named_parameters()}
    return state, lines


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_steps_of_a_plain_loop(root: Path, plain: Any, stage: int) -> None:
    expected_weights, expected_log = plain[stage]
    assert largest_difference(weights(root, f"stage{stage}-by2"), expected_weights) < 1e-5
    for line, expected in zip(log(root, f"stage{stage}-by2"), expected_log, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert line["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)


def test_batches_by_length_are_others(plain: dict[int, Any]) -> None:
    """So that the runs of stage 2, resumed and at another world size, say something of stream.length_groups."""
    assert largest_difference(plain[2][0], plain[1][0]) > 1e-3


@pytest.mark.parametrize("name", [*(f"stage{stage}-by2-then2" for stage in STAGES), "stage1-by1-then1"])
def test_ten_steps_are_five_and_five_bit_for_bit(root: Path, name: str) -> None:
    once = weights(root, name.rpartition("-")[0])
    again = weights(root, name)
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert [line["step"] for line in log(root, name)] == list(range(1, 11))
    assert not list((root / name / "checkpoints" / ".kdcache").iterdir())


@pytest.mark.parametrize("name", ["several-by2-then2", "several-by1-then1"])
def test_a_mixture_of_caches_goes_on_bit_for_bit(root: Path, name: str) -> None:
    once, again = weights(root, name.rpartition("-")[0]), weights(root, name)
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert [line["step"] for line in log(root, name)] == list(range(1, 11))


@pytest.mark.parametrize("name", ["several-by1", "several-by2-then1"])
def test_a_mixture_of_caches_is_the_same_at_any_world_size(root: Path, name: str) -> None:
    """And other than its larger cache alone; the log and the card name both caches and how often each was read."""
    for line, expected in zip(log(root, name), log(root, "several-by2"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert largest_difference(weights(root, name), weights(root, "several-by2")) < 1e-5
    assert largest_difference(weights(root, name), weights(root, "stage1-by2")) > 1e-3
    lines = [json.loads(line) for line in (root / name / "log.jsonl").read_text().splitlines()]
    digests = [open_cache(root / folder).digest for folder in ("cache", "small")]
    found = [(line["cache_sha256"], line["weight"], line["passes"]) for line in lines if line["group"] == "cache"]
    assert found == [(digests[0], 3, 1.25), (digests[1], 1, 2.0)]
    card = (root / name / "student" / "README.md").read_text()
    assert f"| cache 2 | {digests[1]} (10 examples" in card.replace("`", "")
    assert "weight 1, gone through 2 times" in card
    saved = json.loads((root / name / "done.json").read_text())["settings"]
    assert (saved["caches.1"], saved["caches.1.weight"]) == (digests[1], 1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_of_two_ranks_goes_on_at_one(root: Path, stage: int) -> None:
    two, one = f"stage{stage}-by2", f"stage{stage}-by2-then1"
    for line, expected in zip(log(root, one), log(root, two), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert largest_difference(weights(root, one), weights(root, two)) < 1e-5
    assert not (root / one / ".kdcache" / "universal").exists()


@pytest.mark.parametrize(
    "name", ["of-config-unseen", "of-config-then", "of-folder", "of-folder-unseen", "of-folder-then"]
)
def test_dropout_depends_on_neither_source_nor_evaluations_nor_a_resume(root: Path, name: str) -> None:
    once, again = weights(root, "of-config"), weights(root, name)
    assert all(torch.equal(once[key], again[key]) for key in once)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_reads_from_the_device_once(root: Path, ranks: int, stage: int) -> None:
    """Where the ranks meet; what DeepSpeed reads besides is its own."""
    read = json.loads((root / f"reading-by{ranks}.json").read_text())[str(stage)]
    own = [(name, place.rpartition(":")[0]) for name, place in read if place.startswith("kdcache/")]
    assert own == [("tolist", "kdcache/train/loop.py")]


def test_gradients_do_not_depend_on_world_size_or_micro_batch(root: Path) -> None:
    found = {path.stem: torch.load(path) for path in root.glob("gradients-*.pt")}
    assert len(found) == 7
    reference = found["gradients-by1-micro8"]["gradients"]
    for result in found.values():
        for step, expected in zip(result["gradients"], reference, strict=True):
            assert largest_difference(step, expected) < 1e-5
    assert max(gradient.abs().max() for gradient in reference[0].values()) > 0.01


def test_a_rank_without_positions_was_among_them(root: Path) -> None:
    assert torch.load(root / "gradients-by2-micro4.pt")["fewest"] == 0
    assert torch.load(root / "gradients-by1-micro8.pt")["fewest"] > 0


@pytest.mark.parametrize("name", ["stage0-by2", "stage3-by2", "bf16-3"])
def test_the_folder_loads_and_has_the_figures_that_training_reported(root: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    student = AutoModelForCausalLM.from_pretrained(root / name / "student", dtype="auto")
    assert student.dtype == (torch.bfloat16 if name.startswith("bf16") else torch.float32)
    figures = evaluate_model(student.float(), open_cache(root / "held-out"), batch_examples=3)
    reported = json.loads((root / name / "done.json").read_text())["evaluation"]
    assert figures.keys() == reported.keys()
    assert figures["positions"] == open_cache(root / "held-out").num_positions
    assert figures == pytest.approx(reported, rel=2e-2 if name.startswith("bf16") else 1e-4)
    card = (root / name / "student" / "README.md").read_text()
    assert open_cache(root / "cache").digest in card
    assert f"{reported['kl']:.6g}" in card


@pytest.mark.parametrize("name", ["stage1-by2", "stage3-by2", "bf16-1", "bf16-3"])
def test_the_folder_holds_the_master_weights_of_the_last_checkpoint(root: Path, name: str) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    masters = get_fp32_state_dict_from_zero_checkpoint(str(root / name / "checkpoints"), tag="step-00000010")
    exported = weights(root, name)
    assert exported.keys() < {key.removeprefix("student.") for key in masters}
    for key, value in exported.items():
        assert torch.equal(value, masters[f"student.{key}"].to(value.dtype)), key
    if name == "bf16-1":
        assert not torch.equal(exported["model.norm.weight"], exported["model.norm.weight"].bfloat16().float())


def test_bf16_stays_near_float32(root: Path) -> None:
    for name in ("bf16-1", "bf16-3"):
        for line, expected in zip(log(root, name), log(root, "stage1-by2"), strict=True):
            assert line["loss"] == pytest.approx(expected["loss"], rel=2e-2)


@pytest.mark.parametrize(
    ("name", "parameters", "student"),
    [("stage0-by2", "float32", "float32"), ("bf16-1", "bfloat16", "float32"), ("bf16-3", "bfloat16", "bfloat16")],
)
def test_a_run_says_what_precision_it_had(root: Path, name: str, parameters: str, student: str) -> None:
    assert json.loads((root / name / "done.json").read_text())["precision"] == {
        "parameters": parameters,
        "gradients": parameters,
        "master_weights": "float32",
        "student": student,
    }
    card = (root / name / "student" / "README.md").read_text()
    assert f"master weights float32; the student is written in {student} |" in card


def test_a_mixtures_balancing_loss_is_the_same_in_parts(root: Path) -> None:
    """Of tied weights, some of them above the cache's classes."""
    assert largest_difference(weights(root, "mixture-3"), weights(root, "mixture-0")) < 1e-5
    for line, expected in zip(log(root, "mixture-3"), log(root, "mixture-0"), strict=True):
        assert line["balance"] == pytest.approx(expected["balance"], rel=1e-5)
        assert line["balance"] > 1
        parts = 0.7 * line["forward_kl@1"] + 0.3 * line["cross_entropy"] + 0.5 * line["balance"]
        assert line["loss"] == pytest.approx(parts, rel=1e-6)


def test_evaluations_are_logged_for_tensorboard_too(root: Path) -> None:
    assert [line["step"] for line in log(root, "stage1-by2", "eval")] == [4, 8, 10]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root / "stage1-by2" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/kl")] == [4, 8, 10]
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([line["loss"] for line in log(root, "stage1-by2")])


@pytest.mark.parametrize("name", ["stage1-by2-then2", "stage2-by2-then1"])
def test_tensorboard_and_the_log_agree_after_a_restart(root: Path, name: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root / name / "tensorboard")).Reload()
    for group, measure in (("train", "loss"), ("eval", "kl")):
        lines = log(root, name, group)
        assert [event.step for event in events.Scalars(f"{group}/{measure}")] == [line["step"] for line in lines]
        values = [event.value for event in events.Scalars(f"{group}/{measure}")]
        assert values == pytest.approx([line[measure] for line in lines])


def test_lines_of_the_log_carry_time_and_epoch(root: Path) -> None:
    """Six steps are an epoch of 48 examples in batches of 8."""
    lines = log(root, "stage1-by2")
    assert [line["epoch"] for line in lines] == [round(step / 6, 4) for step in range(1, 11)]
    times = [datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ") for line in lines]
    assert times == sorted(times)


@pytest.mark.parametrize("name", [*(f"stage{stage}-by2" for stage in STAGES), "bf16-3", "sources-of-export"])
def test_a_student_is_exported_from_any_checkpoint(root: Path, tmp_path: Path, name: str) -> None:
    """As the run itself wrote it after its last step, and as it was in the middle; a student of a folder too."""
    name = "of-folder" if name == "sources-of-export" else name
    target, step = export_step(root / name, tmp_path / "now")
    assert step == 10
    last, own = load_file(target / "model.safetensors"), weights(root, name)
    assert last.keys() == own.keys()
    assert all(torch.equal(last[key], own[key]) for key in own)
    assert (target / "config.json").read_bytes() == (root / name / "student" / "config.json").read_bytes()
    _, step = export_step(root / name, tmp_path / "then", step=5)
    assert step == 5
    then = load_file(tmp_path / "then" / "model.safetensors")
    assert not all(torch.equal(then[key], own[key]) for key in own)
    assert "| steps | 5 of 8 examples |" in (tmp_path / "then" / "README.md").read_text()
    with pytest.raises(TrainError, match=r"step-00000007 is damaged or not there .* there are those of steps 5, 10"):
        export_step(root / name, tmp_path / "never", step=7)
    with pytest.raises(ConfigError, match="expected a new or empty folder, or a student that kdcache made"):
        export_step(root / name, root / "cache")


def test_an_earlier_student_is_written_by_the_command_that_is_told(root: Path, tmp_path: Path, run: Run) -> None:
    """A run that is to have fewer steps than it has."""
    with pytest.raises(ConfigError) as caught:
        check_steps(5, 10, root / "stage1-by1")
    typed = next_typed(str(caught.value))
    assert typed[-1] == "DIR"
    status, _, err = run(*typed[:-1], tmp_path / "then")
    assert status == 0, err
    assert (tmp_path / "then" / "model.safetensors").is_file()


def test_an_export_of_another_cache_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got cache .*, expected .* as in the checkpoints"):
        export_step(root / "stage1-by2", tmp_path / "out", overrides=[f"cache={root / 'held-out'}"])
    with pytest.raises(ConfigError, match="holds no training run"):
        export_step(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["weightless", "edited", "examined"])
def test_a_finished_run_that_is_not_whole_is_finished_again_from_its_checkpoint(root: Path, name: str) -> None:
    once, again = weights(root, "stage1-by1"), weights(root, name)
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert [line["step"] for line in log(root, name)] == list(range(1, 11))
    assert [line["step"] for line in log(root, name, "eval")] == [4, 8, 10]


def test_a_student_that_was_edited_is_put_aside(root: Path) -> None:
    (aside,) = (path for path in (root / "edited").iterdir() if path.name.startswith("student."))
    assert (aside / "README.md").read_text() == "mine"
    assert (root / "edited" / "student" / "README.md").read_text() != "mine"


def test_figures_of_another_evaluation_are_taken_again(root: Path) -> None:
    figures = [json.loads((root / name / "done.json").read_text())["evaluation"] for name in ("stage1-by1", "examined")]
    assert figures[1]["positions"] < figures[0]["positions"]
    assert f"{figures[1]['kl']:.6g}" in (root / "examined" / "student" / "README.md").read_text()


def test_a_finished_run_goes_on_with_more_steps_and_a_rate_that_was_allowed(root: Path) -> None:
    assert [line["step"] for line in log(root, "further")] == list(range(1, 13))
    assert log(root, "further")[-2]["lr"] < log(root, "further")[1]["lr"] / 2
    (change,) = log(root, "further", "change")
    assert (change["step"], change["key"]) == (10, "optimizer.learning_rate")
    assert (change["from"], change["to"]) == (0.02, 0.01)
    card = (root / "further" / "student" / "README.md").read_text()
    assert "| changed on the way | optimizer.learning_rate 0.02 to 0.01 after step 10 |" in card
    assert "| steps | 12 of 8 examples |" in card


def test_what_cannot_be_gone_on_with_is_refused_in_one_line(root: Path) -> None:
    said = json.loads((root / "again.json").read_text())
    assert "holds a finished run and no checkpoint to go on from" in said["bare"]
    for name in ("short", "weightless"):
        assert "got a run of 8 steps whose " in said[name]
        assert "has reached step 10, expected at least as many" in said[name]
        assert f"run kdcache export {root / name} --step 8 --out DIR" in said[name]
    assert "got optimizer.learning_rate 0.01, expected 0.02 as in the checkpoints of" in said["edited"]
    assert "allow the change with -o allow_change=[optimizer.learning_rate]" in said["edited"]
    assert all("\n" not in words for words in said.values())


def test_only_the_newest_checkpoints_are_kept(root: Path) -> None:
    kept = sorted(path.name for path in (root / "many" / "checkpoints").glob("step-*"))
    assert kept == ["step-00000008", "step-00000010"]


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(root: Path) -> None:
    said = json.loads((root / "failures.json").read_text())["hot"]
    assert "in step 2 is not a number" in said
    assert (root / "hot" / "checkpoints" / "latest").read_text() == "step-00000001\n"


def test_a_full_disk_keeps_the_checkpoint_before(root: Path) -> None:
    said = json.loads((root / "failures.json").read_text())["full"]
    assert "checkpoint of step 10 cannot be written" in said
    assert "No space left" in said
    assert (root / "full" / "checkpoints" / "latest").read_text() == "step-00000005\n"
    assert (root / "full" / "checkpoints" / "step-00000005" / "kdcache.json").is_file()


def test_a_wider_student_takes_the_steps_of_a_plain_loop_over_its_whole_softmax(root: Path) -> None:
    """And what is saved scores what training reported."""
    from transformers import AutoModelForCausalLM

    wide = {"config": student_config(vocab_size=310)}
    config = train_config(root / "cache", root / "wide", steps=10, student=wide)
    expected, _ = plain_training(config)
    assert largest_difference(weights(root, "wide"), expected) < 1e-5

    held_out = open_cache(root / "held-out")
    trained = AutoModelForCausalLM.from_pretrained(root / "wide" / "student")
    inputs = Collator(trained, held_out)(held_out.read(0, len(held_out)))
    with torch.no_grad():
        logits_PV = trained(**inputs.model.arguments, use_cache=False).logits.flatten(0, 1)[inputs.flat_P]
    nll = torch.nn.functional.cross_entropy(logits_PV, inputs.supervision.labels_P).item()
    reported = json.loads((root / "wide" / "done.json").read_text())["evaluation"]
    assert reported["label_nll"] == pytest.approx(nll, rel=1e-5)


def test_a_truncated_checkpoint_is_named_with_what_to_do(root: Path) -> None:
    said = json.loads((root / "failures.json").read_text())["truncated"]
    assert "step-00000005 is damaged (mp_rank_00_model_states.pt has 1,000 bytes, expected" in said
    assert "copy one back, start anew with another output, or delete that folder" in said
    assert "\n" not in said
