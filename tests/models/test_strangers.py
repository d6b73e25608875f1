"""Folders from strangers: no code of theirs runs unless the user says so, and no library asks."""

import ast
import io
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import yaml
from helpers import make_model, make_tokenizer, sentences, write_jsonl

from kdcache.cli import main
from kdcache.errors import KdcacheError
from kdcache.models.strangers import check_model_files, model_config
from kdcache.store.cache import open_cache
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig

PACKAGE = Path(__file__).parents[2] / "kdcache"
CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import {kind}Config as Stranger, {kind}ForCausalLM as Model, PreTrainedTokenizerFast as Words
class Config(Stranger):
    model_type = "stranger"
class Student(Model):
    config_class = Config
"""
AUTO_MAP = {
    **{"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Student", "AutoModel": "code.Student"},
    "AutoTokenizer": ["code.Words", "code.Words"],
}
MAPPED = ("config.json", "tokenizer_config.json", "generation_config.json")


def calls(name: str) -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", node))
    return found


@pytest.mark.parametrize("name", ["from_pretrained", "from_config"])
def test_every_loading_says_whether_code_may_run(name: str) -> None:
    found = calls(name)
    assert found
    silent = [place for place, call in found if "trust_remote_code" not in {word.arg for word in call.keywords}]
    assert silent == []


def test_nothing_is_unpickled_and_nothing_asks() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                words = ast.unparse(node.func)
                assert words not in ("input", "pickle.load", "pickle.loads", "pipeline", "eval", "exec"), path
                if words in ("torch.load", "np.load", "numpy.load"):
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("weights_only", "False" if words == "torch.load" else None) != "False", path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache, its teacher, and a corpus, to meet strangers with."""
    folder = tmp_path_factory.mktemp("house")
    make_tokenizer(folder / "teacher")
    make_model(folder / "teacher")
    write_jsonl(folder / "corpus.jsonl", sentences(12))
    dump = {
        "output": str(folder / "cache"),
        "corpus": {"paths": str(folder / "corpus.jsonl"), "format": "jsonl"},
        "teacher": {"path": str(folder / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 32},
    }
    (folder / "dump.yaml").write_text(yaml.safe_dump(dump))
    assert run("dump-logits", folder / "dump.yaml")[0] == 0
    return folder


def run(*arguments: object) -> tuple[int, str]:
    """Exit status and standard error of a command in this process, with someone who answers yes to everything."""
    kept = sys.argv, sys.stdin, sys.stderr
    sys.argv, sys.stdin, sys.stderr = ["kdcache", *map(str, arguments)], io.StringIO("y\n" * 20), io.StringIO()
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        said = sys.stderr.getvalue()
        sys.argv, sys.stdin, sys.stderr = kept
    return status, said


def hostile(house: Path, tmp_path: Path, model_type: str, mapped: tuple[str, ...] = MAPPED) -> tuple[Path, Path]:
    """A folder with code that writes a marker; (folder, marker)."""
    folder, marker = tmp_path / "stranger", tmp_path / "it ran"
    copytree(house / "teacher", folder)
    (folder / "code.py").write_text(CODE.format(marker=str(marker), kind="Llama"))
    for name in mapped:
        config = json.loads((folder / name).read_text()) | {"auto_map": AUTO_MAP}
        if name == "config.json":
            config["model_type"] = model_type
        (folder / name).write_text(json.dumps(config))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker), kind="Llama"))
    return folder, marker


COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "eval": lambda house, it, out: ["eval", it, "--cache", house / "cache"],
    "eval --untrained": lambda house, it, out: ["eval", it, "--untrained", "--cache", house / "cache"],
    "eval --teacher": lambda house, it, out: ["eval", house / "teacher", "--teacher", it, "--cache", house / "cache"],
    "cut": lambda house, it, out: ["cut", it, "--layers", "0", "--out", out],
    "dump --check": lambda house, it, out: dump(house, it, out, "--check"),
    "dump": lambda house, it, out: dump(house, it, out),
    "dump tokenizer": lambda house, it, out: [
        *dump(house, house / "teacher", out),
        *("-o", "teacher=none", "-o", f"tokenizer={it}"),
    ],
}
STUDENT = "make_student"
"""What `kdcache train` does with a folder, without its launcher."""


def attempt(command: str, house: Path, it: Path, out: Path) -> tuple[int, str]:
    """Exit status and the last line of standard error."""
    if command != STUDENT:
        status, said = run(*COMMANDS[command](house, it, out))
        assert "Traceback" not in said
        return status, ([*said.strip().splitlines(), ""])[-1] if status == 0 else said.strip().splitlines()[-1]
    kept, sys.stdin = sys.stdin, io.StringIO("y\n" * 20)
    try:
        make_student(StudentConfig(path=str(it)), open_cache(str(house / "cache")), 0)
    except KdcacheError as error:
        return error.exit_status, f"kdcache: {error}"
    finally:
        sys.stdin = kept
    return 0, ""


def dump(house: Path, it: Path, out: Path, *more: str) -> list[object]:
    return ["dump-logits", house / "dump.yaml", "-o", f"teacher.path={it}", "-o", f"output={out}", *more]


@pytest.mark.parametrize("command", [*COMMANDS, STUDENT])
@pytest.mark.parametrize("model_type", ["stranger", "llama"])
def test_no_command_runs_a_strangers_code(house: Path, tmp_path: Path, command: str, model_type: str) -> None:
    it, marker = hostile(house, tmp_path, model_type)
    status, last = attempt(command, house, it, tmp_path / "out")
    assert not marker.exists()
    if model_type == "stranger" and command != "dump tokenizer":
        assert status in (1, 2)
        assert last.startswith("kdcache: ")


