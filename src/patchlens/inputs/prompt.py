"""What is said to a model: a line, a conversation, or raw text that no template touches. Knows no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchlens.errors import PromptError

__all__ = ["Prompt", "open_prompt"]

_PARTS = ("text", "image", "audio", "video")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Prompt:
    """A prompt, as plain text and as the conversation that a chat template is given."""

    text: str
    """A line as it was given; of a conversation every turn on a line of its own."""

    messages: tuple[dict[str, Any], ...] | None = None
    """The turns of a conversation, `{"role": …, "content": [{"type": "image"}, {"type": "text", "text": …}]}`; None for
    a line, which becomes one turn of the user with all images before it."""

    raw: bool = False
    """No chat template touches the text. Placeholders are added only if it has none for what comes with it."""

    given: tuple[tuple[str, Any], ...] = ()
    """A conversation's places for images and recordings in order, with what their parts brought along: ("image" |
    "audio" | "video", source), the source None where the part brought nothing."""

    def turns(self, images: int, audio: int, videos: int = 0) -> list[dict[str, Any]]:
        """The messages for a chat template.

        Args:
            images: How many images go with it.
            audio: How many recordings.
            videos: How many videos.
        """
        if self.messages is not None:
            return [dict(message) for message in self.messages]
        parts: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "audio"}] * audio
        parts += [{"type": "video"}] * videos
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.text}]}]


def open_prompt(prompt: str | Sequence[Mapping[str, Any]] | Prompt, *, raw: bool = False) -> Prompt:
    """Read a prompt in any form that people write it in.

    Args:
        prompt: A line of text; or a conversation as chat templates take it, each message with a `role` and a `content`
            of text or of parts (`{"type": "text", "text": …}`, `{"type": "image"}`, and likewise "audio" and "video").
            A part may bring what it shows or plays under its own type's name: `{"type": "image", "image": "cat.png"}`.
        raw: Hand a line to the tokenizer as it is.

    Raises:
        PromptError: The conversation has another form, or `raw` was asked of one.

    Example:
        >>> open_prompt([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]).text
        'user: Why?'
    """
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt(prompt, raw=raw)
    if raw:
        raise PromptError("A raw prompt is one text with the model's own marks in it; a conversation was given.")
    messages, given, lines = [], [], []
    for message in prompt:
        role, parts = _checked(message)
        plain: list[dict[str, str]] = []
        for part in parts:
            kind = str(part["type"])
            plain.append({"type": "text", "text": str(part["text"])} if kind == "text" else {"type": kind})
            if kind != "text":
                given.append((kind, part.get(kind)))
        messages.append({"role": role, "content": plain})
        lines.append(f"{role}: {' '.join(part['text'] for part in plain if part['type'] == 'text')}")
    if not messages:
        raise PromptError("The conversation has no message. Give at least one turn of the user.")
    return Prompt("\n".join(lines), tuple(messages), given=tuple(given))


def _checked(message: Any) -> tuple[str, list[Mapping[str, Any]]]:
    if not isinstance(message, Mapping) or message.get("role") not in _ROLES or "content" not in message:
        raise PromptError(
            f"Cannot read the message {message!r}. Each needs a 'role' ({', '.join(_ROLES)}) and a 'content'."
        )
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence):
        raise PromptError(f"Cannot read the content {content!r} of a message. Give text, or a list of parts.")
    for part in parts:
        known = isinstance(part, Mapping) and part.get("type") in _PARTS
        if not known or (part["type"] == "text" and not isinstance(part.get("text"), str)):
            raise PromptError(
                f"Cannot read the part {part!r} of a message. It needs a 'type' ({', '.join(_PARTS)}), and a text its "
                "'text'."
            )
    return str(message["role"]), list(parts)
