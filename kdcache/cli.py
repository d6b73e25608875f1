"""The command line: reads arguments and configs, calls the rooms, prints one line for every error.

Exit status: 0 done (of one rank of a dump: its own shards, and it says how many the others still make), 1 the work
failed, 2 the command or its config was wrong: a path in it that is not there is always 2 (errors.py, missing_path); 75
for a training run that was told to stop and goes on with the same command.
Imports happen inside the commands, so that `kdcache inspect` and `--help` start in under a second.
"""

import contextlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from kdcache.config.paths import check_local, expanded
from kdcache.disk import what_to_do
from kdcache.errors import LONGEST_LINE, ConfigError, KdcacheError, printable
from kdcache.report.plan import amount, spoken
from kdcache.report.simulate import CONSTANTS

__all__ = ["main"]

OVERRIDE_HELP = (
    "Replace a setting of the file, e.g. -o output=runs/cache -o task.sequence_length=512. May be given several times."
)

EXPORT_OVERRIDE_HELP = "Replace a setting of the run, where what it names was moved: -o cache=… or -o student.path=…"

MODULE_HELP = "Module of yours to import first, which registers what the cache or a student is made of."


class _Path(click.ParamType):
    """A path or URL, with ~ and $NAME expanded: a shell does not expand them after an equals sign."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return expanded(str(value))


class _LocalPath(_Path):
    """A path, and no URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = super().convert(value, param, ctx)
        try:
            return check_local(path)
        except ConfigError as error:
            name = param.human_readable_name if param is not None else "a path"
            raise ConfigError(f"{name}: {error}") from None


DEFAULT = click.core.ParameterSource.DEFAULT
PATH = _Path()
LOCAL = _LocalPath()


def _import_first(ctx: click.Context, param: click.Parameter, module: str | None) -> None:
    from kdcache.registry import import_extensions

    import_extensions(module)


with_module = click.option(
    "--module", help=MODULE_HELP, callback=_import_first, expose_value=False, is_eager=True, metavar="MODULE"
)

with_trust = click.option(
    "--trust-remote-code", is_flag=True, help="Let Python code that comes with the models run on this machine."
)

with_force = click.option(
    "--force",
    is_flag=True,
    help="Write into an output folder that kdcache did not make, or in which another command writes; says what that "
    "overrides, and deletes no file that kdcache did not write.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="kdcache")
def cli() -> None:
    """Run a teacher once over a corpus, keep its logits in a cache, and train many students from the cache.

    \b
    kdcache dump-logits dump.yaml      makes a cache of a teacher and a corpus
    kdcache verify runs/cache          checks that every byte is what it should be
    kdcache train train.yaml           trains a student from a cache; the teacher is not needed any more
    kdcache eval runs/student/student --cache runs/held-out

    The settings files are YAML. README.md has a pair of them to start from, and configs/SETTINGS.md every setting.
    """


@cli.command("dump-logits")
@click.argument("config", type=LOCAL)
@click.option("-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE", help=OVERRIDE_HELP)
@click.option(
    "--rank", type=click.IntRange(min=0), help="The number of this process, counted from 0, if no launcher sets RANK."
)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="How many processes share the work, if no launcher sets WORLD_SIZE.",
)
@click.option(
    "--check", is_flag=True, help="Look at every row of the corpus without loading the teacher; write nothing."
)
@click.option(
    "--profile",
    type=LOCAL,
    metavar="FILE.json",
    help="Write when each stage worked on which unit, in Chrome's trace format.",
)
@with_force
def dump_logits(
    config: str,
    overrides: tuple[str, ...],
    *,
    rank: int | None,
    world_size: int | None,
    check: bool,
    profile: str | None,
    force: bool,
) -> None:
    """Run the teacher that the settings file CONFIG names over its corpus, and write its logits to a cache.

    You may interrupt it at any time and run it again: finished shards are kept. The number of ranks may change between
    the runs, and so may the corpus: only shards whose rows changed are made again.

    With --check it looks at every row of the corpus before the teacher is loaded, names bad rows and the settings that
    would help, and writes nothing. The exit status is 1 if the bad rows would end the dump.

    At the end it says which share of the time tokenising, the teacher's forward passes, compression and writing took;
    they run side by side. With --profile the file shows that on a time line (open it in ui.perfetto.dev); of several
    ranks each writes its own, FILE.RANK.json.

    Ranks do not talk to each other, so they may be started by any launcher or by hand:

    \b
    kdcache dump-logits dump.yaml --check
    kdcache dump-logits dump.yaml
    deepspeed --num_gpus 8 --no_local_rank --module kdcache dump-logits dump.yaml
    torchrun --nproc-per-node 8 -m kdcache dump-logits dump.yaml
    srun kdcache dump-logits dump.yaml
    kdcache dump-logits dump.yaml --rank 3 --world-size 16
    """
    from kdcache.config.file import load_config
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World, find_world

    settings, process = load_config(DumpConfig, config, overrides), find_world(rank, world_size) or World()
    if not check:
        from kdcache.dump.run import run_dump

        run_dump(settings, process, force=force, profile=profile)
    elif process.rank == 0:
        from kdcache.dump.check import check_corpus

        check_corpus(settings)


