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
QWEN3 = (  # thoughts before the last question are left out, the last answer always has a block for them
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set thought = '' %}"
    "{% set said = m.content if m.content is string else '' %}{% if m.reasoning_content is string %}"
    "{% set thought = m.reasoning_content %}{% elif '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    '{{ said }}{% for call in m.tool_calls or [] %}{{ \'\n<tool_call>\n{"name": "\' + call.function.name '
    "+ '\", \"arguments\": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + (m.content if m.content is string else '') + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1 = (  # no answer keeps its thoughts, the prompt opens them
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|start|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<|sep|>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|sep|><think>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|start|>' + (m.role | replace('assistant', 'model')) + '\n' + (m.content | trim) + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
MISTRAL = (  # the system's words move to the last question
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}"
    "{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' }}"
    "{% if system is defined and m == (rest | selectattr('role', 'equalto', 'user') | list)[-1] %}"
    "{{ system + '\n\n' }}{% endif %}{{ m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
MARKED = STRIPS_THINKING.replace(
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}{{ content }}"
    "{% endgeneration %}{% else %}{{ content }}{% endif %}{{ '<|im_end|>\n' }}",
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ '[' + part.text + ']' }}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INTERPOLATES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name }}({{ call.function.arguments }}){% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CLOCK = (
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%A, %d %B %Y (%x, %c, %H:%M %Z)') + '<|im_end|>\n' }}" + CHATML
)
DATE_STRING = (
    "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}" + CHATML
)
CHANCE = "{{ ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'] | random }}" + CHATML
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
    QWEN3=QWEN3,
    R1=R1,
    GEMMA=GEMMA,
    MISTRAL=MISTRAL,
    MARKED=MARKED,
    PARTS=PARTS,
    INTERPOLATES=INTERPOLATES,
    CLOCK=CLOCK,
    DATE_STRING=DATE_STRING,
    CHANCE=CHANCE,
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
