"""What the tests of test_launched.py need DeepSpeed for, in one process per rank: python launched.py ROOT SCENARIO…

Each scenario leaves its results under ROOT; the tests compare them. A launch costs 10 to 20 s, a scenario 1 to 10.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from train.reading import reads
from train.tiny import dropping_student, stream_of, student_config, train_config

from kdcache.errors import KdcacheError, TrainError
from kdcache.launcher import World, find_world
from kdcache.losses.terms import LossTerms
from kdcache.store.cache import Cache
from kdcache.stream.loader import Loader
from kdcache.stream.mixture import Mixture
from kdcache.students.collate import Collator
from kdcache.students.loss import with_loss
from kdcache.students.making import make_student
from kdcache.students.prefetch import Prefetcher
from kdcache.train.distributed import connect
from kdcache.train.engine import make_engine
from kdcache.train.leaving import Leaving
from kdcache.train.loop import Trainer
from kdcache.train.plan import Run, plan
from kdcache.train.run import open_caches
from kdcache.train.run import train as train_run
from kdcache.train.settings import TrainConfig

STAGES = (0, 1, 2, 3)
SHIPPED = Path(__file__).parents[2] / "configs" / "deepspeed"


def train(config: TrainConfig, world: World, device: str) -> None:
    train_run(plan(config), world, device)


def ten_steps(root: Path, output: str, stage: int, **changes: object) -> TrainConfig:
    """10 steps with checkpoints at 5 and 10, evaluated on a cache of 11 examples in batches of 4."""
    settings = {"steps": 10, "checkpoint": {"every": 5, "keep": 3}, "stream": stream_of(stage)}
    held_out = {"cache": str(root / "held-out"), "every": 4, "batch_examples": 4}
    return train_config(root / "cache", root / output, stage=stage, **(settings | {"eval": held_out} | changes))


def stages(root: Path, world: World) -> None:
    for stage in STAGES:
        train(ten_steps(root, f"stage{stage}-by{world.size}", stage), world, "cpu")


def long(root: Path, world: World) -> None:
    """What the runs of test_command.py that are killed and stopped must come to, dropout included."""
    train(train_config(root / "cache", root / "long", stage=2, steps=60, student=dropping_student()), world, "cpu")


def alone(root: Path, world: World) -> None:
    """One rank; the newest checkpoints; a student wider than the cache."""
    train(ten_steps(root, f"stage1-by{world.size}", 1), world, "cpu")
    train(ten_steps(root, "many", 1, checkpoint={"every": 2, "keep": 2}), world, "cpu")
    wide = {"config": student_config(vocab_size=310)}
    train(ten_steps(root, "wide", 1, student=wide), world, "cpu")


def again(root: Path, world: World) -> None:
    """What the same command does with a finished run: whole, damaged, edited, longer, shorter, evaluated otherwise."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(root / "stage1-by1", root / name))

    (copy("weightless") / "student" / "model.safetensors").unlink()
    train(ten_steps(root, "weightless", 1), world, "cpu")
    (copy("edited") / "student" / "README.md").write_text("mine")
    train(ten_steps(root, "edited", 1), world, "cpu")
    copy("examined")
    few = {"cache": str(root / "held-out"), "every": 4, "batch_examples": 4, "max_examples": 5}
    train(ten_steps(root, "examined", 1, eval=few), world, "cpu")
    copy("further")
    slower = {"optimizer": {"learning_rate": 0.01, "eps": 0.01, "clip_norm": 1.0}}
    train(ten_steps(root, "further", 1, steps=12, allow_change=["optimizer.learning_rate"], **slower), world, "cpu")
    said = {}
    shutil.rmtree(copy("bare") / "checkpoints")
    (root / "bare" / "student" / "model.safetensors").unlink()
    (copy("short") / "done.json").unlink()
    for name, changes in (("bare", {}), ("short", {"steps": 8}), ("weightless", {"steps": 8}), ("edited", slower)):
        try:
            train(ten_steps(root, name, 1, **changes), world, "cpu")
        except KdcacheError as error:
            said[name] = str(error)
    (root / "again.json").write_text(json.dumps(said))