@cli.command()
@click.argument("config", type=LOCAL)
@click.option("-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE", help=OVERRIDE_HELP)
@click.option(
    "--nproc", type=click.IntRange(min=1), help="Start the deepspeed launcher with this many ranks on this machine."
)
@with_force
def train(config: str, overrides: tuple[str, ...], nproc: int | None, force: bool) -> None:
    """Train the student that the settings file CONFIG names from a cache, with DeepSpeed.

    Run the same command again to go on from the last checkpoint. The number of ranks may change between the runs.
    SIGINT, SIGTERM and checkpoint.stop_after_minutes end it after a step, with a checkpoint and exit status 75; a
    second signal ends it at once.

    \b
    kdcache train train.yaml --nproc 8
    deepspeed --hostfile hosts --no_local_rank --module kdcache train train.yaml
    """
    from kdcache.config.file import load_config
    from kdcache.train.launch import run_train
    from kdcache.train.settings import TrainConfig

    settings = load_config(TrainConfig, config, overrides)
    sys.exit(run_train(settings, nproc=nproc, config_path=config, overrides=list(overrides), force=force))


@cli.command("export")
@click.argument("run", type=PATH)
@click.option("--out", required=True, type=PATH, help="The folder of the student.")
@click.option("--step", type=click.IntRange(min=1), help="Whose checkpoint is taken; by default the newest.")
@click.option("-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE", help=EXPORT_OVERRIDE_HELP)
@with_force
def export(run: str, out: str, step: int | None, overrides: tuple[str, ...], force: bool) -> None:
    """Write the student of a checkpoint of RUN, the output folder of a training run, as a Hugging Face folder.

    The cache and the folder that the student was made from have to be where the run found them, or where -o says.

    \b
    kdcache export runs/student --out runs/student-now
    kdcache export runs/student --step 2000 --out runs/student-2000 -o cache=/elsewhere/cache
    """
    from kdcache.train.export_step import export_step

    folder, written = export_step(Path(run), Path(out), step=step, overrides=overrides, force=force)
    click.echo(f"wrote {folder}, the student after step {written}")


@cli.command("eval")
@click.argument("students", nargs=-1, required=True, type=LOCAL)
@click.option(
    "--cache", required=True, type=PATH, help="A held-out cache: the text to score on, and the teacher's logits."
)
@click.option("--untrained", is_flag=True, help="Add a row for the first student's architecture with random weights.")
@click.option(
    "--batch-examples",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many examples one forward pass takes.",
)
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The temperature of the KL to the teacher.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto takes a GPU if there is one.",
)
@click.option("--teacher", type=LOCAL, help="The teacher's folder, to measure its speed beside the students'.")
@with_module
@with_trust
@click.option("--per-class", is_flag=True, help="Add a table with the scores of each class, or of each type of entity.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table; it has the scores of each class too."
)
def evaluate(students: tuple[str, ...], per_class: bool, as_json: bool, **options: Any) -> None:
    """Compare STUDENTS (model folders, or names on the hub) with the teacher on a held-out cache, in one table.

    The table has label NLL, perplexity, KL to the teacher and top-1 agreement. For a classification it has
    accuracy, macro-F1 or entity F1, calibration error, size and speed. The teacher's own figures come from the cache.

    \b
    kdcache eval runs/a/student runs/b/student --cache runs/held-out
    kdcache eval runs/spam/student --cache runs/spam-test --teacher runs/spam-teacher/student --batch-examples 32
    """
    from kdcache.report.evaluate import columns_of, evaluate_students, render, render_classes

    rows = evaluate_students(students, **options)
    click.echo(json.dumps(rows, indent=1) if as_json else _shown(render(rows, columns_of(options["cache"]))))
    if per_class and not as_json:
        click.echo(f"\n{_shown(render_classes(rows))}")


