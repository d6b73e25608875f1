"""The joint that engines share, and the half of the vLLM engine that runs here: states of prompts in, records out.

vLLM itself runs in tests/engines, in an environment of its own. Here a model of transformers stands behind `Prompts`.
"""

import json
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, saved
from safetensors.torch import save_file
from torch import Tensor

from kdcache.config.file import load_config
from kdcache.dump.engines import vllm_states
from kdcache.dump.engines.engine import Wanted
from kdcache.dump.engines.vllm import Vllm, VllmEngine, load_head
from kdcache.dump.engines.vllm_served import ServedPrompts, serve_command
from kdcache.dump.engines.vllm_states import read_states
from kdcache.dump.settings import ComputeConfig, DumpConfig, TeacherConfig
from kdcache.dump.teacher import Teacher, load_teacher
from kdcache.errors import ConfigError, TeacherError
from kdcache.launcher import World
from kdcache.models.head_file import final_norm
from kdcache.tasks import Example, task_of

WAYS = {"engine": {"kind": "vllm", "version": "0"}}


class ModelPrompts:
    """A model of transformers in vLLM's place: states before its final norm. spoil: what becomes of them."""

    def __init__(self, model: torch.nn.Module, spoil: Callable[[Tensor], Tensor] = lambda states: states) -> None:
        self.model, self.spoil, self.asked = model, spoil, list[int]()
        self._seen: list[Tensor] = []
        norm = final_norm(model)
        assert norm is not None
        norm.register_forward_pre_hook(lambda module, inputs: self._seen.append(inputs[0]))

    @torch.inference_mode()
    def states(self, prompts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        for prompt in prompts:
            self._seen.clear()
            self.model(torch.tensor([[*prompt]]), use_cache=False)
            self.asked.append(len(prompt))
            yield self.spoil(self._seen[-1][0])

    @torch.inference_mode()
    def top(self, prompts: Sequence[Sequence[int]]) -> Iterator[dict[int, float]]:
        for prompt in prompts:
            found = self.model(torch.tensor([[*prompt]]), use_cache=False).logits[0, -1].log_softmax(-1).topk(20)
            yield dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def examples() -> list[Example]:
    rng = np.random.default_rng(1)
    made = []
    for documents in ([15, 25], [23], [1, 2, 28]):
        tokens = rng.integers(3, 320, sum(documents))
        ends = np.cumsum(documents) - 1
        positions = np.setdiff1d(np.arange(0, len(tokens), 2), ends)
        made.append(Example(tokens, positions, tokens[positions + 1], np.array(documents)))
    return made


def wanted(folder: Path, **task: object) -> Wanted:
    teacher = TeacherConfig.model_validate({"path": str(folder), "dtype": "float32"})
    compute = ComputeConfig(device="cpu", block_positions=7)
    return Wanted(teacher, compute, World(), [torch.device("cpu")], task_of(task), 320, (), None, examples)


def both(family: str, folder: Path, **task: object) -> tuple[Teacher, VllmEngine, ModelPrompts]:
    asked = wanted(saved(family, folder), **task)
    teacher = load_teacher(asked.teacher, asked.compute, asked.world, task=asked.task, num_classes=320)
    prompts = ModelPrompts(teacher.model)
    return teacher, VllmEngine(asked, load_head(asked), prompts, WAYS), prompts


@pytest.mark.parametrize("attention", ["document", "causal"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_states_and_the_head_are_the_teacher(family: str, attention: str, tmp_path: Path) -> None:
    teacher, engine, prompts = both(family, tmp_path, attention=attention)
    expected, found = [*teacher.rows_of(examples())], [*engine.rows_of(examples())]
    assert max(len(logits_PV) for _, logits_PV, _ in found) == 7
    assert [part for part, _, _ in found][-1].stop == sum(len(e.positions) for e in examples())
    for place in (1, 2):
        torch.testing.assert_close(
            torch.cat([rows[place] for rows in found]),
            torch.cat([rows[place] for rows in expected]),
            rtol=1e-3,
            atol=1e-3,
        )
    torch.testing.assert_close(engine.hidden_of(examples()), teacher.hidden_of(examples()), rtol=1e-3, atol=1e-3)
    ours, theirs = engine.output_layer(), teacher.output_layer()
    assert (ours.soft_cap, ours.scale) == (theirs.soft_cap, theirs.scale)
    last = {"document": [15, 25, 23, 28], "causal": [39, 23, 31]}[attention]
    assert all(asked <= most for asked, most in zip(prompts.asked, last, strict=False))


def test_documents_that_must_not_see_each_other_are_prompts_of_their_own(tmp_path: Path) -> None:
    _, engine, prompts = both("llama", tmp_path, attention="document")
    engine.hidden_of(examples())
    apart = len(prompts.asked)
    _, engine, prompts = both("llama", tmp_path / "again", attention="causal")
    engine.hidden_of(examples())
    assert (apart, len(prompts.asked)) == (4, 3), "two documents have no position"


def test_it_is_tried_out_against_the_engines_own_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = wanted(saved("llama", tmp_path))
    teacher = load_teacher(asked.teacher, asked.compute, asked.world, task=asked.task, num_classes=320)
    VllmEngine(asked, load_head(asked), ModelPrompts(teacher.model), WAYS).try_out(asked, 64)
    assert "log-probabilities are vLLM's own" in capfd.readouterr().err
    norm = final_norm(teacher.model)
    assert norm is not None
    for spoil in (lambda states: 2 * states + 1, torch.zeros_like, lambda states: states.roll(1, 0)):
        with pytest.raises(TeacherError, match="are not those before its final norm"):
            VllmEngine(asked, load_head(asked), ModelPrompts(teacher.model, spoil), WAYS).try_out(asked, 64)
    with pytest.raises(TeacherError, match="of width 31 from vLLM, expected 32"):
        VllmEngine(asked, load_head(asked), ModelPrompts(teacher.model, lambda states: states[:, 1:]), WAYS).try_out(
            asked, 64
        )


def test_too_few_classes_and_another_vllm_are_refused(tmp_path: Path) -> None:
    asked = wanted(saved("llama", tmp_path))
    teacher = load_teacher(asked.teacher, asked.compute, asked.world, task=asked.task, num_classes=320)
    with pytest.raises(TeacherError, match="330 classes, expected at least the tokenizer's 400"):
        load_head(replace(asked, num_classes=400))
    engine = VllmEngine(asked, load_head(asked), ModelPrompts(teacher.model), WAYS)
    engine.run_as(engine.ways)
    with pytest.raises(TeacherError, match=r"expected \{'kind': 'vllm', 'version': '1'\}"):
        engine.run_as({"engine": {"kind": "vllm", "version": "1"}})


def test_states_that_do_not_come_or_are_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_states, "PATIENCE_S", 0.05)
    with pytest.raises(TeacherError, match="is its folder the same one here and there"):
        read_states(tmp_path / "a.safetensors", 3)
    (tmp_path / "b.error").write_text("OSError: No space left on device")
    with pytest.raises(TeacherError, match=r"could not write hidden states .* No space left on device"):
        read_states(tmp_path / "b.safetensors", 3)
    save_file({"states": torch.zeros(2, 4)}, tmp_path / "c.safetensors")
    with pytest.raises(TeacherError, match="got hidden states of 2 tokens from vLLM, expected 3"):
        read_states(tmp_path / "c.safetensors", 3)
    (tmp_path / "d.safetensors").write_bytes(b"no")
    with pytest.raises(TeacherError, match=r"d\.safetensors, the hidden states of a prompt, cannot be read"):
        read_states(tmp_path / "d.safetensors", 3)
    assert not [*tmp_path.glob("*.safetensors")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["teacher.engine=vlm"], "got kind vlm; did you mean vllm?"),
        (["teacher.engine=3"], "got 3, expected a mapping such as {kind: transformers}"),
        (["teacher.engine={kind: vllm, tensor_paralel_size: 2}"], "did you mean tensor_parallel_size?"),
        (["teacher.engine=vllm", "teacher.placement=device_map"], "got teacher.placement device_map for engine"),
        (["teacher.engine=vllm", "teacher.gpus_per_replica=2"], "got teacher.gpus_per_replica 2 for engine"),
        (
            ["teacher.engine=vllm", "teacher.attention_implementation=eager"],
            "got teacher.attention_impl",
        ),
        (["teacher.engine={kind: vllm, url: 'http://localhost:1'}"], "got one of teacher.engine.url and"),
        (
            ["teacher.engine={kind: vllm, url: node, folder: x}"],
            "got teacher.engine.url node, expected one",
        ),
        (["teacher.engine=vllm", "task.name=sequence_classification"], "it runs language models only"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, changes: list[str], words: str) -> None:
    (tmp_path / "dump.yaml").write_text(
        "output: out\ncorpus: {paths: x, format: jsonl, text_field: text}\nteacher: {path: t}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(DumpConfig, str(tmp_path / "dump.yaml"), changes)
    assert words in str(caught.value)


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "0.2")
    asked = wanted(saved("llama", tmp_path))
    settings = Vllm(url="http://127.0.0.1:9", folder=str(tmp_path / "states"))
    with pytest.raises(
        TeacherError, match=r"vLLM at http://127\.0\.0\.1:9: .*tried for 0\.2 s.* is started as vllm serve"
    ):
        ServedPrompts(settings, asked)
    words = shlex.split(serve_command(asked, settings))
    told = json.loads(words[words.index("--kv-transfer-config") + 1])
    assert told["kv_connector_extra_config"] == {"folder": str(tmp_path / "states")}


@pytest.mark.parametrize("other", [{"version": "2"}, {"root": "/models/b"}, {"max_model_len": 31}])
def test_a_server_that_becomes_another_one_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    """Whatever it answered since it was last looked at is not used."""
    runs: dict[str, object] = {"id": "teacher", "root": "/models/a", "max_model_len": 4096, "version": "1"}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"version": runs["version"]} if self.path == "/version" else {"data": [runs]})

        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
            save_file({"states": torch.zeros(len(prompt), 4)}, tmp_path / "0.safetensors")
            self.answer({"kv_transfer_params": {"states": "0.safetensors"}})

        def answer(self, body: dict[str, object]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Vllm(url=f"http://127.0.0.1:{server.server_port}", folder=str(tmp_path))
        prompts = ServedPrompts(settings, wanted(saved("llama", tmp_path)))
        assert [len(states) for states in prompts.states([[1, 2, 3]])] == [3]
        runs |= other
        with pytest.raises(TeacherError, match=r"has become another one: got /models/.* start that one again"):
            [*prompts.states([[1, 2, 3]])]
        server.shutdown()