def sources(root: Path, world: World) -> None:
    """One student with dropout from a config and from a folder, evaluated in between and not, and resumed."""
    folder = root / "student"
    mixture, _ = open_caches(plan(train_config(root / "cache", root / "unused")))
    config = train_config(root / "cache", root / "unused", student=dropping_student())
    make_student(config.student, mixture.caches[0], config.seed).save_pretrained(folder)
    never = {"cache": str(root / "held-out"), "every": 0, "batch_examples": 4}
    for name, student in (("config", dropping_student()), ("folder", {"path": str(folder)})):
        train(ten_steps(root, f"of-{name}", 1, student=student), world, "cpu")
        train(ten_steps(root, f"of-{name}-unseen", 1, student=student, eval=never), world, "cpu")
        back_to_step_5(root / f"of-{name}", root / f"of-{name}-then", world)
        train(ten_steps(root, f"of-{name}-then", 1, student=student), world, "cpu")


def back_to_step_5(source: Path, target: Path, world: World) -> None:
    """A copy of a finished run as it was when a kill hit it in the middle of saving step 10."""
    if world.first:
        shutil.copytree(source, target)
        shutil.rmtree(target / "student")
        (target / "done.json").unlink()
        checkpoints = target / "checkpoints"
        half = checkpoints / ".kdcache" / "saving" / "step-00000010"
        half.parent.mkdir()
        (checkpoints / "step-00000010").rename(half)
        (half / "kdcache.json").unlink()
        (checkpoints / "latest").write_text("step-00000005\n")
    world.barrier()


def resume(root: Path, world: World) -> None:
    """Every run that has not been resumed by this world size, from step 5."""
    finished = sorted(path for path in root.glob("stage*-by?") if (path / "done.json").is_file())
    world.barrier()
    for source in finished:
        output = f"{source.name}-then{world.size}"
        back_to_step_5(source, root / output, world)
        train(ten_steps(root, output, int(source.name[5])), world, "cpu")


def several(root: Path, world: World) -> None:
    """A mixture of two caches, resumed from step 5, and what two ranks began by one."""

    def run(name: str) -> None:
        parts = [{"path": str(root / "cache"), "weight": 3}, {"path": str(root / "small")}]
        train(ten_steps(root, name, 1, cache=None, caches=parts), world, "cpu")

    run(f"several-by{world.size}")
    world.barrier()
    for source in sorted(root.glob("several-by?")):
        output = f"{source.name}-then{world.size}"
        back_to_step_5(source, root / output, world)
        run(output)


def half(root: Path, world: World) -> None:
    """The shipped bf16 settings, with float32 and with bf16 output, and gradient checkpointing.

    Those of stage 3 with what a file for another trainer leaves open.
    """
    student = {"config": student_config(), "gradient_checkpointing": True}
    shipped = str(SHIPPED / "zero1-bf16.json")
    train(ten_steps(root, "bf16-1", 1, deepspeed=shipped, student=student), world, "cpu")
    left_open = json.loads((SHIPPED / "zero3-bf16.json").read_text()) | {"bf16": {"enabled": "auto"}}
    sizes = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
    left_open["zero_optimization"] |= {"offload_optimizer": {"device": "none"}} | dict.fromkeys(sizes, "auto")
    student["dtype"] = "bfloat16"
    train(ten_steps(root, "bf16-3", 3, deepspeed=left_open, student=student), world, "cpu")


def mixture(root: Path, world: World) -> None:
    """A mixture of experts with its balancing loss, wider than the cache, with its weights whole and in parts."""
    experts = {"model_type": "mixtral", "num_local_experts": 4, "output_router_logits": True, "vocab_size": 310}
    student = {"config": student_config(**experts, router_aux_loss_coef=0.5)}
    for stage in (0, 3):
        config = train_config(root / "cache", root / f"mixture-{stage}", stage=stage, steps=4, student=student)
        train(config, world, "cpu")


def trainer_of(run: Run, cache: Cache, world: World, *, total_steps: int) -> Trainer:
    """At its first step."""
    student = make_student(run.student, cache, 0)
    return Trainer(
        make_engine(with_loss(student, chunk=3), run.engine, world.size),
        replace(run.pace(Mixture.of(cache)), total_steps=total_steps),
        LossTerms(run.terms, 300),
        world,
        device="cpu",
        step=0,
        leaving=Leaving(run.checkpoint, world),
    )