@cli.command()
@click.argument("cache", type=PATH)
@with_module
@click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Say what the records are worth at this temperature. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def inspect(cache: str, temperatures: tuple[float, ...], as_json: bool) -> None:
    """Say what is in CACHE: task, teacher, corpus, record, shards, bytes per position.

    With --temperature it also says, from the first shard, how much probability the certain classes hold at that
    temperature, how many equal draws the sample of the others is worth, and how noisy a forward-KL gradient is (below
    0.5 the noise is harmless). Ask before a run is wasted.

    \b
    kdcache inspect runs/cache --temperature 1 --temperature 2
    """
    from kdcache.report.inspect import describe, render

    facts = describe(cache, temperatures)
    click.echo(json.dumps(facts, indent=1) if as_json else _shown(render(facts)))


@cli.command()
@click.argument("cache", type=PATH)
@with_module
@click.option("--repair", is_flag=True, help="Make damaged and missing files what they were, and delete leftovers.")
@click.option(
    "--config",
    type=LOCAL,
    metavar="DUMP.YAML",
    help="The settings file of the dump, for a cache that does not keep its settings.",
)
@click.option(
    "--from", "copy", type=PATH, metavar="COPY", help="With --repair: take files from this copy of the cache."
)
@click.option("--force", is_flag=True, help="With --repair: also delete files that kdcache did not write.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="How many shards are read at the same time; as many as there are cores by default, at most 4.",
)
@click.option(
    "--anew", is_flag=True, help="Read every shard, also those that a verify found sound before it was stopped."
)
@click.option(
    "--teacher",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Run the teacher again on some examples; PATH where it is not in the folder that the dump had it from.",
)
@click.option(
    "--sample",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="With --teacher: how many examples, spread over the shards.",
)
@click.option("--seed", default=0, show_default=True, help="With --teacher: which examples.")
@click.option("--json", "as_json", is_flag=True, help="With --teacher: print JSON instead of a table.")
def verify(
    cache: str,
    *,
    repair: bool,
    config: str | None,
    copy: str | None,
    force: bool,
    jobs: int | None,
    anew: bool,
    teacher: str | None,
    sample: int,
    seed: int,
    as_json: bool,
) -> None:
    """Check every byte of CACHE: the manifest, and the counts, size and sha256 of each shard.

    If anything is wrong, it prints each fault and the command to type next, and the exit status is 1. It writes nothing
    unless you say --repair. One that was stopped goes on within a day, and reads no file again that it found sound.

    With --repair, the header comes from cache.json, a commit record from its shard and shards.arrow, and these two
    files from the header and the commit records. The tokenizer, the basis and shards are made again as they were made,
    for which corpus and teacher must be where they were. A file is written only if its digest is the recorded one: the
    cache is what it was then, byte for byte. Where it is not (another GPU or library), a line says what differs.

    With --teacher, it asks instead whether the records are what the teacher gives: it runs the teacher twice on some
    examples, and says apart how two runs of it differ, how the stored records differ from the first run, and what even
    a sound record leaves out (KL in nats at T = 1 and 2, or the noise of a sample). The exit status is 1 if the records
    differ from the teacher by more than it differs from itself.

    \b
    kdcache verify runs/cache
    kdcache verify runs/cache --repair
    kdcache verify runs/cache --repair --from s3://backup/cache
    kdcache verify runs/cache --teacher --sample 64
    kdcache verify runs/cache --teacher models/SmolLM2-135M --json
    """
    from kdcache.report.verify import verify_and_repair, verify_cache

    source = click.get_current_context().get_parameter_source
    of_the_teacher = {"sample": "--sample", "seed": "--seed", "as_json": "--json"}
    given = [word for name, word in of_the_teacher.items() if source(name) != DEFAULT]
    if teacher is not None:
        if repair or copy or force or jobs or anew:
            raise click.UsageError("got --teacher with an option of another check, expected it alone or with its own")
        from kdcache.report.teacher_check import check_teacher, refuse_unfaithful, render

        path = expanded(teacher) if teacher else None
        facts = check_teacher(cache, path, sample=sample, seed=seed, config=config)
        click.echo(json.dumps(facts, indent=1) if as_json else render(facts))
        refuse_unfaithful(facts)
    elif repair and (jobs or anew):
        raise click.UsageError("got --jobs or --anew with --repair, expected them without")
    elif repair and not given:
        verify_and_repair(cache, config=config, copy=copy, force=force)
    elif not repair and (config or copy or force):
        raise click.UsageError("got --config, --from or --force without --repair, expected it with --repair")
    elif given:
        raise click.UsageError(f"got {given[0]} without --teacher, expected it with --teacher")
    else:
        verify_cache(cache, jobs=jobs, anew=anew)


