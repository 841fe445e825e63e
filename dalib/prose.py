"""Sentences on a terminal."""

from functools import partial
from textwrap import fill


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Return the text broken between words to lines of at most ``width``; a longer word, such as a path, stays whole.

    Args:
        indent: of the lines that a break begins.
    """
    lines = text.splitlines()
    wrap = partial(fill, width=width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrap, lines))
