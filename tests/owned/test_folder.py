"""Output folders: absent, empty or marked, else refused before a byte is written."""

import hashlib
from pathlib import Path

import pytest

from kdcache.errors import ConfigError
from kdcache.owned.folder import OWNER, Owner, check_output, claim, mark, read_owner, scratch


def tree(folder: Path) -> dict[str, str]:
    """Everything under a folder: the digest of each file, the target of each link."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_an_absent_or_empty_folder_is_marked(tmp_path: Path) -> None:
    for name in ("absent", "empty", "mounted"):
        folder = tmp_path / name
        if name != "absent":
            folder.mkdir()
        if name == "mounted":
            (folder / "lost+found").mkdir()
        claim(folder, "cache", config={"seed": 1})
        owner = read_owner(folder)
        assert owner is not None
        assert (owner.kind, owner.config) == ("cache", {"seed": 1})
        claim(folder, "cache", config={"seed": 2})
        assert read_owner(folder) == owner, "the first one's mark stays"


def test_a_folder_with_scratch_alone_counts_as_empty(tmp_path: Path) -> None:
    """A dump that was killed before its first file."""
    scratch(tmp_path, "index").mkdir(parents=True)
    claim(tmp_path, "cache")
    assert read_owner(tmp_path) is not None


@pytest.mark.parametrize("kind", ["cache", "run", "student", "model"])
def test_a_folder_of_the_users_is_refused_and_not_touched(tmp_path: Path, kind: str) -> None:
    (tmp_path / "thesis.tex").write_text("all I have")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"holds thesis.tex, which kdcache did not write.*another output.*--force"):
        claim(tmp_path, kind)  # type: ignore[arg-type]
    assert tree(tmp_path) == before


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, "run")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a training run of kdcache .*; expected .* or a cache that kdcache"):
        claim(tmp_path, "cache")
    assert tree(tmp_path) == before


def test_force_takes_a_folder_over_says_so_and_deletes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("all I have")
    claim(tmp_path, "cache", force=True)
    assert "--force: output" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "all I have"
    claim(tmp_path, "cache")


def test_a_damaged_mark_is_refused_until_force_makes_it_anew(tmp_path: Path) -> None:
    claim(tmp_path, "cache")
    for damage in (b"", b"{}", b"[1]", b'{"kind": "house", "made_by": "me"}', b"\xff", b"[" * 100_000):
        (tmp_path / OWNER).write_bytes(damage)
        with pytest.raises(ConfigError, match="damaged mark"):
            claim(tmp_path, "cache")
        assert (tmp_path / OWNER).read_bytes() == damage
    claim(tmp_path, "cache", force=True)
    assert read_owner(tmp_path) == Owner("cache")


def test_a_known_folder_without_a_mark_is_taken(tmp_path: Path) -> None:
    (tmp_path / "header.json").write_text("{}")
    claim(tmp_path, "cache", known=lambda: True)
    assert (tmp_path / OWNER).is_file()


def test_files_and_links_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    folder.mkdir()
    (folder / ".kdcache").symlink_to(elsewhere)
    for path, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "is a file"),
        (tmp_path / "dangling", "is a link to"),
        (folder, "is a link to"),
    ):
        with pytest.raises(ConfigError, match=words):
            claim(path, "cache")
        with pytest.raises(ConfigError, match=words):
            claim(path, "cache", force=True)
    assert not [*elsewhere.iterdir()]
    (tmp_path / "link").symlink_to(elsewhere)
    claim(tmp_path / "link", "cache")
    assert (elsewhere / OWNER).is_file()


def test_a_folder_inside_a_marked_one_is_refused_even_with_force(tmp_path: Path) -> None:
    claim(tmp_path / "cache", "cache")
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"lies inside .*a cache of kdcache; expected a folder beside it"):
            claim(tmp_path / "cache" / "deep" / "er", "run", force=force)
    assert not (tmp_path / "cache" / "deep").exists()


def test_an_output_is_apart_from_what_is_read(tmp_path: Path) -> None:
    teacher, corpus = tmp_path / "teacher", tmp_path / "data" / "texts.jsonl"
    teacher.mkdir()
    corpus.parent.mkdir()
    corpus.write_text("{}")
    link = tmp_path / "link"
    link.symlink_to(teacher)
    inputs = {"teacher.path": [teacher], "corpus.paths": [corpus]}
    for output, words in (
        (teacher, "which is teacher.path"),
        (link, "which is teacher.path"),
        (teacher / "cache", "which lies inside teacher.path"),
        (corpus.parent, "which holds corpus.paths"),
        (tmp_path, "which holds"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_output(output, "cache", inputs=inputs, force=True)
    check_output(corpus.parent / "cache", "cache", inputs=inputs)
    check_output(tmp_path / "cache", "cache", inputs={"teacher.path": ["some/hub-name"]})


def test_a_mark_keeps_the_digests_of_files(tmp_path: Path) -> None:
    mark(tmp_path, Owner("student", files={"config.json": "ab"}), replace=True)
    owner = read_owner(tmp_path)
    assert owner is not None
    assert owner.files == {"config.json": "ab"}
