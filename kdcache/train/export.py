"""The student as a plain Hugging Face folder: config.json, model.safetensors, tokenizer and a model card.

What trained it and is no part of it stays behind. With export_modules, OUTPUT/modules.safetensors has the state of
the terms' modules, numbered in the order of their terms: 0.mean.weight and so on.

Weights are the float32 master weights, rounded to student.dtype. Under ZeRO-3 they are gathered one at a time, so the
peak is the whole model in float32 on rank 0's host and one weight on every rank. The folder is written under .kdcache
and renamed when it is complete; an older student there is deleted only where every file in it is as it was written.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from kdcache import __version__
from kdcache.disk import whole_file
from kdcache.errors import as_code, in_markdown
from kdcache.launcher import World
from kdcache.models.saving import write_model
from kdcache.owned.folder import Owner, scratch
from kdcache.owned.model import swap_in
from kdcache.store.lineage import lineage
from kdcache.store.manifest import TeacherPin
from kdcache.stream.mixture import Mixture
from kdcache.students.deployed import deployed_tokenizer, pipeline_of, usage
from kdcache.students.making import student_folder
from kdcache.students.settings import StudentConfig
from kdcache.tasks.tokenizer import has_tokenizer, load_tokenizer, set_in_folder
from kdcache.train.plan import Run
from kdcache.train.precision import spoken_precision

__all__ = ["BESIDE", "STUDENT", "Told", "export_student", "full_weights", "made_from", "write_student"]

STUDENT, BESIDE = "student.", "beside."
MODULES_FILE = "modules.safetensors"


@dataclass(frozen=True)
class Told:
    """What a student's card says of its training.

    steps: that it was trained for. figures: of the held-out evaluation, if there was one. precision: of the run, where
    it is known. changes: of the settings, on the way: {"step", "key", "from", "to"}.
    """

    steps: int
    figures: dict[str, float] | None = None
    precision: dict[str, str] | None = None
    changes: Sequence[dict[str, Any]] = field(default_factory=list)


def export_student(
    engine: Any, run: Run, mixture: Mixture, world: World, told: Told, progress: Callable[[], None] = lambda: None
) -> Path:
    """Write OUTPUT/student; every rank calls it. progress: called after each weight that is gathered."""
    folder = run.output / "student"
    weights = full_weights(engine, world, STUDENT, progress)
    of_modules = full_weights(engine, world, BESIDE, progress) if run.export_modules else {}
    if world.first:
        made = scratch(run.output, "student")
        shutil.rmtree(made, ignore_errors=True)
        student = engine.module.student
        write_student(made, run, mixture, student, weights, told)
        if run.export_modules:
            with whole_file(run.output / MODULES_FILE) as file:
                file.write(save(of_modules))
        swap_in(made, folder, Owner("student", config=run.settings))
    world.barrier()
    return folder


def write_student(
    folder: Path, run: Run, mixture: Mixture, student: Any, weights: dict[str, Tensor], told: Told
) -> None:
    """Model, tokenizer and card, so that transformers' pipelines feed the model as this run did.

    student: the model that was trained, whose weights are these.
    """
    cache = mixture.caches[0]
    parameters = write_model(student.config, weights, folder, dtype=getattr(torch, run.student.dtype), like=student)
    if cache.manifest.header.tokenizer is not None:
        cache.save_tokenizer(folder)
    elif run.student.path is not None and has_tokenizer(source := student_folder(run.student)):
        _copy_tokenizer(source, folder)
    if has_tokenizer(folder):
        set_in_folder(folder, **deployed_tokenizer(student, cache, load_tokenizer(folder)))
    card = model_card(run, mixture, parameters=parameters, told=told)
    (folder / "README.md").write_text(card + usage(student, cache), encoding="utf-8")


def full_weights(
    engine: Any, world: World, prefix: str, progress: Callable[[], None] = lambda: None
) -> dict[str, Tensor]:
    """Float32 master weights whose names begin with the prefix, without it, on rank 0's CPU.

    Other ranks take part and get none. progress: called after each.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    stage = engine.zero_optimization_stage()
    weights = {}
    for name, parameter in engine.module.named_parameters():
        if not name.startswith(prefix):
            continue
        whole = parameter.detach() if stage == 0 else safe_get_full_fp32_param(parameter)
        if world.first:
            weights[name.removeprefix(prefix)] = whole.detach().float().cpu().clone()
        progress()
    return weights


def _copy_tokenizer(source: Path, target: Path) -> None:
    load_tokenizer(str(source)).save_pretrained(target)


