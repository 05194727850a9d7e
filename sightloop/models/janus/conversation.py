"""The strings that a Janus reads: those of its authors, of its folder, or chosen ones.

Facts, from the authors' code and READMEs: a question has a system prompt, a prompt for an image has none;
roles are handed over by the caller, "User" and "Assistant" to Janus-1.3B, "<|User|>" and "<|Assistant|>" to
Janus-Pro.
How a folder tells which it is, in this order:

1. a chat template (transformers' form) is rendered, `use_default_system_prompt` put before questions;
2. `sft_format` "deepseek_old" names the first roles: so Janus-Pro's release renamed the template of 1.3B;
3. "deepseek" (also where nothing is said) was the name of the first template and is that of Pro's. Pro's
   roles are tokens of its tokenizer, and only Pro has 30 layers (7B); a folder with neither has the first
   roles.

What contradicts itself is refused, with the option that settles it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase
from transformers.models.janus.processing_janus import JanusProcessor

from sightloop.models.prompt_strings import PROMPT_PLACE, QUESTION_PLACE, Frame, PromptOptions
from sightloop.models.written_text import in_template
from sightloop.terminal import say
from sightloop.text_files import read_json, read_text_file

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
FIRST_ROLES, PRO_ROLES = ("User", "Assistant"), ("<|User|>", "<|Assistant|>")
IMAGE = "<image_placeholder>"
STATED = "prompts"
"""Where config.json of a folder in the authors' form says what their files cannot."""
_BREAK = "\n\n"
_PRO_LAYERS = 30
_PROBE = "\ue000"
"""A letter for private use, which no template holds."""


@dataclass(frozen=True, kw_only=True)
class JanusStrings:
    """What stands around prompts for images and around questions."""

    drawing: Frame
    asking: Frame
    """About an image, whose place is in it."""
    plain: Frame
    """Without an image."""
    chat_template: str
    """The same for transformers' processor."""

    def described(self) -> dict[str, str]:
        """As templates, for records."""
        return {
            "drawing template": self.drawing.around(PROMPT_PLACE),
            "question template": self.asking.around(QUESTION_PLACE),
        }


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """The authors' form of a conversation (their style "DeepSeek")."""

    roles: tuple[str, str]
    system: str = SYSTEM_PROMPT
    """Of questions; "" = none."""

    def strings(self) -> JanusStrings:
        """What the authors' code makes of one prompt or question."""
        asks, answers = self.roles
        before = f"{self.system}{_BREAK}" if self.system else ""
        after, nothing = f"{_BREAK}{answers}:", f"{asks}:{answers}:"
        return JanusStrings(
            drawing=Frame(before=f"{asks}: ", after=after, strip="ends", empty=nothing),
            asking=Frame(
                before=f"{before}{asks}: {IMAGE}\n",
                after=after,
                strip="end",
                empty=f"{before}{asks}: {IMAGE}{after}",
            ),
            plain=Frame(before=f"{before}{asks}: ", after=after, strip="ends", empty=f"{before}{nothing}"),
            chat_template=self.chat_template(),
        )

    def chat_template(self) -> str:
        """For transformers, of any number of turns: the system prompt stands before talk about images."""
        names = {"asks": self.roles[0], "answers": self.roles[1], "system": self.system, "image": IMAGE}
        return "".join(f"{{%- set {name} = {_quoted(value)} -%}}" for name, value in names.items()) + _CHAT

    @staticmethod
    def of(strings: JanusStrings) -> Conversation | None:
        """The conversation that makes these strings; None if they have another form."""
        asks, answers = (
            strings.drawing.before.removesuffix(": "),
            strings.drawing.after.strip().removesuffix(":"),
        )
        system = strings.asking.before.removesuffix(f"{asks}: {IMAGE}\n").removesuffix(_BREAK)
        found = Conversation(roles=(asks, answers), system=system)
        return found if found.strings().described() == strings.described() else None


