"""Which strings a Janus reads: told by its folder in either form, or chosen, or asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from unified_folders import byte_level, byte_model, janus_words

from sightloop.models.janus.conversation import (
    FIRST_ROLES,
    PRO_ROLES,
    SYSTEM_PROMPT,
    Conversation,
    JanusStrings,
    strings_of_folder,
)
from sightloop.models.prompt_strings import PromptOptions

FIRST, PRO = Conversation(roles=FIRST_ROLES), Conversation(roles=PRO_ROLES)
TEXTS = ["", " \n", "a dog", " a dog\n", "\n two\nlines \n", '{image} "it\'s" \\n {{ x }} é 🐶']
# In the manner of the hub's converted folders: roles by lower-cased name, parts stripped at their ends.
CONVERTED = (
    "{% for message in messages %}"
    "{{ '<|User|>: ' if message['role'] | lower == 'user' else '<|Assistant|>: ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_placeholder>{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% else %}{% set text = part['text'] %}{% if loop.first %}{% set text = text.lstrip() %}{% endif %}"
    "{{ text.rstrip() }}{% endif %}{% endfor %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)
OTHER = (
    "{% for message in messages %}[{% for part in message['content'] %}"
    "{{ '<image_placeholder>' if part['type'] == 'image' else part['text'] }}{% endfor %}]{% endfor %}"
    "{% if add_generation_prompt %} says:{% endif %}"
)


def words(*added: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with special tokens."""
    return janus_words(byte_level(byte_model()), added=added)


