import pytest
from one_column import open_corpus

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError

ROW = b'{"text": "a"}\n'


def names(paths: object, **more: object) -> list[str]:
    corpus = open_corpus(CorpusConfig(paths=paths, format="jsonl", unit_rows=1, **more))
    return [corpus.where(unit, 0) for unit in range(corpus.num_units)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "sub/d.json", ".hidden/e.jsonl", "_f.jsonl", "g.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ROW)
    return tmp_path


def test_folders_globs_and_files(folder):
    assert names(str(folder)) == ["a.jsonl:1", "b.jsonl:1", "sub/c.jsonl:1"]
    assert names(f"{folder}/*.jsonl") == ["_f.jsonl:1", "a.jsonl:1", "b.jsonl:1"]
    assert names(f"{folder}/**/*.json") == ["d.json:1"]
    assert names(f"file://{folder}/a.jsonl") == ["a.jsonl:1"]


def test_files_are_taken_in_order_of_their_names_and_once(folder):
    both = (str(folder / "b.jsonl"), str(folder / "a.jsonl"), f"{folder}/*.jsonl", f"{folder}/sub/../b.jsonl")
    assert names(both) == ["_f.jsonl:1", "a.jsonl:1", "b.jsonl:1"]


def test_a_name_with_glob_signs_is_a_file(folder):
    (folder / "a[1].jsonl").write_bytes(ROW)
    assert names(str(folder / "a[1].jsonl")) == ["a[1].jsonl:1"]


def test_relative_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert names(("sub", "./b.jsonl")) == ["b.jsonl:1", "sub/c.jsonl:1"]


def test_digest_is_of_contents_not_of_names_and_places(tmp_path):
    def pin(place: str, names: dict[str, bytes]) -> dict:
        for name, content in names.items():
            path = tmp_path / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return open_corpus(CorpusConfig(paths=str(tmp_path / place), format="jsonl")).pin

    first = pin("one", {"a.jsonl": ROW, "s/b.jsonl": ROW * 2})
    assert first == pin("two", {"a.jsonl": ROW, "s/b.jsonl": ROW * 2})
    assert (first["files"], first["rows"], first["bytes"]) == (2, 3, 3 * len(ROW))
    assert first == pin("three", {"a.jsonl": ROW, "t/c.jsonl": ROW * 2})
    assert first["sha256"] != pin("four", {"a.jsonl": ROW, "s/b.jsonl": ROW + ROW.replace(b"a", b"b")})["sha256"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{}/none.jsonl", "does not exist"),
        ("{}/*.csv", "matches no file"),
        ("{}/text", "no .jsonl or .ndjson file in it; it has a.txt"),
        ("{}/void", "it is empty"),
        ("zzz://bucket/a", "Protocol not known"),
    ],
)
def test_paths_that_mean_nothing_are_refused(tmp_path, path, words):
    (tmp_path / "void").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    with pytest.raises(CorpusError, match=words) as caught:
        names(path.format(tmp_path))
    assert "\n" not in str(caught.value)
    assert path.split("/")[-1] in str(caught.value)


@pytest.mark.parametrize("paths", ["", " ", ".", "/", (), ("a.jsonl", ""), None, (None,)])
def test_what_an_unset_variable_leaves_is_no_path(folder, monkeypatch, paths):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"paths"):
        CorpusConfig(paths=paths, format="jsonl")
    assert names("./") == ["a.jsonl:1", "b.jsonl:1", "sub/c.jsonl:1"]