_CHAT = """
{%- set talk = namespace(text='', seen=false, system='') -%}
{%- for message in messages -%}
  {%- if message['content'] is not string -%}
    {%- for part in message['content'] if part['type'] == 'image' -%}
      {%- set talk.seen = true -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
{%- if talk.seen -%}{%- set talk.system = system -%}{%- endif -%}
{%- for message in messages -%}
  {%- set said = namespace(text='') -%}
  {%- if message['content'] is string -%}
    {%- set said.text = message['content'] -%}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' -%}
        {%- set said.text = said.text + ('' if loop.first else '\\n') + image -%}
        {%- set said.text = said.text + ('' if loop.last else '\\n') -%}
      {%- else -%}
        {%- set said.text = said.text + part['text'] -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- set said.text = said.text.strip() -%}
  {%- if message['role'] == 'system' -%}
    {%- set talk.system = said.text -%}
  {%- else -%}
    {%- set is_answer = message['role'] == 'assistant' -%}
    {%- set talk.text = talk.text + (answers if is_answer else asks) + ':' -%}
    {%- if said.text -%}
      {%- set talk.text = talk.text + ' ' + said.text + (eos_token if is_answer else '\\n\\n') -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{%- set talk.text = talk.text + answers + ':' -%}{%- endif -%}
{{- (talk.system + ('\\n\\n' if talk.system else '') + talk.text).strip() -}}
"""
_ONE_QUESTION = """
{%- set talk = namespace(text='', seen=false) -%}
{%- if messages | length != 1 -%}
  {{- raise_exception('this model has strings of one prompt or one question; hand over one message') -}}
{%- endif -%}
{%- if messages[0]['content'] is string -%}
  {%- set talk.text = messages[0]['content'] -%}
{%- else -%}
  {%- for part in messages[0]['content'] -%}
    {%- if part['type'] == 'image' -%}
      {%- set talk.seen = true -%}
    {%- else -%}
      {%- set talk.text = talk.text + part['text'] -%}
    {%- endif -%}
  {%- endfor -%}
{%- endif -%}
{%- set frame = asked if talk.seen else drawn -%}
{%- if frame[2] == 'ends' -%}{%- set talk.text = talk.text.strip() -%}{%- endif -%}
{%- if frame[2] == 'end' -%}{%- set talk.text = talk.text.rstrip() -%}{%- endif -%}
{{- (frame[0] + talk.text + frame[1]) if talk.text else frame[3] -}}
"""


def _quoted(text: str) -> str:
    """A text as Jinja reads it."""
    return "'" + text.encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"


def single(drawing: Frame, asking: Frame, plain: Frame | None = None) -> JanusStrings:
    """Strings of one prompt or one question; `plain` None = a question without image is as a prompt."""

    def listed(frame: Frame) -> str:
        empty = frame.around("") if frame.empty is None else frame.empty
        return f"[{', '.join(map(_quoted, (frame.before, frame.after, frame.strip, empty)))}]"

    frames = {"drawn": drawing, "asked": asking}
    chat = "".join(f"{{%- set {name} = {listed(frame)} -%}}" for name, frame in frames.items())
    return JanusStrings(
        drawing=drawing, asking=asking, plain=plain or drawing, chat_template=chat + _ONE_QUESTION
    )


def _of_style(style: str) -> JanusStrings | None:
    """Other styles that the authors' processor knows; they leave roles aside. None = unknown."""
    if style == "plain":
        return single(Frame(strip="ends"), Frame(before=f"{IMAGE}\n", strip="end", empty=IMAGE))
    if style not in ("llama-2", "llava_llama2"):
        return None
    system, after = f"[INST] <<SYS>>\n{SYSTEM_PROMPT}\n<</SYS>>\n\n", " [/INST]"
    return single(
        Frame(before="[INST] ", after=after, strip="ends", empty="[INST] [INST][/INST]"),
        Frame(before=f"{system}{IMAGE}\n", after=after, strip="end", empty=f"{system}{IMAGE}{after}"),
        Frame(before=system, after=after, strip="ends", empty=f"{system}[INST][/INST]"),
    )


