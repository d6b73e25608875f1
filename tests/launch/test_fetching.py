"""Packages are fetched by the real pip, from a folder of this machine, and kept once their digest is checked."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from fetching import cache_home, download, kept_folder


@pytest.fixture
def wheel_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of the one package that pip can find."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "tinydata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinydata/rows.txt", "one\ntwo\n")
        archive.writestr("tinydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        archive.writestr(
            "tinydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinydata-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_package_is_fetched_once(wheel_sha256: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = download("tinydata==1.0", wheel_sha256)
    assert kept == cache_home() / "packages" / "tinydata-1.0"
    assert zipfile.ZipFile(kept).read("tinydata/rows.txt") == b"one\ntwo\n"
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert download("tinydata==1.0", wheel_sha256) == kept


def test_a_kept_package_that_was_damaged_is_fetched_again(wheel_sha256: str) -> None:
    kept = download("tinydata==1.0", wheel_sha256)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    assert download("tinydata==1.0", wheel_sha256).read_bytes() == whole


@pytest.mark.usefixtures("wheel_sha256")
def test_another_digest_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"tinydata==1.0: got no file with sha256 0000.*; not used"):
        download("tinydata==1.0", "0" * 64)
    assert list((cache_home() / "packages").iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))

    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("stopped")

    def works(folder: Path) -> None:
        (folder / "whole").touch()

    with pytest.raises(RuntimeError, match="stopped"):
        kept_folder("model", fails)
    assert list(cache_home().iterdir()) == []
    assert [path.name for path in kept_folder("model", works).iterdir()] == ["whole"]
    assert kept_folder("model", fails) == cache_home() / "model"
