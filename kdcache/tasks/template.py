"""A tokenizer's chat template: messages -> text, the same text for the same messages on every day and machine.

The date is pinned (clock.py), and what a template draws by chance is drawn from the conversation's first message. Where
a template writes a list of content parts or the arguments of a tool call as Python prints them, it is given text in
their place. About 0.1 ms a rendering.
"""

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

from jinja2 import TemplateError

from kdcache.errors import RowError, one_line
from kdcache.tasks.clock import at_date, date_string, reads_clock, reads_date_string
from kdcache.tasks.messages import Messages, arguments_as, flattened, only_words, python_source
from kdcache.tasks.task import Where

__all__ = ["ChatTemplate", "Span"]

Span = tuple[int, int]
"""Where a piece of text begins and ends, in characters."""

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)


class ChatTemplate:
    """day: what the template takes for today, where it asks."""

    def __init__(self, tokenizer: Any, day: date | None = None) -> None:
        template = tokenizer.get_chat_template()
        self.has_marks = GENERATION.search(template) is not None
        self._extra = {}
        if day is not None and reads_clock(template):
            template = at_date(template, day)
        elif day is not None and reads_date_string(template):
            self._extra = {"date_string": date_string(day)}
        self._tokenizer, self._template = tokenizer, template
        self._takes_lists: dict[tuple[tuple[str, int], ...], bool] = {}

    def settle(self, messages: Messages, row: int, where: Where) -> Messages:
        """The messages in the form in which the template writes them as words and JSON.

        Raises RowError where there is none.
        """
        if only_words(messages):
            return messages
        if any(isinstance(message.get("content"), list) for message in messages) and not self._lists_are_taken(
            messages
        ):
            messages = flattened(messages)
        sources = []
        for form in (messages, arguments_as(str, messages), arguments_as(dict, messages)):
            text = self._try(form)
            source = None if text is None else python_source(form, text)
            if text is not None and source is None:
                return form
            sources += [source] if source is not None else []
        if not sources:
            return messages  # which the template refuses
        raise RowError(
            where,
            row,
            f": the chat template writes {sources[0][:80]}, which is Python or JSON of JSON and not the "
            "words of a conversation; give that key as text, or a tokenizer whose template takes it",
        )

    def render(self, messages: Messages, row: int, where: Where, prompt: bool = False) -> str:
        """Raises RowError where the template refuses it. prompt: with what asks for an answer."""
        try:
            return self._text(messages, prompt)
        except REFUSALS as error:
            words = one_line(error)
            raise RowError(
                where, row, f": the chat template does not take the first {len(messages)} messages: {words}"
            ) from error

    def marks(self, messages: Messages) -> list[Span]:
        """What the template's {% generation %} blocks enclose, in the rendering of these messages."""
        from transformers.utils.chat_template_utils import render_jinja_template

        variables: dict[str, Any] = {**self._tokenizer.special_tokens_map, **self._extra}
        with _drawn_from(messages):
            found: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                return_assistant_tokens_mask=True,
                **variables,
            )
        _, (spans,) = found
        return [(start, stop) for start, stop in spans if stop > start]

    def _text(self, messages: Messages, prompt: bool = False) -> str:
        with _drawn_from(messages):
            text: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=prompt, **self._extra
            )
        return text

    def _try(self, messages: Messages) -> str | None:
        try:
            return self._text(messages)
        except REFUSALS:
            return None

    def _lists_are_taken(self, messages: Messages) -> bool:
        """Whether all words come out of lists that come out of plain text, tried with words that stand nowhere else."""
        shape = tuple(
            (message["role"], len(content) if isinstance(content := message.get("content"), list) else -1)
            for message in messages
        )
        if shape not in self._takes_lists:
            self._takes_lists[shape] = self._tries_lists(messages)
        return self._takes_lists[shape]

    def _tries_lists(self, messages: Messages) -> bool:
        words: list[str] = []

        def word() -> str:
            words.append(f"zq{len(words)}qz")
            return words[-1]

        tried = []
        for message in messages:
            content = message.get("content")
            if isinstance(content, list):
                content = [{"type": "text", "text": word()} for _ in content]
            tried.append({"role": message["role"], "content": content or word()})
        listed, plain = self._try(tried), self._try(flattened(tried))
        if listed is None:
            return False
        if plain is None:
            return True
        sources = ("'type'", '"type"')
        return all(w in listed for w in words if w in plain) and all(listed.count(s) <= plain.count(s) for s in sources)


@contextmanager
def _drawn_from(messages: Messages) -> Iterator[None]:
    """Jinja draws (its filter `random`) from Python's generator; what it draws is then a function of the row."""
    state = random.getstate()
    random.seed(json.dumps(messages[:1], sort_keys=True, default=str))
    try:
        yield
    finally:
        random.setstate(state)