# -- as a folder says


def strings_of_folder(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_official: bool,
    chosen: PromptOptions | None = None,
) -> JanusStrings:
    """What the folder says, with what was chosen instead.

    Raises:
        ValueError: the folder does not tell, or contradicts itself; the options that settle it are named.
    """
    chosen = PromptOptions() if chosen is None else chosen
    template, drawing = chosen.text("template"), chosen.text("drawing")
    if template is not None and chosen.system is not None:
        raise ValueError(
            "--prompts.template is the whole string of a question; write the system prompt into it and leave "
            "--prompts.system out"
        )
    if template is not None and drawing is not None:
        return single(
            Frame.of_template(drawing, name="--prompts.drawing"),
            Frame.of_template(template, name="--prompts.template", image=IMAGE),
        )
    found = _found(folder, tokenizer, is_official=is_official, roles=chosen.roles)
    system = chosen.text("system")
    if not is_official and system is None and template is None and not _tells_system(folder, tokenizer):
        say(
            f"{folder} has no chat template (an older `convert` wrote none), so questions have no system "
            'prompt. Convert the authors\' folder again, or name it: --prompts.system "..."',
            is_error=True,
        )
    if chosen.roles is not None or system is not None:
        known = Conversation.of(found)
        if known is None:
            raise ValueError(
                f"the chat template of {folder} is not of the authors' form, so its roles cannot be changed "
                "alone; name its strings as a whole with --prompts.template and --prompts.drawing"
            )
        found = replace(
            known,
            roles=known.roles if chosen.roles is None else chosen.roles,
            system=known.system if system is None else system,
        ).strings()
    return changed(found, drawing=drawing, asking=template, names=("--prompts.drawing", "--prompts.template"))


def changed(
    strings: JanusStrings, *, drawing: str | None, asking: str | None, names: tuple[str, str]
) -> JanusStrings:
    """The strings with one template or both instead.

    Raises:
        ValueError: a template lacks a place; `names` say which.
    """
    if drawing is None and asking is None:
        return strings
    drawn = strings.drawing if drawing is None else Frame.of_template(drawing, name=names[0])
    asked = strings.asking if asking is None else Frame.of_template(asking, name=names[1], image=IMAGE)
    return single(drawn, asked, strings.plain if drawing is None else drawn)


def strings_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> JanusStrings:
    """The authors' strings for a model of which nothing but the tokenizer is known."""
    return Conversation(roles=PRO_ROLES if _marks(tokenizer) == PRO_ROLES else FIRST_ROLES).strings()


def strings_of_processor(processor: Any, tokenizer: PreTrainedTokenizerBase) -> JanusStrings:
    """Those of a processor in memory: of its chat template, else Janus-Pro's roles."""
    if not isinstance(processor, JanusProcessor):
        return Conversation(roles=PRO_ROLES, system="").strings()
    system = SYSTEM_PROMPT if processor.use_default_system_prompt else ""
    template = processor.chat_template
    if isinstance(template, str):
        return rendered(tokenizer, template, system=system, source="the processor's chat template")
    return Conversation(roles=PRO_ROLES, system=system).strings()


def _found(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, is_official: bool, roles: tuple[str, str] | None
) -> JanusStrings:
    if is_official:
        return _official(folder, tokenizer, roles)
    own = _optional_json(folder / "processor_config.json")
    system = SYSTEM_PROMPT if own.get("use_default_system_prompt") else ""
    template = _chat_template(folder, own, tokenizer)
    if template is not None:
        return rendered(tokenizer, template, system=system, source=f"the chat template of {folder}")
    if roles is None and _marks(tokenizer) != PRO_ROLES:
        raise _unknown_strings(folder, "it has no chat template")
    return Conversation(roles=roles or PRO_ROLES, system=system).strings()