def made_from(config: StudentConfig) -> str:
    """What a card calls it: a folder's own name, or a hub model's whole name and the commit that was fetched."""
    if config.path is None:
        return "a config, at random"
    if Path(config.path).is_dir():
        return as_code(Path(config.path).name)
    return f"{as_code(config.path)}, revision {in_markdown(student_folder(config).name)}"


def model_card(run: Run, mixture: Mixture, *, parameters: int, told: Told) -> str:
    """Where the student comes from, in Markdown with the front matter of the Hugging Face hub."""
    cache = mixture.caches[0]
    header = cache.manifest.header
    rows = {
        "parameters": f"{parameters:,}",
        "made from": made_from(run.student),
        **_told_of_caches(mixture, told.steps * run.batches.global_batch),
        "tokenizer": as_code(header.tokenizer.behaviour_sha256) if header.tokenizer else "not recorded",
        "record": ", ".join(as_code(kind.model_dump_json(exclude_none=True)) for kind in header.records)
        or "labels only",
        "steps": f"{told.steps:,} of {run.batches.global_batch} examples",
        "terms": run.told["terms"],
        "optimizer": run.told["optimizer"],
        **({"precision": spoken_precision(told.precision)} if told.precision else {}),
        **({"changed on the way": _spoken_changes(told.changes)} if told.changes else {}),
        "seed": str(run.seed),
        "kdcache": __version__,
        **_told_of_teachers(mixture),
    }
    title = "A distilled student" if header.records else "A student of labels"
    if header.teacher is not None:
        title = f"A student of {in_markdown(header.teacher.name)}"
    provenance = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    evaluation = ""
    if told.figures is not None:
        table = "".join(f"| {in_markdown(name)} | {value:.6g} |\n" for name, value in told.figures.items())
        evaluation = f"\n## Held-out evaluation\n\n| measure | value |\n|---|---|\n{table}"
    pipeline = pipeline_of(cache)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline}\ntags: [distillation, kdcache]\n---\n\n"
        f"# {title}\n\nTrained by kdcache from a cache; no teacher took part in the training.\n\n"
        f"## Provenance\n\n| what | value |\n|---|---|\n{provenance}{evaluation}"
    )


def _told_of_caches(mixture: Mixture, samples: int) -> dict[str, str]:
    """Rows of the card: each cache with its corpus, and in a mixture its weight and how often it was gone through."""
    rows = {}
    passes = mixture.passes(samples)
    for number, (cache, weight, count) in enumerate(zip(mixture.caches, mixture.weights, passes, strict=True), 1):
        of, origin = "" if mixture.alone else f" {number}", lineage(cache)
        how = "" if mixture.alone else f", weight {weight:g}, gone through {count:.3g} times"
        rows[f"cache{of}"] = (
            f"{as_code(cache.digest)} ({len(cache):,} examples, {cache.num_positions:,} positions{how})"
        )
        if sources := [digest for digest in origin.caches if digest != cache.digest]:
            rows[f"cache{of} was made of"] = ", ".join(map(as_code, sources))
        rows[f"corpus{of}"] = ", ".join(map(as_code, origin.corpora)) or "not recorded"
    return rows


def _told_of_teachers(mixture: Mixture) -> dict[str, str]:
    rows = {}
    for number, cache in enumerate(mixture.caches, 1):
        of, teacher = "" if mixture.alone else f" {number}", cache.manifest.header.teacher
        if teacher is not None:
            revision = in_markdown(teacher.revision or "not recorded")
            rows[f"teacher{of}"] = (
                f"{in_markdown(teacher.name)}, revision {revision}, {in_markdown(teacher.dtype or '')}"
            )
            rows[f"teacher{of} weights"] = as_code(teacher.weights_sha256) if teacher.weights_sha256 else "not recorded"
            if teacher.sees_more:
                rows[f"teacher{of} saw"] = _spoken_view(teacher)
    return rows


def _spoken_view(teacher: TeacherPin) -> str:
    """What the teacher saw that its student did not."""
    parts = [f"a prefix of sha256 {as_code(teacher.prefix_sha256)}"] if teacher.prefix_sha256 else []
    if teacher.messages_field:
        parts.append(f"the conversations of the column {in_markdown(teacher.messages_field)}")
    return "more than the student: " + " before ".join(parts)


def _spoken_changes(changes: Sequence[dict[str, Any]]) -> str:
    parts = (in_markdown(f"{c['key']} {c['from']} to {c['to']} after step {c['step']}") for c in changes)
    return "; ".join(parts)