def test_a_stranger_that_is_trusted_runs(house: Path, tmp_path: Path) -> None:
    it, marker = hostile(house, tmp_path, "stranger", ("config.json",))
    rmtree(it / "custom_generate")
    status, said = run("eval", it, "--cache", house / "cache", "--trust-remote-code")
    assert marker.exists()
    assert status == 0, said


def test_the_head_of_a_stranger(house: Path, tmp_path: Path) -> None:
    from kdcache.models.head_file import load_shell

    it, marker = hostile(house, tmp_path, "stranger")
    with pytest.raises(KdcacheError, match="does not load"):
        load_shell(it, None, "cpu")
    assert not marker.exists()


def test_pickled_weights_are_refused(house: Path, tmp_path: Path) -> None:
    import torch

    marker = tmp_path / "it ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(marker),))

    folder = tmp_path / "pickled"
    copytree(house / "teacher", folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Bomb()}, folder / "pytorch_model.bin")
    for command in ("eval", "cut", "dump", STUDENT, "eval --untrained"):
        status, last = attempt(command, house, folder, tmp_path / "out")
        assert status in (1, 2), command
        assert last.startswith("kdcache: ")
        assert not marker.exists()
    with pytest.raises(ValueError, match=r"its weights are pickled \(pytorch_model.bin\)"):
        check_model_files(folder)


def changed(folder: Path, name: str, **settings: Any) -> None:
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "/elsewhere"}, "it holds a PEFT adapter"),
        ("config.json", {"attn_implementation": "evil/kernel"}, "attention kernel evil/kernel"),
        ("config.json", {"_attn_implementation": "evil/kernel@main:f"}, "attention kernel evil/kernel"),
        ("config.json", {"text_config": {"attn_implementation": {"": "a/b"}}}, "attention kernel a/b"),
        ("config.json", {"experts_implementation": "evil/kernel"}, "attention kernel evil/kernel"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../../x.safetensors"}}, "expected *.safetensors files"),
        ("model.safetensors.index.json", {"weight_map": {"a": "pytorch_model.bin"}}, "expected *.safetensors files"),
        ("model.safetensors.index.json", {"weight_map": 5}, "has no weight_map"),
        ("model.safetensors.index.json", {}, "has no weight_map"),
    ],
)
def test_configs_that_lead_elsewhere_are_refused(
    house: Path, tmp_path: Path, name: str, settings: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "stranger"
    copytree(house / "teacher", folder)
    changed(folder, name, **settings)
    for command in ("eval", "cut", "dump", STUDENT):
        status, last = attempt(command, house, folder, tmp_path / "out")
        assert status in (1, 2), command
        assert last.startswith("kdcache: ")
        assert words in last


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),
        ("config.json", {"quantization_config": {"quant_method": "evil"}}),
        ("config.json", {"quantization_config": "evil"}),
        ("generation_config.json", {"custom_generate": "/elsewhere", "max_length": "x"}),
        ("generation_config.json", {"transformers_version": 5, "cache_implementation": "evil"}),
        ("config.json", {"_name_or_path": "../../../elsewhere"}),
        ("config.json", {"hidden_size": "a"}),
        ("config.json", {"hidden_size": 0}),
        ("config.json", {"num_attention_heads": -1}),
        ("config.json", {"dtype": "evil"}),
        ("config.json", {"architectures": "evil"}),
        ("config.json", {"architectures": [5]}),
        ("config.json", {"model_type": []}),
        ("config.json", {"rope_scaling": {"rope_type": "evil"}}),
        ("config.json", {"auto_map": 5}),
        ("config.json", {"auto_map": {"AutoConfig": None}}),
        ("config.json", {"hidden_act": "evil"}),
        ("config.json", {"vocab_size": 2**70}),
        ("config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"hidden_size": 2**40}),
        ("tokenizer_config.json", {"tokenizer_class": 5}),
        ("tokenizer_config.json", {"auto_map": 5}),
        ("tokenizer_config.json", {"extra_special_tokens": 5}),
        ("tokenizer_config.json", {"chat_template": 5, "model_max_length": "x"}),
        ("tokenizer.json", {"model": {}}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 2**40}, "merges": []}}),
        ("tokenizer.json", {"added_tokens": [{"id": 2**31, "content": "x"}]}),
    ],
)
def test_a_config_that_makes_no_sense_ends_in_a_line(
    house: Path, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    folder = tmp_path / "stranger"
    copytree(house / "teacher", folder)
    changed(folder, name, **settings)
    for command in ("eval", "dump --check", STUDENT):
        status, last = attempt(command, house, folder, tmp_path / command)
        assert status == 0 or last.startswith("kdcache: "), command


def test_files_that_would_not_end(house: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        for number, make in enumerate((device, pipe, folder_of, listening, huge)):
            folder = tmp_path / f"{name}{number}"
            copytree(house / "teacher", folder)
            (folder / name).unlink()
            make(folder / name)
            if make is huge and name == "model.safetensors":
                continue
            with pytest.raises(ValueError, match=f"its {name} cannot be read"):
                check_model_files(folder)
            for command in ("eval", "cut", "dump", "dump tokenizer", STUDENT) if make is device else ():
                status, last = attempt(command, house, folder, tmp_path / f"out{name}{number}{command}")
                assert status in (1, 2) or (command == "dump tokenizer" and name != "tokenizer.json")
                assert last.startswith("kdcache: ") or status == 0


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_of(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    kept = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(kept)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 << 30)


def test_a_config_of_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has no config"):
        model_config(tmp_path)
