"""Printed characters in many scripts, drawn from the fonts that ship inside matplotlib, and few-shot tasks on them."""

from ctkd_lessons.data.glyphs.drawing import DIGITS, Glyphs, fonts, fonts_with, printed_digits, render
from ctkd_lessons.data.glyphs.episodes import Episodes, Renderings, episodes, renderings, sample_episode
from ctkd_lessons.data.glyphs.scripts import ALIKE, CANDIDATES, SCRIPTS, Split, characters, distinct, similarity, split

__all__ = [
    "ALIKE",
    "CANDIDATES",
    "DIGITS",
    "SCRIPTS",
    "Episodes",
    "Glyphs",
    "Renderings",
    "Split",
    "characters",
    "distinct",
    "episodes",
    "fonts",
    "fonts_with",
    "printed_digits",
    "render",
    "renderings",
    "sample_episode",
    "similarity",
    "split",
]
