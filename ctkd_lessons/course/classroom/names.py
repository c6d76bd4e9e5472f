"""Names and texts that a student chose: how they are shown, and what they are called in files and pages."""

import hashlib
import re
import unicodedata

_SHOWN_AS_IS = "\n\t\u200c\u200d"  # the last two join and part letters: Persian and Hindi names need them
_ACTS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format, half a surrogate pair, ends of lines and paragraphs
# nbgrader's pages write a student's name into scripts, addresses and file patterns as it stands.
UNSAFE = re.compile(r'[<>"\\|?*\[\]%#\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')


def visible(text: str) -> str:
    """Return the text with every character that acts instead of showing written as ⟨U+202E⟩.

    These are control characters, such as the escape of a terminal; marks that turn the direction of
    the text; and halves of surrogate pairs, which no UTF-8 file can hold. Line ends and tabs stay.
    """
    return "".join(map(_visible, text.replace("\r\n", "\n")))


def _visible(character: str) -> str:
    acts = unicodedata.category(character) in _ACTS and character not in _SHOWN_AS_IS
    return f"⟨U+{ord(character):04X}⟩" if acts else character


def student_id(name: str) -> str:
    """Return the name under which nbgrader keeps a student: the same, unless a page or a path would trip over it."""
    safe = UNSAFE.sub("_", name).strip()
    if safe == name and len(name.encode()) < 200:
        return name
    return f"{safe[:60]} ~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}"
