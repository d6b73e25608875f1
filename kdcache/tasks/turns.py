"""Which characters of a rendered conversation are the assistant's.

Where the template marks them ({% generation %}) and the marks hold what every assistant's message says, the marks
tell. Otherwise growing prefixes of the conversation are rendered: a turn lies between the rendering of all before it,
with the generation prompt, and that of all up to it. Where a turn reads differently once others follow it, as with
templates that strip the thinking of earlier turns, it is supervised as it reads in deployment: in an example of its
own that ends with it. Two renderings a turn.
"""

from typing import Any, Literal

from kdcache.errors import RowError
from kdcache.tasks.messages import Messages
from kdcache.tasks.task import Where
from kdcache.tasks.template import ChatTemplate, Span

__all__ = ["Supervised", "Turns", "supervised_texts", "thoughts_left_out"]

Turns = Literal["all", "last", "each"]
Supervised = tuple[str, list[Span]]

THOUGHT = "</think>"
PLACEHOLDER = "zqassistantqz"


def supervised_texts(
    template: ChatTemplate, messages: Messages, turns: Turns, row: int, where: Where
) -> list[Supervised]:
    """Texts to make examples of, each with the spans of the assistant's turns that are supervised in it.

    Raises RowError where the template refuses it or a turn cannot be told.
    """
    conversation = _Conversation(template, messages, row, where)
    if not conversation.turns:
        return [(conversation.whole, [])]
    if turns == "last":
        return [conversation.ending_with(conversation.turns[-1])]
    if turns == "each":
        return [conversation.ending_with(turn) for turn in conversation.turns]
    return conversation.all_turns()


class _Conversation:
    """The renderings of one row. A turn is the index of an assistant's message."""

    def __init__(self, template: ChatTemplate, messages: Messages, row: int, where: Where) -> None:
        self._template, self._messages = template, messages
        self._row, self._where = row, where
        self.turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        self.whole = template.render(messages, row, where)
        self._upto: dict[int, str] = {}

    def all_turns(self) -> list[Supervised]:
        """As few texts as show each turn as it reads when the assistant has just spoken."""
        if marks := self._marks(self._messages):
            return [(self.whole, marks)]
        found: list[Supervised] = []
        left, text = self.turns, self.whole
        while left:
            spans = {turn: span for turn in left if (span := self._span(turn, text)) is not None}
            if spans:
                found.append((text, [spans[turn] for turn in sorted(spans)]))
            elif text == self.upto(left[-1]):
                raise self._cannot_tell(left[-1])
            left = [turn for turn in left if turn not in spans]
            text = self.upto(left[-1]) if left else ""
        return found[::-1]

    def ending_with(self, turn: int) -> Supervised:
        """The text up to a turn, which alone is supervised."""
        text = self.upto(turn)
        span = self._span(turn, text)
        if span is not None:
            return text, [span]
        marks = self._marks(self._messages[: turn + 1])
        if not marks:
            raise self._cannot_tell(turn)
        return text, marks[-1:]

    def upto(self, turn: int) -> str:
        if turn not in self._upto:
            upto = self._messages[: turn + 1]
            self._upto[turn] = self._template.render(upto, self._row, self._where)
        return self._upto[turn]

    def _span(self, turn: int, text: str) -> Span | None:
        """None where the text does not begin with the turn as it reads when it is the last."""
        try:
            after = self.upto(turn)
        except RowError:  # the template takes no conversation that ends here
            return None
        if not text.startswith(after):
            return None
        before = self._prompt(turn)
        start = len(before) if before is not None and after.startswith(before) else self._start(turn, after)
        return None if start is None else (start, len(after))

    def _prompt(self, turn: int) -> str | None:
        """All before a turn and what asks for it; None where the template takes no such conversation."""
        if turn == 0:
            return None
        try:
            return self._template.render(self._messages[:turn], self._row, self._where, prompt=True)
        except RowError:
            return None

    def _start(self, turn: int, after: str) -> int | None:
        """Where other words begin to change the text, or what asks for an answer ends, if that stands before them."""
        upto = self._messages[: turn + 1]
        other = [*upto[:-1], upto[-1] | {"content": PLACEHOLDER}]
        try:
            text = self._template.render(other, self._row, self._where)
            asked = self._template.render(upto, self._row, self._where, prompt=True)
        except RowError:
            return None
        head = text.partition(PLACEHOLDER)[0]
        if head == text or not after.startswith(head):
            return None
        prompt = asked.removeprefix(after)
        at = head.rfind(prompt) if prompt and asked != prompt else -1
        return len(head) if at < 0 else at + len(prompt)

    def _marks(self, messages: Messages) -> list[Span]:
        """The template's own, if they hold what each assistant's message says, in order; else none."""
        if not self._template.has_marks:
            return []
        marks = self._template.marks(messages)
        text = self._template.render(messages, self._row, self._where)
        marked = "\0".join(text[start:stop] for start, stop in marks)
        at = 0
        for message in messages:
            if message["role"] != "assistant":
                continue
            said = _said(message)
            at = marked.find(said, at)
            if at < 0:
                return []
            at += len(said)
        return self._ended(marks, text)

    def _ended(self, marks: list[Span], text: str) -> list[Span]:
        """Marks that stop before the end of a turn, drawn out to it: a student has to learn to stop."""
        if not marks or not text.startswith(last := self.upto(self.turns[-1])):
            return marks
        end = last[marks[-1][1] :]
        return [(start, stop + len(end) if text.startswith(end, stop) else stop) for start, stop in marks]

    def _cannot_tell(self, turn: int) -> RowError:
        return RowError(
            self._where,
            self._row,
            f": the chat template does not show which words of message {turn + 1} are the "
            "assistant's; give a tokenizer whose template marks them with {% generation %}, or set task.loss_on: all",
            settings=["task.loss_on: all"],
        )


def _said(message: dict[str, Any]) -> str:
    """The words without thoughts before them, which templates leave out, and without space around them."""
    content = message.get("content", "")
    text = content if isinstance(content, str) else content[-1]["text"] if content else ""
    return text.rpartition(THOUGHT)[2].strip()


def thoughts_left_out(messages: Messages, texts: list[Supervised]) -> int:
    """How many of the assistant's messages think in their row and not in the text that is made of it."""
    thinking = [thought for m in messages if m["role"] == "assistant" for thought in [_thought(m)] if thought]
    return sum(all(thought not in text for text, _ in texts) for thought in thinking)


def _thought(message: dict[str, Any]) -> str:
    content = message.get("content", "")
    said = content if isinstance(content, str) else "".join(part["text"] for part in content)
    before = said.rpartition(THOUGHT)[0].removeprefix("<think>")
    return (message.get("reasoning_content") or before).strip()
