"""Checkpoints as files, without an engine: damage, strangers beside them, and what goes when."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.errors import KdcacheError, TrainError
from kdcache.launcher import World
from kdcache.train.checkpoint import Checkpoints, Saved
from kdcache.train.checkpoint_folder import CheckpointFolder, name_of, step_of, to_drop
from kdcache.train.sealed import STATE, _digest, faults, read_seal, seal, share_of
from kdcache.train.settings import CheckpointConfig
from kdcache.train.unpickling import only_weights

WEIGHTS, MOMENTS = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"


def write(output: Path, step: int) -> Path:
    """A sealed checkpoint of random bytes."""
    folder = output / "checkpoints" / name_of(step)
    (folder / "offloaded").mkdir(parents=True)
    for name in (WEIGHTS, MOMENTS, "offloaded/rank00"):
        (folder / name).write_bytes(bytes([step]) + os.urandom(3000))
    state = {"name": folder.name, "step": step, "world_size": 1, "loader": {"epoch": 0}, "settings": {"seed": 0}}
    seal(folder, state, {})
    (folder.parent / "latest").write_text(f"{folder.name}\n")
    return folder


def checkpoints(output: Path, keep: int = 2) -> Checkpoints:
    return Checkpoints(output, CheckpointConfig(keep=keep), World())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for step in (5, 10):
        write(tmp_path, step)
    return tmp_path


def step_gone_on_from(output: Path) -> int:
    found = checkpoints(output).latest()
    assert found is not None
    return found.step


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path) -> None:
    path.unlink()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(1 << 43)


@pytest.mark.parametrize("damage", [flipped, zeroed, cut_off, emptied, deleted, a_fifo, a_device, huge])
@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS, "offloaded/rank00", STATE])
def test_a_damaged_newest_one_is_passed_over_with_a_sentence(
    output: Path, damage: Callable[[Path], None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(output / "checkpoints" / "step-00000010" / name)
    assert step_gone_on_from(output) == 5
    said = capsys.readouterr().err
    if (damage, name) == (deleted, STATE):
        assert said.endswith("names 'step-00000010', which is not there; taking step-00000005, the newest\n")
    else:
        assert f"step-00000010 is damaged ({name.removesuffix('…')}" in said
        assert "; taking step-00000005 instead" in said
    assert said.count("\n") == 1
    with pytest.raises(TrainError, match=r"step-00000010 is damaged or not there .*; there are those of steps"):
        checkpoints(output).at(10)


def test_when_none_is_whole_the_run_does_not_begin_anew(output: Path) -> None:
    for step in (5, 10):
        flipped(output / "checkpoints" / name_of(step) / MOMENTS)
    with pytest.raises(TrainError, match=r"no checkpoint to go on from: step-00000010 is damaged .*step-00000005 is"):
        checkpoints(output).latest()
    for step in (5, 10):
        shutil.rmtree(output / "checkpoints" / name_of(step))
    with pytest.raises(TrainError, match="latest names 'step-00000010' and no checkpoint is there; expected a whole"):
        checkpoints(output).latest()


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path).latest(sweep=True) is None
    assert checkpoints(tmp_path).steps() == []
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("lost", [None, b"", b"step-00000007\n", b"step-00000010-best", b"../../elsewhere", b"\xff\0"])
def test_latest_is_found_again(output: Path, lost: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    latest = output / "checkpoints" / "latest"
    latest.unlink()
    if lost is not None:
        latest.write_bytes(lost)
    shutil.copytree(output / "checkpoints" / name_of(10), output / "checkpoints" / "step-00000010-best")
    assert step_gone_on_from(output) == 10
    said = capsys.readouterr().err
    assert ("latest is lost" if lost is None else "which is not there; taking step-00000010, the newest") in said


def test_a_run_that_is_set_back_by_hand_goes_on_from_there(output: Path) -> None:
    (output / "checkpoints" / "latest").write_text("step-00000005")
    assert step_gone_on_from(output) == 5
    flipped(output / "checkpoints" / name_of(5) / MOMENTS)
    assert step_gone_on_from(output) == 10


def test_a_copy_under_another_name_is_no_checkpoint(output: Path) -> None:
    shutil.copytree(output / "checkpoints" / name_of(10), output / "checkpoints" / name_of(20))
    (output / "checkpoints" / "latest").unlink()
    assert step_gone_on_from(output) == 10
    assert checkpoints(output).steps() == [5, 10, 20]


def test_a_file_that_is_not_listed_is_damage(output: Path) -> None:
    folder = output / "checkpoints" / name_of(10)
    (folder / "notes.txt").write_text("mine")
    assert step_gone_on_from(output) == 10
    (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"another rank's")
    assert step_gone_on_from(output) == 5


def test_reading_writes_nothing(output: Path) -> None:
    half = output / "checkpoints" / ".kdcache" / "saving" / name_of(15)
    half.mkdir(parents=True)
    before = sorted(output.rglob("*"))
    checkpoints(output).latest()
    checkpoints(output).at(5)
    assert sorted(output.rglob("*")) == before
    checkpoints(output).latest(sweep=True)
    assert sorted(output.rglob("*")) == [path for path in before if path not in (half, half.parent)]


def saved_by_hand(output: Path, step: int, keep: int = 2) -> None:
    """What Checkpoints.save does, but for the engine."""
    mine = checkpoints(output, keep)
    mine.files.begin()
    written = write(output.with_name("elsewhere"), step)
    written.rename(mine.files.saving / written.name)
    mine._stand(Saved(written.name, step, 1, {}, {}), {})
    shutil.rmtree(output.with_name("elsewhere"))


def test_old_ones_go_by_step_and_nothing_else_goes(output: Path) -> None:
    folder = output / "checkpoints"
    mine = ["step-00000001-best", "step-1", "step-000000001", "step-00000001.partial", "notes", "step-00000003"]
    for name in mine:
        (folder / name).mkdir()
    (folder / "step-00000002").write_text("a file of this name")
    shutil.copy(folder / name_of(5) / STATE, folder / "step-00000001-best")
    for k, step in enumerate((5, 10)):
        os.utime(folder / name_of(step), (time.time() + 9e5 * (1 - 2 * k),) * 2)  # the clock was set back
    saved_by_hand(output, 15)
    assert checkpoints(output).steps() == [10, 15]
    assert step_gone_on_from(output) == 15
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*mine, "step-00000002", ".kdcache", "latest", "step-00000010", "step-00000015"]
    )


def test_what_is_in_the_way_and_not_ours_is_moved_and_kept(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        (output / "checkpoints" / name_of(15)).mkdir()
        (output / "checkpoints" / name_of(15) / "mine").write_text("mine")
        saved_by_hand(output, 15)
        assert "is no checkpoint of kdcache; moved it to step-00000015.aside-" in capsys.readouterr().err
        shutil.rmtree(output / "checkpoints" / name_of(15))
    kept = sorted(path.parent.name for path in (output / "checkpoints").rglob("mine"))
    assert kept == ["step-00000015.aside-1", "step-00000015.aside-2"]


def test_one_that_gave_way_comes_back_when_the_new_one_was_not_finished(output: Path) -> None:
    files = CheckpointFolder(output / "checkpoints")
    files.replaced.mkdir(parents=True)
    (output / "checkpoints" / name_of(10)).rename(files.replaced / name_of(10))
    found = checkpoints(output).latest(sweep=True)
    assert found is not None
    assert found.step == 10
    assert not files.replaced.exists()


@given(
    steps=st.sets(st.integers(0, 30), max_size=8),
    now=st.integers(0, 30),
    keep=st.integers(1, 4),
    damaged=st.sets(st.integers(0, 30), max_size=4),
)
def test_what_is_dropped(steps: set[int], now: int, keep: int, damaged: set[int]) -> None:
    steps, damaged = steps | {now}, damaged - {now}
    dropped = set(to_drop(steps, now, keep, damaged))
    sound = sorted(step for step in steps - damaged if step <= now)
    assert dropped <= steps
    assert now not in dropped
    assert {step for step in steps if step > now}.isdisjoint(dropped)
    assert sorted(set(sound) - dropped) == sound[-keep:]


@given(st.text(max_size=20))
def test_names(name: str) -> None:
    step = step_of(name)
    assert step is None or (name_of(step) == name and name.isascii())


def test_a_rank_checks_its_share(output: Path) -> None:
    _, files = read_seal(output / "checkpoints" / name_of(10))
    shares = [share_of(files, rank, 2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(files)
    flipped(output / "checkpoints" / name_of(10) / shares[1][0])
    found = [faults(output / "checkpoints" / name_of(10), files, share) for share in shares]
    assert not found[0]
    assert len(found[1]) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_state_is_the_same_or_an_error_of_ours(output: Path, data: st.DataObject) -> None:
    """Bytes changed in kdcache.json; or values changed and the folder sealed anew, by whoever wants to harm."""
    path = output / "checkpoints" / name_of(10) / STATE
    whole = path.read_bytes()
    expected = checkpoints(output).at(10)
    try:
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(whole) - 1))
            path.write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + data.draw(st.integers(0, 3)) :])
            same = True
        else:
            content = json.loads(whole)
            content.pop("sha256")
            content[data.draw(st.sampled_from([*content, "other"]))] = data.draw(JSON)
            path.write_text(json.dumps({**content, "sha256": _digest(content)}))
            same = False
        said = ""
        try:
            found = checkpoints(output).at(10)
            assert found.step == 10
            assert not same or found == expected
        except KdcacheError as error:
            said = str(error)
        assert "\n" not in said
    finally:
        path.write_bytes(whole)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_load_runs_a_pickle_whatever_its_caller_says(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed passes weights_only=False when it loads a universal checkpoint."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"fp32": Evil(tmp_path / "ran")}, tmp_path / "fp32.pt", _use_new_zipfile_serialization=zipped)
    with only_weights(), pytest.raises(Exception, match="Weights"):
        torch.load(tmp_path / "fp32.pt", weights_only=False)
    assert not (tmp_path / "ran").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_the_loss_scaler_of_half_precision_on_a_gpu_is_loaded(tmp_path: Path) -> None:
    """fp16 is not to be had on a CPU, where the launched tests run."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(65536, 1000, 1.0, 2, False, dtype=torch.float16)
    torch.save({"loss_scaler": scaler}, tmp_path / "optim_states.pt")
    with only_weights():
        assert vars(torch.load(tmp_path / "optim_states.pt")["loss_scaler"]) == vars(scaler)


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "a/../../b"])
def test_a_parameter_may_not_be_named_out_of_the_conversion(name: str) -> None:
    from kdcache.train.universal import check_names

    check_names({"param_shapes": [{"student.model.norm.weight": 1}]})
    with pytest.raises(ValueError, match="expected a name"):
        check_names({"optimizer_state_dict": {"param_slice_mappings": [{name: 1}]}})
