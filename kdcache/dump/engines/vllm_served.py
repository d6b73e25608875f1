"""ServedPrompts: a vLLM that runs already, as `vllm serve` or several of them behind one address.

Prompts go out as token ids over its OpenAI interface, many at a time, and each answer names the file of hidden states
in a folder that both sides see. A request without an answer is made again, as for every other server
(kdcache.remote): one that dies in the middle of a unit costs the time until it is back, up to KDCACHE_RETRY_SECONDS.

L tokens, D hidden width.
"""

import json
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from kdcache.dump.engines.engine import Wanted
from kdcache.dump.engines.vllm_states import extraction, read_states
from kdcache.errors import TeacherError, one_line
from kdcache.remote import RemoteError, retried
from kdcache.store.parallel import in_order

if TYPE_CHECKING:
    from kdcache.dump.engines.vllm import Vllm

__all__ = ["ServedPrompts", "serve_command"]

TIMEOUT_S = 600
TOKEN = "token_id:"
"""How vLLM spells a token by its id."""


class Running(NamedTuple):
    """What a server says that it runs: the name and the folder of a model, its longest prompt, vLLM's version."""

    name: str | None
    root: str | None
    longest: int | None
    version: str

    def __str__(self) -> str:
        return f"{self.root or self.name} of {self.longest} tokens in vLLM {self.version}"


class ServedPrompts:
    """A client of such a server.

    Args:
        settings: Of the engine, with its `url` and `folder`.
        wanted: What is to be read, for the longest prompt.

    Raises:
        TeacherError: No server answers there, or it does not read prompts that long.
    """

    def __init__(self, settings: "Vllm", wanted: Wanted) -> None:
        assert settings.url is not None
        assert settings.folder is not None
        self._url, self._folder, self._threads = settings.url.rstrip("/"), Path(settings.folder), settings.in_flight
        self._start = serve_command(wanted, settings)
        self._runs = self._running()
        self._name, _, longest, self.version = self._runs
        if longest is not None and longest < wanted.task.longest:
            raise TeacherError(
                f"the server at {self._url} reads {longest} tokens at most, expected {wanted.task.longest + 1}; it is "
                f"started as {self._start}"
            )

    def states(self, prompts: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """As Prompts says.

        Raises:
            TeacherError: Also where the server has become another one meanwhile.
        """
        for _, states_LD in in_order(self._states, prompts, self._threads, self._threads):
            yield states_LD
        if (now := self._running()) != self._runs:
            raise TeacherError(
                f"the server at {self._url} has become another one: got {now}, expected {self._runs}, with which the "
                "dump was begun; start that one again"
            )

    def top(self, prompts: Sequence[Sequence[int]]) -> Iterator[dict[int, float]]:
        """As Prompts says."""
        for prompt in prompts:
            answer = self._completed(prompt, logprobs=20, return_tokens_as_token_ids=True)
            read_states(self._file(answer))
            likeliest = answer["choices"][0]["logprobs"]["top_logprobs"][0]
            yield {int(token.removeprefix(TOKEN)): value for token, value in likeliest.items()}

    def _running(self) -> "Running":
        models = self._asked("/v1/models").get("data") or [{}]
        name, root, longest = (models[0].get(key) for key in ("id", "root", "max_model_len"))
        return Running(name, root, longest, str(self._asked("/version").get("version")))

    def _states(self, prompt: Sequence[int]) -> Tensor:
        return read_states(self._file(self._completed(prompt)), len(prompt))

    def _completed(self, prompt: Sequence[int], **arguments: Any) -> dict[str, Any]:
        asked = {"model": self._name, "prompt": [*prompt], "max_tokens": 1, "temperature": 0, **arguments}
        return self._asked("/v1/completions", asked)

    def _file(self, answer: dict[str, Any]) -> Path:
        told = (answer.get("kv_transfer_params") or {}).get("states")
        if told is None:
            raise TeacherError(f"the server at {self._url} gives no hidden states; it is started as {self._start}")
        return self._folder / Path(told).name

    def _asked(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return retried(partial(_request, f"{self._url}{path}", body), f"no answer from vLLM at {self._url}")
        except RemoteError as error:
            raise TeacherError(f"vLLM at {self._url}: {one_line(error)}; it is started as {self._start}") from None


def serve_command(wanted: Wanted, settings: "Vllm") -> str:
    """What starts a server whose hidden states kdcache can read."""
    from kdcache.dump.teacher import teacher_folder

    folder = teacher_folder(wanted.teacher, weights=False)
    told = extraction(folder, str(settings.folder))
    longest = wanted.task.longest + 1
    words = ["vllm", "serve", folder, "--dtype", wanted.teacher.dtype, "--no-enable-prefix-caching"]
    words += ["--no-enable-chunked-prefill", "--max-model-len", str(longest), "--max-num-batched-tokens"]
    words += [str(max(longest, wanted.compute.batch_tokens_on("cuda")))]
    for name in ("speculative_config", "kv_transfer_config"):
        words += [f"--{name.replace('_', '-')}", json.dumps(told[name], separators=(",", ":"))]
    return shlex.join(words)


def _request(url: str, body: dict[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        error.msg = f"{error.msg}: {error.read(2000).decode('utf-8', 'replace')}"
        raise
