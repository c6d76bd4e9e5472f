"""Formulas for paper and terminal: LaTeX as plain HTML that needs neither a network nor a script, and as text."""

import re
from collections.abc import Iterator
from html import escape, unescape
from unicodedata import lookup, normalize

_TOKEN = re.compile(r"\\[a-zA-Z]+\*?|\\.|[a-zA-Z]+|\s+|.", re.DOTALL)
_GREEK = ["alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "iota", "kappa", "mu", "nu", "xi", "pi", "rho"]
_GREEK += ["sigma", "tau", "upsilon", "chi", "psi", "omega"]
_SIGNS = {
    **{f"\\{name}": lookup(f"GREEK SMALL LETTER {name.upper()}") for name in _GREEK},
    **{f"\\{name.title()}": lookup(f"GREEK CAPITAL LETTER {name.upper()}") for name in _GREEK},
    **{"\\lambda": "λ", "\\Lambda": "Λ", "\\epsilon": "ε", "\\varepsilon": "ε", "\\phi": "φ", "\\varphi": "φ"},
    **{"\\Phi": "Φ", "\\ell": "ℓ", "\\nabla": "∇", "\\partial": "∂", "\\infty": "∞", "\\emptyset": "∅"},
    **{"\\sum": "∑", "\\prod": "∏", "\\int": "∫", "\\cdot": "·", "\\times": "×", "\\odot": "⊙", "\\circ": "∘"},
    **{"\\pm": "±", "\\mp": "∓", "\\le": " ≤ ", "\\leq": " ≤ ", "\\ge": " ≥ ", "\\geq": " ≥ ", "\\ne": " ≠ "},
    **{"\\neq": " ≠ ", "\\approx": " ≈ ", "\\equiv": " ≡ ", "\\propto": " ∝ ", "\\sim": " ∼ ", "\\ll": " ≪ "},
    **{"\\gg": " ≫ ", "\\in": " ∈ ", "\\notin": " ∉ ", "\\subset": " ⊂ ", "\\cup": " ∪ ", "\\cap": " ∩ "},
    **{"\\to": " → ", "\\rightarrow": " → ", "\\Rightarrow": " ⇒ ", "\\implies": " ⇒ ", "\\iff": " ⇔ "},
    **{"\\leftarrow": " ← ", "\\gets": " ← ", "\\mapsto": " ↦ ", "\\mid": " | ", "\\|": "‖", "\\Vert": "‖"},
    **{"\\lVert": "‖", "\\rVert": "‖", "\\vert": "|", "\\lvert": "|", "\\rvert": "|", "\\langle": "⟨"},
    **{"\\rangle": "⟩", "\\top": "⊤", "\\perp": "⊥", "\\dots": "…", "\\ldots": "…", "\\cdots": "⋯", "\\prime": "′"},
    **{"\\forall": "∀", "\\exists": "∃", "\\star": "⋆", "\\ast": "∗", "\\quad": "\u2003", "\\qquad": "\u2003\u2003"},
    **{"\\oplus": "⊕", "\\otimes": "⊗", "\\lceil": "⌈", "\\rceil": "⌉", "\\lfloor": "⌊", "\\rfloor": "⌋"},
    **{"\\,": "\u2009", "\\;": " ", "\\:": " ", "\\ ": " ", "\\!": "", "\\\\": "<br>", "\\{": "{", "\\}": "}"},
    **{"-": "−", "'": "′", "~": "\u00a0", "=": " = ", "&": "", "+": " + ", "<": " &lt; ", ">": " &gt; "},
}
_ACCENTS = {"hat": "\u0302", "widehat": "\u0302", "bar": "\u0304", "overline": "\u0304", "tilde": "\u0303"}
_ACCENTS |= {"widetilde": "\u0303", "vec": "\u20d7", "dot": "\u0307"}
_FONTS = ["mathbf", "mathcal", "mathbb", "mathsf", "mathit", "boldsymbol", "bm", "mathfrak", "underbrace"]
_ROMAN = ["text", "textbf", "mathrm", "operatorname", "textit"]
_SIZES = re.compile(r"left|right|middle|[bB]igg?[lr]?|(display|text)style|(no)?limits|nonumber")


def readable(latex: str) -> str:
    """Return a formula as HTML: signs, letters, raised and lowered text, fractions as two lines.

    The page needs a style for ``.fraction`` and the two lines in it.

    A command it does not know stays as its name, so that nothing is lost.
    """
    return re.sub(r" {2,}", " ", _until(None, _Tokens(latex))).strip()


def as_text(latex: str) -> str:
    """Return a formula on one line of plain text: a half as 1/2, raised text after ^, lowered after _."""
    text = readable(latex).replace("<br>", "; ")
    text = re.sub(r"</?i>", "", text)
    before = ""
    while text != before:  # from the inside to the outside
        before = text
        text = re.sub(r"<su([bp])>([^<]*)</su[bp]>", _raised, text)
        text = re.sub(r'<span class="fraction"><span>([^<]*)</span><span>([^<]*)</span></span>', _over, text)
    return unescape(text)


def _raised(found: re.Match[str]) -> str:
    sign = "_" if found[1] == "b" else "^"
    return f"{sign}{found[2]}" if len(found[2]) < 2 else f"{sign}({found[2]})"


def _over(found: re.Match[str]) -> str:
    line = "/".join(part if re.fullmatch(r"\w*", part) else f"({part})" for part in found.groups())
    return f"({line})" if re.match(r"[\w(<∑]", found.string[found.end() :]) else line  # 1/T (a − b) says something else


class _Tokens:
    """The pieces of a formula, one after the other."""

    def __init__(self, latex: str) -> None:
        self._left: Iterator[str] = iter(_TOKEN.findall(latex))

    def next(self) -> str | None:
        return next(self._left, None)

    def argument(self) -> str:
        """Return what the next argument looks like: a group in braces, a command, or one sign."""
        token = self.next()
        while token is not None and token.isspace():
            token = self.next()
        if token is not None and token.isalnum() and len(token) > 1:  # x^ab raises only the a
            self._left = iter([token[1:], *self._left])
            token = token[0]
        return "" if token is None else _look(token, self)

    def raw(self) -> str:
        """Return the next group as it stands: words, not a formula."""
        words = ""
        self.next()  # the brace
        while (token := self.next()) not in ("}", None):
            words += token
        return words


def _until(end: str | None, tokens: _Tokens) -> str:
    seen = ""
    while (token := tokens.next()) not in (end, None):
        seen += _look(token, tokens)
    return seen


def _look(token: str, tokens: _Tokens) -> str:
    if token in _SIGNS:
        return _SIGNS[token]
    if token == "{":
        return _until("}", tokens)
    if token in "^_":
        tag = "sup" if token == "^" else "sub"
        return f"<{tag}>{tokens.argument().strip()}</{tag}>"
    if token.startswith("\\"):
        return _command(token[1:].rstrip("*"), tokens)
    if token.isspace():
        return ""
    return f"<i>{token}</i>" if token.isascii() and token.isalpha() else escape(token)


def _command(name: str, tokens: _Tokens) -> str:
    if name in ("begin", "end"):
        tokens.raw()
        return ""
    if _SIZES.fullmatch(name):
        return ""
    if name in _ROMAN:
        return escape(tokens.raw())
    if name in _FONTS:
        return tokens.argument()
    if name in _ACCENTS:
        return normalize("NFC", re.sub(r"(\w)(</i>)?$", rf"\1{_ACCENTS[name]}\2", tokens.argument()))
    if name in ("frac", "tfrac", "dfrac"):
        above, below = tokens.argument(), tokens.argument()
        return f'<span class="fraction"><span>{above}</span><span>{below}</span></span>'
    if name == "sqrt":
        return f"√{_bracketed(tokens.argument())}"
    return f"{escape(name)}\u2009"  # log, exp, max; or a command unknown here


def _bracketed(text: str) -> str:
    whole = re.fullmatch(r"(<i>)?[\w∂∇]+(</i>)?(<su[bp]>[^<]*</su[bp]>)*", text)
    return text if whole else f"({text})"
