"""Small real tokenizers and chat templates of the shapes that are met."""

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "def windows(tokens, length):\n    return [tokens[i : i + length] for i in range(0, len(tokens), length)]",
    "user asks, assistant answers: hello world, how are you today? I am fine.",
    "深い海の底で、🌊 une idée à écrire naïvement.",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant<|im_end|>\n' }}{% endif %}" + CHATML.removeprefix("{% for message in messages %}")
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start|>' + message['role'] + '<|sep|>\n\n' "
    "+ message['content'] | trim + '<|eot|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|sep|>\n\n' }}{% endif %}"
)
STRIPS_THINKING = (
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' and not loop.last and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message['role'] + ':' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def byte_level(template: str | None = None, **special: str) -> Any:
    """GPT-2 style: byte-level BPE, no token added of itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|sep|>", "<|eot|>"]
    backend.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=names,
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **({"eos_token": "<|endoftext|>"} | special))
    tokenizer.chat_template = template
    return tokenizer


def sentence_piece_like(template: str | None = None) -> Any:
    """Llama-2 style: "▁" for spaces, one put before the text, byte fallback, <s> put in front."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        [text.replace(" ", "▁") for text in TEXTS * 3],
        trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False),
    )
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_prefix_space=None
    )
    tokenizer.chat_template = template
    return tokenizer


def characters(template: str | None = None) -> Any:
    """BPE with no word borders, so that merges cross from the template into the content."""
    backend = Tokenizer(models.BPE())
    backend.decoder = decoders.Fuse()
    corpus = ["assistant:hello\n", "user:hi\n", "assistant:hello\nuser:hi\n"] * 20
    backend.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=60, special_tokens=["<e>"], show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")
    tokenizer.chat_template = template
    return tokenizer


KIT = SimpleNamespace(
    byte_level=byte_level,
    sentence_piece_like=sentence_piece_like,
    characters=characters,
    CHATML=CHATML,
    SMOLLM2=SMOLLM2,
    LLAMA2=LLAMA2,
    LLAMA3=LLAMA3,
    STRIPS_THINKING=STRIPS_THINKING,
    PLAIN=PLAIN,
)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The tokenizers' makers and the templates."""
    return KIT


@pytest.fixture(scope="session")
def gpt_tokenizer() -> Any:
    return byte_level()


@pytest.fixture(scope="session")
def llama_tokenizer() -> Any:
    return sentence_piece_like()


@pytest.fixture(scope="session")
def chatml_tokenizer() -> Any:
    return byte_level(CHATML)


@pytest.fixture(scope="session", params=["byte_level", "sentence_piece_like", "characters"])
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return getattr(KIT, request.param)(CHATML)