class _Amount(click.ParamType):
    """A number, perhaps with k, M, B or T behind it."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return amount(str(value))


def with_constants(command: Any) -> Any:
    """An option for each constant of a simulated plan."""
    for constant in reversed(CONSTANTS):
        usual = f"{spoken(constant.value, constant.unit)}, {constant.origin}: {constant.source}"
        text = f"{constant.words[0].upper()}{constant.words[1:]}. [{usual}]"
        command = click.option(f"--{constant.name.replace('_', '-')}", type=_Amount(), help=text)(command)
    return command


@cli.command()
@click.option("--simulate", is_flag=True, help="Figures from constants alone: nothing is read, nothing is run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@with_constants
def plan(*, simulate: bool, as_json: bool, **given: float | None) -> None:
    """Say what a cache and the runs from it will cost, before anything is spent.

    With --simulate the figures are of a corpus of 100 billion tokens on 512 GPUs, or of what you give: size of the
    cache, time of the dump, of opening, restarting and verifying, rates in training, and how many students make the
    cache worth it. Each figure stands beside its formula, and each constant says whether it was measured (by which file
    of tests/bench), cited, assumed, or given by you. Numbers may be written as 100B, 64M or 1e11.

    
    kdcache plan --simulate
    kdcache plan --simulate --tokens 15T --gpus 2048 --teacher-rate 2000 --student-rate 30000 --epochs 2
    """
    from kdcache.report.plan import render
    from kdcache.report.simulate import simulated

    if not simulate:
        raise click.UsageError("got plan alone, expected --simulate")
    made = simulated(given)
    click.echo(json.dumps(made.facts(), indent=1) if as_json else render(made))


@cli.command()
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option("--to", "backend", required=True, help="Backend of TARGET: zarr, arrow, or one that --module registers.")
@with_module
@with_force
def convert(source: str, target: str, backend: str, force: bool) -> None:
    """Write the cache SOURCE as the cache TARGET with another storage backend, shard by shard."""
    from kdcache.report.convert import convert_cache

    convert_cache(source, target, backend, force=force)


@cli.command()
@click.argument("teacher", type=LOCAL)
@click.option("--layers", required=True, metavar="0,4,8,…", help="The layers to keep, counted from 0.")
@click.option("--out", required=True, type=LOCAL, help="The folder of the new model.")
@with_trust
@with_force
def cut(teacher: str, layers: str, out: str, trust_remote_code: bool, force: bool) -> None:
    """Make a student from some of TEACHER's layers; embeddings, final norm and head stay as they are.

    \b
    kdcache cut models/SmolLM2-135M --layers 0,5,10,15,20,29 --out models/cut-6
    """
    from kdcache.models.cut import cut as cut_layers

    try:
        numbers = [int(part) for part in layers.split(",")]
    except ValueError:
        raise click.UsageError(f"got --layers {layers}, expected numbers such as 0,4,8") from None
    folder = cut_layers(teacher, numbers, Path(out), trust_remote_code=trust_remote_code, force=force)
    click.echo(f"wrote {printable(folder)}")


def _shown(text: str) -> str:
    return printable(text, lines=True)


def main() -> None:
    """Entry point of the console script: one line for an error that kdcache raised on purpose."""
    # DeepSpeed, which transformers imports too, says this on standard output wherever there is no GPU.
    _neutralise_what_libraries_say()
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator" not in record.getMessage())
    try:
        cli.main(prog_name="kdcache", standalone_mode=False)
    except KdcacheError as error:
        _complain(str(error))
        sys.exit(error.exit_status)
    except OSError as error:
        if (words := what_to_do(error)) is None:
            raise
        _complain(words)
        sys.exit(1)
    except click.exceptions.Abort:
        _complain("interrupted; run the same command again to go on")
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        hint = f"; see {where.command_path} --help" if where else ""
        _complain(f"{' '.join(error.format_message().split()).rstrip('.')}{hint}")
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)


def _complain(text: str) -> None:
    print(f"kdcache: {printable(text, limit=LONGEST_LINE)}", file=sys.stderr)


def _neutralise_what_libraries_say() -> None:
    """Their log lines and warnings quote configs and names too."""
    made, worded = logging.getLogRecordFactory(), warnings.formatwarning
    if made is not logging.LogRecord:
        return

    def record(*given: Any, **named: Any) -> logging.LogRecord:
        line = made(*given, **named)
        with contextlib.suppress(Exception):  # a line that does not fit its arguments: logging says so itself
            line.msg, line.args = _shown(line.getMessage()), ()
        return line

    def worded_plainly(*given: Any, **named: Any) -> str:
        return _shown(worded(*given, **named))

    logging.setLogRecordFactory(record)
    warnings.formatwarning = worded_plainly