def _tells_system(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    own = _optional_json(folder / "processor_config.json")
    return bool(own.get("use_default_system_prompt")) or _chat_template(folder, own, tokenizer) is not None


def _official(folder: Path, tokenizer: Any, roles: tuple[str, str] | None) -> JanusStrings:
    config = _optional_json(folder / "config.json")
    stated = config.get(STATED)
    if stated is not None:
        return Conversation(roles=tuple(stated["roles"]), system=stated["system"]).strings()
    if roles is not None:
        return Conversation(roles=roles).strings()
    style = _optional_json(folder / "processor_config.json").get("sft_format", "deepseek")
    if style == "deepseek_old":
        return Conversation(roles=FIRST_ROLES).strings()
    if style != "deepseek":
        other = _of_style(style)
        if other is None:
            raise _unknown_strings(folder, f"its sft_format {style!r} is unknown")
        return other
    marks = _marks(tokenizer)
    if len(marks) == 1:
        raise _unknown_strings(folder, f"its tokenizer has the token {marks[0]!r} alone")
    text: Any = config.get("language_config") or {}
    is_pro = bool(marks) or text.get("num_hidden_layers") == _PRO_LAYERS
    return Conversation(roles=PRO_ROLES if is_pro else FIRST_ROLES).strings()


def _unknown_strings(folder: Path, why: str) -> ValueError:
    return ValueError(
        f"{folder} does not tell which roles this Janus was trained with: {why}. Name them: --prompts.roles "
        "User Assistant (Janus-1.3B), or --prompts.roles '<|User|>' '<|Assistant|>' (Janus-Pro)"
    )


def _marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Those of Pro's roles that the tokenizer reads as one token."""

    def is_token(role: str) -> bool:
        ids = tokenizer(role, add_special_tokens=False).input_ids
        return len(ids) == 1 and ids[0] != tokenizer.unk_token_id

    return tuple(role for role in PRO_ROLES if is_token(role))


def _optional_json(file: Path) -> Mapping[str, Any]:
    return read_json(file) if file.is_file() else {}


def _chat_template(folder: Path, own: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """From the first of the places that transformers looks in."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_text_file(file)
    older = _optional_json(folder / "chat_template.json").get("chat_template")
    given = older or own.get("chat_template") or tokenizer.chat_template
    if isinstance(given, Mapping):
        given = cast("Mapping[str, Any]", given).get("default")
    return given if isinstance(given, str) else None


# -- as a chat template says


def rendered(tokenizer: Any, template: str, *, system: str = "", source: str) -> JanusStrings:
    """The strings of a chat template; `system` comes before questions.

    Raises:
        ValueError: it makes something else of a question than a string with an image's place and the text.
    """
    before = f"{system}{_BREAK}" if system else ""

    def written(text: str, *parts: dict[str, str]) -> str:
        content = [*parts, {"type": "text", "text": text}]
        message: Any = [{"role": "user", "content": content}]
        fix = "name --prompts.template and --prompts.drawing"
        options: Any = {"chat_template": template, "tokenize": False}
        return cast("str", in_template(tokenizer, message, source=source, fix=fix, **options))

    def frame(first: str, *parts: dict[str, str]) -> Frame:
        pieces = written(_PROBE, *parts).split(_PROBE)
        loose = written(f" {_PROBE} ", *parts).split(_PROBE)
        if len(pieces) != 2 or len(loose) != 2 or (parts and pieces[0].count(IMAGE) != 1):
            raise ValueError(
                f"{source} makes {pieces} of a text{' about an image' if parts else ''}; name "
                "--prompts.template and --prompts.drawing"
            )
        keeps_end, keeps_start = loose[1] != pieces[1], loose[0] != pieces[0]
        return Frame(
            before=first + pieces[0],
            after=pieces[1],
            strip="" if keeps_end else "end" if keeps_start else "ends",
            empty=first + written("", *parts),
        )

    found = replace(single(frame(""), frame(before, {"type": "image"})), chat_template=template)
    known = Conversation.of(found)
    # Of the same form: then as the authors write it, also what has no text.
    return found if known is None else known.strings()
