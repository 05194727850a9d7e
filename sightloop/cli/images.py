"""Commands of models that generate images and answer: `sightloop convert | draw | ask`.

Networks are imported when a command needs them, so that help comes at once.
"""

from __future__ import annotations

from sightloop.cli.image_options import AskOptions, ConvertOptions, DrawOptions
from sightloop.cli.parse import parsed
from sightloop.terminal import one_line, say


def convert_command(words: list[str]) -> None:
    """Convert a checkpoint."""
    options = parsed(ConvertOptions, args=words, prog="sightloop convert")
    from sightloop.cli.convert import convert_checkpoint

    convert_checkpoint(options)
    say(f"wrote {options.output}")


def draw_command(words: list[str]) -> None:
    """Generate images of a prompt."""
    options = parsed(DrawOptions, args=words, prog="sightloop draw")
    from sightloop.cli.draw import generate_images

    for path in generate_images(options):
        say(one_line(path))


def ask_command(words: list[str]) -> None:
    """Ask a question about an image."""
    options = parsed(AskOptions, args=words, prog="sightloop ask")
    from sightloop.cli.draw import answer_questions

    answer_questions(options)