def feed_of(trainer: Trainer, loader: Loader, cache: Cache) -> Prefetcher:
    return Prefetcher(loader, Collator(trainer.engine.module.student, cache), "cpu")


def reading(root: Path, world: World) -> None:
    """What a step of each stage reads from the device, and where, after two that may set things up."""
    found = {}
    for stage in STAGES:
        run = plan(train_config(root / "cache", root / "unused", stage=stage))
        mixture, _ = open_caches(run)
        cache = mixture.caches[0]
        trainer = trainer_of(run, cache, world, total_steps=9)
        with run.batches.loader(mixture, world) as loader, feed_of(trainer, loader, cache) as feed:
            for _ in range(2):
                trainer.take_step(feed)
            with reads() as found[str(stage)]:
                trainer.take_step(feed)
    if world.first:
        (root / f"reading-by{world.size}.json").write_text(json.dumps(found))


def gradients(root: Path, world: World) -> None:
    """The gradients of three steps for each micro-batch, and the fewest positions of a rank in a step with any."""
    for micro_batch in (1, 2, 4, 8):
        if micro_batch * world.size > 8:
            continue
        config = train_config(
            root / "sparse", root / "unused", stage=0, micro_batch=micro_batch, optimizer={"clip_norm": 0}
        )
        run = plan(config)
        mixture, _ = open_caches(run)
        cache = mixture.caches[0]
        trainer = trainer_of(run, cache, world, total_steps=3)
        engine = trainer.engine
        found: list[dict[str, torch.Tensor]] = []
        update = engine.step

        def look(engine=engine, found=found, update=update) -> None:  # type: ignore[no-untyped-def]
            if engine.is_gradient_accumulation_boundary():
                found.append({name: p.grad.clone() for name, p in engine.module.named_parameters()})
            update()

        engine.step = look
        fewest = 1 << 30
        with run.batches.loader(mixture, world) as loader:
            owns = [sum(batch.num_positions for batch in next(loader)) for _ in range(3)]
        with run.batches.loader(mixture, world) as loader, feed_of(trainer, loader, cache) as feed:
            for own in owns:
                _, positions, _ = trainer.take_step(feed)
                fewest = min(fewest, own) if positions else fewest
        counts = torch.tensor([fewest])
        if world.size > 1:
            torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MIN)
        if world.first:
            torch.save(
                {"gradients": found, "fewest": int(counts)}, root / f"gradients-by{world.size}-micro{micro_batch}.pt"
            )


def failures(root: Path, world: World) -> None:
    """A loss that is not a number, a disk that is full when a checkpoint is written, one that is cut off later."""
    said = {}
    hot = ten_steps(root, "hot", 1, optimizer={"learning_rate": 1e30, "clip_norm": 0}, checkpoint={"every": 1})
    try:
        train(hot, world, "cpu")
    except TrainError as error:
        said["hot"] = str(error)
    import deepspeed

    whole = deepspeed.DeepSpeedEngine.save_checkpoint

    def full(self, folder, tag=None, **settings):  # type: ignore[no-untyped-def]
        if tag.startswith("step-00000010"):
            Path(folder, tag).mkdir()
            raise OSError(28, "No space left on device")
        return whole(self, folder, tag=tag, **settings)

    deepspeed.DeepSpeedEngine.save_checkpoint = full
    try:
        train(ten_steps(root, "full", 1), world, "cpu")
    except TrainError as error:
        said["full"] = str(error)
    deepspeed.DeepSpeedEngine.save_checkpoint = whole

    weights = root / "full" / "checkpoints" / "step-00000005" / "mp_rank_00_model_states.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    try:
        train(ten_steps(root, "full", 1), world, "cpu")
    except TrainError as error:
        said["truncated"] = str(error)
    (root / "failures.json").write_text(json.dumps(said))


SCENARIOS: dict[str, Callable[[Path, World], None]] = {
    f.__name__: f
    for f in (stages, long, alone, again, sources, resume, several, half, mixture, reading, gradients, failures)
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    world = find_world() or World()
    connect(world, "cpu")
    for name in sys.argv[2:]:
        SCENARIOS[name](Path(sys.argv[1]), world)
