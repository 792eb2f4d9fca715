"""Makes text that others wrote safe to look at: what is invisible or reorders its neighbours is spelled out."""

import unicodedata
from typing import Final

__all__ = ["LONGEST", "clip", "visible"]

LONGEST: Final = 2000  # characters of any one text
_KEPT: Final = frozenset("\n\t\u200c\u200d")  # layout, and the joiners that Persian, Hindi and emoji need
# Other, control; format (direction marks, zero-width, tags); surrogate; private use; line and paragraph separators.
_SPELLED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def visible(text: str) -> str:
    """Spell out characters that cannot be seen or that change the order of others, e.g. ``⟨U+202E⟩``.

    Lone surrogates, which JSON may hold and UTF-8 may not, are among them.

    Source: Unicode Standard Annex 9, section 2 (directional formatting), and Technical Report 36, section 3.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(each):04X}⟩" if each not in _KEPT and unicodedata.category(each) in _SPELLED else each
        for each in text
    )


def clip(text: str, limit: int = LONGEST) -> str:
    """Cut a text after ``limit`` characters, and say that it went on."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters)"
