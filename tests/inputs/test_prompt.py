import pytest

from patchlens.errors import PromptError
from patchlens.inputs.prompt import Prompt, open_prompt


def test_a_line_becomes_one_turn() -> None:
    prompt = open_prompt("Why?")
    (turn,) = prompt.turns(2, 1)
    assert [part["type"] for part in turn["content"]] == ["image", "image", "audio", "text"]
    assert open_prompt(prompt) is prompt
    assert open_prompt("Why?", raw=True) == Prompt("Why?", raw=True)


def test_a_conversation_keeps_its_own_parts() -> None:
    prompt = open_prompt(
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Why?"}]},
        ]
    )
    assert prompt.given == (("image", "a.png"),)
    assert prompt.text == "system: Be short.\nuser: Why?"
    assert prompt.turns(5, 5)[1]["content"] == [{"type": "image"}, {"type": "text", "text": "Why?"}]


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "user", "content": [{"text": "x"}]}]])
def test_other_forms_are_refused(messages: object) -> None:
    with pytest.raises(PromptError):
        open_prompt(messages)  # type: ignore[arg-type]
