import errno
from pathlib import Path

import pytest
import torch
from train.tiny import train_config

from kdcache.errors import ConfigError, TrainError
from kdcache.launcher import World, find_world
from kdcache.train.distributed import check_address
from kdcache.train.launch import find_device, in_words, run_train


def test_ranks_come_from_a_launcher_or_srun_or_there_is_none() -> None:
    assert find_world(environment={}) is None
    assert find_world(environment={"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == World(3, 8, 1)
    assert find_world(environment={"RANK": "0", "WORLD_SIZE": "1"}) == World(0, 1, 0)
    with pytest.raises(ConfigError, match="got rank 5 of 4"):
        find_world(environment={"RANK": "5", "WORLD_SIZE": "4"})
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    assert find_world(environment=srun | {"MASTER_ADDR": "node0"}) == World(5, 8, 1)
    assert find_world(environment={"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    with pytest.raises(ConfigError, match="got 8 srun tasks without MASTER_ADDR"):
        check_address(World(5, 8, 1), srun)


def test_nproc_under_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = train_config(Path("cache"), Path("out"))
    with pytest.raises(ConfigError, match="got --nproc 2 under a launcher that started 2 ranks"):
        run_train(config, nproc=2, config_path="train.yaml", overrides=[])


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="got device: cuda and no GPU"):
        find_device("cuda")
    assert find_device("auto") == "cpu"


def test_a_fault_of_the_storage_is_said_in_words(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "inside"
    faults: list[Exception] = [OSError(errno.ENOSPC, "No space left on device")]
    for write in (lambda: inside.write_text("a"), lambda: save_file({"a": torch.zeros(8)}, inside)):
        with pytest.raises(Exception, match=r"Not a directory") as caught:
            write()
        faults.append(caught.value)
    for fault in faults:
        said = in_words(fault, World(1, 2, 1), "run it again")
        assert isinstance(said, TrainError)
        assert "rank 1 cannot read or write a file: " in str(said)
        assert str(said).endswith("; run it again")
    bug = ValueError("of ours")
    assert in_words(bug, World(), "") is bug