def told(
    folder: Path,
    *,
    marks: tuple[str, ...] = (),
    is_official: bool = True,
    chosen: PromptOptions | None = None,
    layers: int = 24,
    **files: Any,
) -> JanusStrings:
    """What a folder of these JSON files says; a text is written as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"language_config": {"num_hidden_layers": layers}}
    for name, content in {"config": config, **files}.items():
        if isinstance(content, str):
            (folder / "chat_template.jinja").write_text(content, encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return strings_of_folder(folder, words(*marks), is_official=is_official, chosen=chosen)


def by_transformers(strings: JanusStrings, text: str, *, image: bool) -> str:
    """What transformers makes of the chat template."""
    parts = ([{"type": "image"}] if image else []) + [{"type": "text", "text": text}]
    options: Any = {"chat_template": strings.chat_template, "tokenize": False, "add_generation_prompt": True}
    conversation: Any = [{"role": "user", "content": parts}]
    return str(words().apply_chat_template(conversation, **options))


def test_the_authors_form_tells_by_style_tokens_and_size(tmp_path: Path) -> None:
    def official(name: str, **says: Any) -> JanusStrings:
        return told(tmp_path / name, **says)

    style = {"sft_format": "deepseek"}
    assert official("old", processor_config={"sft_format": "deepseek_old"}) == FIRST.strings()
    # As Janus-1.3B was released, and as Pro is: the style has one name.
    assert official("first", processor_config=style) == FIRST.strings()
    assert official("silent") == FIRST.strings()
    assert official("pro", processor_config=style, marks=PRO_ROLES) == PRO.strings()
    assert official("silent pro", marks=PRO_ROLES) == PRO.strings()
    assert official("7b", processor_config=style, layers=30) == PRO.strings()


def test_a_folder_that_does_not_tell_is_refused_with_the_option(tmp_path: Path) -> None:
    option = r"--prompts\.roles User Assistant .* '<\|User\|>' '<\|Assistant\|>'"
    with pytest.raises(ValueError, match=rf"token '<\|User\|>' alone\. Name them: {option}"):
        told(tmp_path / "half", marks=("<|User|>",))
    with pytest.raises(ValueError, match=rf"sft_format 'mine' is unknown\. Name them: {option}"):
        told(tmp_path / "mine", processor_config={"sft_format": "mine"})
    with pytest.raises(ValueError, match=rf"has no chat template\. Name them: {option}"):
        told(tmp_path / "bare", is_official=False)
    chosen = PromptOptions(roles=("A", "B"))
    for name, is_official in (("half", True), ("mine", True), ("bare", False)):
        strings = told(tmp_path / name, chosen=chosen, is_official=is_official)
        assert strings.drawing.whole("x") == "A: x\n\nB:"


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize("place", ["jinja", "chat_template", "processor_config"])
def test_transformers_form_tells_by_its_chat_template(tmp_path: Path, place: str, default: bool) -> None:
    flag = {"use_default_system_prompt": default}
    files: dict[str, Any] = {"processor_config": flag}
    if place == "jinja":
        files["template"] = CONVERTED
    else:
        files[place] = files.get(place, {}) | {"chat_template": CONVERTED}
    found = told(tmp_path, is_official=False, **files)
    assert found == Conversation(roles=PRO_ROLES, system=SYSTEM_PROMPT if default else "").strings()


def test_a_chat_template_of_another_form_is_kept_as_it_is(tmp_path: Path) -> None:
    found = told(tmp_path, is_official=False, template=OTHER)
    assert found.drawing.whole(" a ") == "[ a ] says:"
    assert found.asking.whole(" a ") == "[<image_placeholder> a ] says:"
    assert found.chat_template == OTHER
    with pytest.raises(ValueError, match="not of the authors' form, so its roles cannot be changed alone"):
        told(tmp_path, is_official=False, chosen=PromptOptions(roles=("A", "B")))
    with pytest.raises(ValueError, match="not of the authors' form"):
        told(tmp_path, is_official=False, chosen=PromptOptions(system="Be brief."))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no') }}", "cannot be read"),
        ("{% if %}", "cannot be read"),
        ("{{ messages[0]['content'] + 1 }}", "cannot be read"),
        ("hello", r"makes \['hello'\] of a text; name --prompts\.template and --prompts\.drawing"),
        ("{{ messages[0]['content'][-1]['text'] }}", "of a text about an image; name --prompts"),
    ],
)
def test_a_chat_template_that_says_nothing_is_refused(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        told(tmp_path, is_official=False, template=template)


def test_chosen_strings(tmp_path: Path) -> None:
    def chosen(**options: Any) -> JanusStrings:
        return told(tmp_path, marks=PRO_ROLES, chosen=PromptOptions(**options))

    assert chosen(system="").asking.whole("q") == "<|User|>: <image_placeholder>\nq\n\n<|Assistant|>:"
    assert chosen(system="Be brief.").plain.whole("q") == "Be brief.\n\n<|User|>: q\n\n<|Assistant|>:"
    assert chosen(system="Be brief.").drawing == PRO.strings().drawing
    whole = chosen(template="Q: {image}\\n{question}\\nA:", drawing="Draw {prompt}!")
    assert whole.asking.whole(" q ") == "Q: <image_placeholder>\n q \nA:"
    assert whole.drawing.whole("x") == "Draw x!"
    assert chosen(template="{image} {question}").drawing == PRO.strings().drawing
    for options, message in (
        ({"template": "{question}"}, r"--prompts\.template is '\{question\}'; it must hold \{image\}"),
        ({"template": "{question} {image}"}, "the image comes before the question"),
        ({"template": "{image}"}, r"must hold \{prompt\} or \{question\} exactly once"),
        ({"drawing": "no place"}, r"--prompts\.drawing is 'no place'; it must hold"),
        ({"template": "{image} {question}", "system": "x"}, r"leave --prompts\.system out"),
        ({"template": "{image} {question}", "roles": ("A", "B")}, r"leave --prompts\.roles out"),
    ):
        with pytest.raises(ValueError, match=message):
            chosen(**options)


@pytest.mark.parametrize("roles", [FIRST_ROLES, PRO_ROLES, ("it's", "\\é")])
@pytest.mark.parametrize("system", [SYSTEM_PROMPT, "", "Two\n'lines'"])
def test_chat_templates_make_the_same_strings(tmp_path: Path, roles: tuple[str, str], system: str) -> None:
    strings = Conversation(roles=roles, system=system).strings()
    found = told(tmp_path, is_official=False, template=strings.chat_template)
    assert found == strings
    assert Conversation.of(strings) == Conversation(roles=roles, system=system)
    for text in TEXTS:
        assert by_transformers(strings, text, image=False) == strings.drawing.whole(text)
        assert by_transformers(strings, text, image=True) == strings.asking.whole(text)


@pytest.mark.parametrize("style", ["plain", "llama-2", "llava_llama2"])
def test_the_authors_other_styles(tmp_path: Path, style: str) -> None:
    found = told(tmp_path, processor_config={"sft_format": style})
    drawn, asked = {
        "plain": ("a", "<image_placeholder>\na"),
    }.get(
        style,
        ("[INST] a [/INST]", f"[INST] <<SYS>>\n{SYSTEM_PROMPT}\n<</SYS>>\n\n<image_placeholder>\na [/INST]"),
    )
    assert (found.drawing.whole(" a "), found.asking.whole("a ")) == (drawn, asked)
    for text in TEXTS:
        assert by_transformers(found, text, image=False) == found.drawing.whole(text)
        assert by_transformers(found, text, image=True) == found.asking.whole(text)


def test_a_chat_template_holds_several_turns() -> None:
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        {"role": "user", "content": "Its color?"},
    ]
    options: Any = {"chat_template": FIRST.strings().chat_template, "tokenize": False}
    told = words().apply_chat_template(talk, add_generation_prompt=True, **options)
    assert told == (
        f"{SYSTEM_PROMPT}\n\nUser: <image_placeholder>\nWhat is it?\n\nAssistant: A dog.</s>"
        "User: Its color?\n\nAssistant:"
    )
    own = [{"role": "system", "content": "Be brief."}, talk[0]]
    told = words().apply_chat_template(own, add_generation_prompt=True, **options)
    assert str(told).startswith("Be brief.\n\nUser: <image_placeholder>\n")
