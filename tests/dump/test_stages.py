"""The stages of a dump: they run side by side, a profile shows it, and no byte and no error is another."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import files_of, kdcache, sentences, write_jsonl

from kdcache.dump.background import Background
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.dump.stages import STAGES
from kdcache.errors import ConfigError, RowError, TeacherError
from kdcache.launcher import World
from kdcache.targets.dense import Dense
from kdcache.targets.teacher_rows import TeacherRows

MakeConfig = Callable[..., DumpConfig]


def spans(profile: Path) -> dict[str, list[tuple[int, float, float]]]:
    """(unit, begin, end) of each stage, as a viewer reads them: rows by their names."""
    events = json.loads(profile.read_text())["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    found: dict[str, list[tuple[int, float, float]]] = {name: [] for name in rows.values()}
    for event in events:
        if event["ph"] == "X":
            unit = int(event["name"].removeprefix("unit "))
            found[rows[event["tid"]]].append((unit, event["ts"], event["ts"] + event["dur"]))
    return found


@pytest.mark.parametrize("threads", [0, 1, 2, 4])
def test_a_profile_shows_four_stages_and_changes_no_byte(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    threads: int,
) -> None:
    """threads: so many compress blocks, as two do beside a GPU."""
    run_dump(make_config(tmp_path / "plain"), World())
    monkeypatch.setattr("kdcache.dump.records.compressing_threads", lambda device: threads)
    capfd.readouterr()
    run_dump(make_config(tmp_path / "profiled"), World(), profile=str(tmp_path / "dump.json"))
    assert files_of(tmp_path / "profiled") == files_of(tmp_path / "plain")
    found = spans(tmp_path / "dump.json")
    assert list(found) == list(STAGES) == ["tokenise", "forward", "compress", "write"]
    for stage, times in found.items():
        assert {unit for unit, _, _ in times} == {*range(12)}, stage
        assert all(before[2] <= after[1] + 0.2 for before, after in pairwise(times)), "a row's spans overlap"
    assert len(found["forward"]) == len(found["compress"]) > 12, "one for each block"
    assert len(found["tokenise"]) == len(found["write"]) == 12
    begun = {unit: begin for unit, begin, _ in found["tokenise"]}
    compressed = {unit: end for unit, _, end in found["compress"]}
    assert all(begun[unit + 1] < compressed[unit] for unit in range(11)), "the next unit is read while one is made"
    line = next(line for line in capfd.readouterr().err.splitlines() if line.startswith("of this time"))
    assert all(f"{stage} " in line for stage in STAGES)


def test_a_kind_of_record_may_give_views_of_the_logits(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU every block of logits lies where the last one did, and yet no record changes."""

    def views(self: Dense, rows: TeacherRows, encoder: object = None) -> dict[str, np.ndarray]:
        logits_PV = rows.logits_PV.numpy()
        maximum_P = logits_PV.max(1)
        logits_PV -= maximum_P[:, None]
        return {"maximum": maximum_P, "logits": logits_PV[:]}

    dense = {"kind": "dense", "logit_dtype": "float32"}
    run_dump(make_config(tmp_path / "copies", record=dense), World())
    monkeypatch.setattr(Dense, "encode", views)
    run_dump(make_config(tmp_path / "views", record=dense), World())
    assert files_of(tmp_path / "views") == files_of(tmp_path / "copies")


def test_each_rank_writes_its_own_and_labels_have_two_stages(
    make_config: MakeConfig, teacher_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "c", tokenizer=str(teacher_folder)).model_copy(update={"teacher": "none"})
    for rank in range(2):
        run_dump(config, World(rank, 2), profile=str(tmp_path / "dump.json"))
    found = [spans(tmp_path / f"dump.{rank}.json") for rank in range(2)]
    assert [{unit for unit, _, _ in each["write"]} for each in found] == [{*range(0, 12, 2)}, {*range(1, 12, 2)}]
    assert found[0]["forward"] == found[0]["compress"] == []
    assert "side by side: tokenise" in capfd.readouterr().err


def test_the_command_writes_it_and_refuses_a_place_that_is_none(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "c", corpus={"unit_rows": 60})
    (tmp_path / "dump.yaml").write_text(config.model_dump_json(exclude_none=True))
    for place in (tmp_path, tmp_path / "nowhere" / "dump.json"):
        with pytest.raises(ConfigError, match="expected a file in a folder that is there"):
            run_dump(config, World(), profile=str(place))
    assert not (tmp_path / "c").exists()
    done = kdcache("dump-logits", tmp_path / "dump.yaml", "--profile", tmp_path / "dump.json")
    assert done.returncode == 0, done.stderr
    assert len(spans(tmp_path / "dump.json")["write"]) == 2


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_end_a_dump_where_they_always_did(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """A row that cannot be read in unit 3: the shards before it stand, though it was met while unit 2 was made."""
    monkeypatch.setattr("kdcache.dump.records.compressing_threads", lambda device: threads)
    rows = write_jsonl(tmp_path / "corpus.jsonl", sentences(120)).read_text().splitlines()
    rows[35] = '{"text": '
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    profile = tmp_path / "dump.json"
    with pytest.raises(RowError, match=r"corpus\.jsonl:36"):
        run_dump(make_config(tmp_path / "c"), World(), profile=str(profile))
    assert len([*(tmp_path / "c" / "shards").glob("**/*.json")]) == 3
    assert {unit for unit, _, _ in spans(profile)["write"]} == {0, 1, 2}, "written whatever the end"


def test_the_error_of_a_block_comes_before_that_of_a_later_one(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.dump.records.compressing_threads", lambda device: 2)

    def arrays(*_: object) -> dict[str, Any]:
        time.sleep(0.2)
        raise TeacherError("the first block")

    def rows(*given: Any, **how: Any) -> Iterator[Any]:
        yield from zip(range(1), original(*given, **how), strict=False)
        raise TeacherError("the second block")

    import kdcache.dump.records as records

    original = lambda *given, **how: (block for _, block in records_of(*given, **how))  # noqa: E731
    records_of = records.rows_of
    monkeypatch.setattr(records, "rows_of", rows)
    monkeypatch.setattr("kdcache.targets.recorder.Recorder.arrays", arrays)
    monkeypatch.setattr("kdcache.dump.compressing._named", lambda error, *rest: error)
    with pytest.raises(TeacherError, match="the first block"):
        run_dump(make_config(tmp_path / "c"), World())


@pytest.mark.parametrize(("later", "raised"), [(ValueError, OSError), (KeyboardInterrupt, KeyboardInterrupt)])
def test_an_earlier_error_behind_comes_first_but_hides_no_interrupt(
    later: type[BaseException], raised: type[BaseException]
) -> None:
    def fail() -> None:
        time.sleep(0.1)
        raise OSError("earlier")

    def work() -> None:
        with Background("test") as background:
            background.submit(fail)
            raise later

    with pytest.raises(raised):
        work()
