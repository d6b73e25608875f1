"""Spoiled settings files: settings, or one ConfigError, within seconds; what loads is worked on, or refused."""

import collections
import contextlib
import io
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import sentences, write_jsonl
from mutations import TooSlow, spoiled_bytes, spoiled_values, steers, time_limit

from kdcache.config.base import Config
from kdcache.config.file import _all_keys, load_config
from kdcache.dump.check import check_corpus
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError, KdcacheError, printable
from kdcache.train.settings import TrainConfig

CONFIGS = Path(__file__).parent.parent / "configs"


def shipped() -> Iterator[tuple[type[Config], str]]:
    for path in sorted(CONFIGS.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        if isinstance(data, dict) and "output" in data:
            yield (DumpConfig if "corpus" in data else TrainConfig), text


SHIPPED = [*shipped()]
KEYS = {cls: sorted({key.rpartition(".")[2] for key in _all_keys(cls)}) for cls in (DumpConfig, TrainConfig)}


def spoiled(cls: type[Config], text: str, rng: random.Random) -> bytes:
    if rng.random() < 0.25:
        return spoiled_bytes(text.encode(), rng)
    data = spoiled_values(yaml.safe_load(text), rng, KEYS[cls])
    return yaml.safe_dump(data, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def campaign(folder: Path, count: int, seed: int) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    path = folder / "spoiled.yaml"
    for number in range(count):
        cls, text = SHIPPED[number % len(SHIPPED)]
        path.write_bytes(spoiled(cls, text, random.Random(f"config {seed} {number}")))
        try:
            with time_limit():
                load_config(cls, path)
            found["loaded"] += 1
        except ConfigError as error:
            found["refused" if not steers(printable(error)) else "steers"] += 1
        except TooSlow:
            found["hang"] += 1
        except Exception as error:
            found[f"traceback {type(error).__name__}: {error}"[:200]] += 1
    return found


def test_a_spoiled_config_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = campaign(tmp_path, 25 * len(SHIPPED), 0)
    assert found.keys() <= {"loaded", "refused"}, found


@pytest.mark.long
def test_many_spoiled_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KDCACHE_FUZZ: how many thousands."""
    monkeypatch.chdir(tmp_path)
    found = campaign(tmp_path, 1000 * int(os.environ.get("KDCACHE_FUZZ", "20")), 1)
    print(f"configs: {dict(found)}", file=sys.__stderr__)
    assert found.keys() <= {"loaded", "refused"}, found


def worked_on(folder: Path, count: int, seed: int, data: dict[str, Any]) -> collections.Counter[str]:
    """What `dump-logits --check` makes of spoiled configs that load, whose corpus and teacher are small real ones."""
    found: collections.Counter[str] = collections.Counter()
    path = folder / "spoiled.yaml"
    for number in range(count):
        rng = random.Random(f"check {seed} {number}")
        path.write_bytes(yaml.safe_dump(spoiled_values(data, rng, KEYS[DumpConfig])).encode())
        kept = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        try:
            with time_limit(60):
                config = load_config(DumpConfig, path)
                check_corpus(config)
            found["checked"] += 1
        except KdcacheError:
            found["refused"] += 1
        except TooSlow:
            found[f"hang {number}"] += 1
        except Exception as error:
            found[f"traceback {number} {type(error).__name__}: {error}"[:300]] += 1
        finally:
            said = sys.stdout.getvalue() + sys.stderr.getvalue()
            sys.stdout, sys.stderr = kept
        assert not steers(said, lines=True)
    return found


def small(folder: Path, teacher: Path) -> dict[str, Any]:
    write_jsonl(folder / "corpus.jsonl", sentences(6))
    return {
        "output": str(folder / "cache"),
        "corpus": {"paths": str(folder / "corpus.jsonl"), "format": "jsonl", "text_field": "text", "unit_rows": 4},
        "teacher": {"path": str(teacher), "dtype": "float32"},
        "task": {"name": "causal_lm", "sequence_length": 32},
        "record": {"kind": "sampled", "exact_top_k": 4, "samples": 8},
        "compute": {"device": "cpu", "batch_tokens": 64, "block_positions": 64, "threads": 1},
        "seed": 1,
        "on_bad_row": "skip",
    }


def test_a_config_that_loads_is_worked_on_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = worked_on(tmp_path, 40, 0, small(tmp_path, teacher_folder))
    assert found.keys() <= {"checked", "refused"}, found


@pytest.mark.long
def test_many_configs_that_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    count = 100 * int(os.environ.get("KDCACHE_FUZZ", "20"))
    found = worked_on(tmp_path, count, 1, small(tmp_path, teacher_folder))
    print(f"dump --check: {dict(found)}", file=sys.__stderr__)
    assert found.keys() <= {"checked", "refused"}, found


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "{a: " * 3000, "- " * 3000, "? " * 500, "&a [*a]", "!!python/object/apply:os.system [ls]"),
        *(
            "!!int ''",
            "!!bool x",
            "!!timestamp x",
            "!!float x",
            "!!binary '%'",
            "!!set [a]",
            "!!omap [a]",
            "!!pairs [a]",
        ),
        *("a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &b [*b, *b, *b]\n" for i in range(20)),),
        *("a: &a {k: 1}\n" + "".join(f"b{i}: &a {{<<: [*a, *a, *a]}}\n" for i in range(20)),),
        *("output: 1\noutput: 2", "output: " + "9" * 5000, "output: " + "9" * 50, "output: 1:" + "1:" * 2000 + "1"),
        *(
            'output: "\\ud800"',
            'output: "\\0"',
            "output: 2025-02-30",
            "\x00",
            "\x1b[2J",
            "\ufeff\ufeff",
            "%YAML 9.9\n---\na",
        ),
        *("a: b: c", "\t- x", "*x", "---\na: 1\n---\nb: 2", "<<: 1", "? [a]\n: 1", "1: 2", "null: 1", "x" * (2 << 20)),
        *(
            "output: .nan",
            "output: .inf",
            "seed: .inf",
            "optimizer: {learning_rate: .nan}",
            "module: ''",
            "module: ..x",
        ),
    ],
    ids=lambda text: repr(text[:20]),
)
@pytest.mark.parametrize("cls", [DumpConfig, TrainConfig])
def test_yaml_that_no_config_is(tmp_path: Path, cls: type[Config], text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with time_limit(60), pytest.raises(ConfigError) as caught:
        load_config(cls, path)
    assert "\n" not in printable(caught.value)
    assert len(str(caught.value)) < 4000


def test_files_that_are_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.config.file.PIPE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(6 << 30)
    for name in ("pipe", "device", "huge", ".", "a\0b", "x" * 5000, "loop", "pipe/x", "\udcff"):
        with contextlib.suppress(OSError, ValueError):
            (tmp_path / "loop").symlink_to("loop")
        with time_limit(), pytest.raises(ConfigError):
            load_config(DumpConfig, f"{tmp_path}/{name}")


def test_a_config_may_come_through_a_pipe(tmp_path: Path) -> None:
    """As `kdcache dump-logits <(sed … dump.yaml)` gives one."""
    reader, writer = os.pipe()
    os.write(writer, SHIPPED[0][1].encode())
    os.close(writer)
    cls = SHIPPED[0][0]
    (tmp_path / "a.yaml").write_text(SHIPPED[0][1])
    assert load_config(cls, f"/dev/fd/{reader}") == load_config(cls, tmp_path / "a.yaml")
    os.close(reader)


@pytest.mark.parametrize("override", ["a", "=", "=1", ".=1", "a.=1", ".a=1", "a..b=1", "a=[", "a=\0", "٣=1"])
def test_overrides_that_make_no_sense(tmp_path: Path, override: str) -> None:
    cls, text = SHIPPED[0]
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config(cls, tmp_path / "a.yaml", [override])


@pytest.mark.parametrize("terms", ["[]", "[{}]", "5", "{}"])
@pytest.mark.parametrize("number", ["٣", "²", "-1", "99999999999999999999", "1e3", "0x1"])
def test_overrides_of_items_of_lists(tmp_path: Path, terms: str, number: str) -> None:
    (tmp_path / "a.yaml").write_text(f"output: a\ncache: b\nstudent: {{path: c}}\nterms: {terms}\n")
    with pytest.raises(ConfigError):
        load_config(TrainConfig, tmp_path / "a.yaml", [f"terms.{number}.weight=1"])
