"""An operation's formula, a line of text, as MathML, which browsers set as mathematics.

`Op.formula` is written to be read as it is: ``y = 1 / (1 + e⁻ˣ);  ∂x = g·y (1 − y)``. A semicolon ends the forward
statement, a comma and two spaces end a backward one. Here each becomes a row; ``∂x`` is short for ∂L/∂x, which is set
as a fraction. A slash between spaces divides the whole product before it, one without only what it touches. Words that
are no names of functions are set as words.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>\d+(?:\.\d+)?°?)
      | (?P<name>running\ (?:mean|std)|(?:log|max|min|tanh|sign|softmax|mean|std|lo|hi)(?![A-Za-z]))
      | (?P<partial>∂[^\W\d_]\w*)
      | (?P<word>[A-Za-z]*'s|[A-Za-z]{2,})
      | (?P<power>[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿᵀᵝʸˣ]+|\^\w+)
      | (?P<letter>(?!Σ)[^\W\d_]\u0302?)
      | (?P<sign>.)""",
    re.VERBOSE,
)
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿᵀᵝʸˣ", "0123456789+−nTβyx")
CLOSING = {"(": ")", "[": "]"}
ENDS_A_PRODUCT = set("+−-=<>≤≥,…⋆")  # what a fraction's numerator and denominator do not reach across


@dataclass
class Piece:
    """A part of a row: its MathML, what it is, and whether a space stands before it."""

    xml: str
    kind: str  # "atom", "sign" or "text"
    apart: bool
    inside: str = ""  # of brackets: without them, as in a fraction

    @property
    def bare(self) -> str:
        return self.inside or self.xml


def mathml(formula: str) -> str:
    """``<math>…</math>`` with a row for each statement of `formula`; any text will do, and is escaped."""
    statements = [s for part in formula.split(";") for s in re.split(r",  +", part.strip()) if s]
    rows = "".join(f'<mtr><mtd style="text-align: left">{_row(_tokens(s))}</mtd></mtr>' for s in statements)
    return f'<math display="block"><mtable displaystyle="true">{rows}</mtable></math>' if rows else ""


def _tokens(text: str) -> list[tuple[str, str, bool]]:
    """(kind, text, whether a space stands before it)"""
    found, apart = [], False
    for match in TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind != "space":
            found.append((kind, match.group(), apart))
        apart = kind == "space"
    for i in range(1, len(found) - 1):  # "a" among words is a word
        if found[i][1] == "a" and found[i - 1][0] == found[i + 1][0] == "word":
            found[i] = ("word", "a", True)
    return found


def _row(tokens: list[tuple[str, str, bool]], closing: str = "") -> str:
    """The MathML of `tokens`, which are used up, as far as the sign `closing`."""
    pieces: list[Piece] = []
    while tokens:
        kind, text, apart = tokens.pop(0)
        if text == closing:
            break
        if kind == "power" and pieces:
            base = pieces[-1]
            base.xml, base.inside = f"<msup><mrow>{base.xml}</mrow>{_power(text)}</msup>", ""
        elif text == "/" and pieces:
            _divide(pieces, tokens, apart)
        else:
            pieces.append(_piece(kind, text, apart, tokens))
    return f"<mrow>{''.join(piece.xml for piece in _with_spaces(pieces))}</mrow>"


def _piece(kind: str, text: str, apart: bool, tokens: list[tuple[str, str, bool]]) -> Piece:
    shown = html.escape(text)
    if kind == "number":
        return Piece(f"<mn>{shown}</mn>", "atom", apart)
    if kind == "letter":
        if len(text) > 1:  # with a circumflex
            return Piece(f"<mover><mi>{text[0]}</mi><mo>^</mo></mover>", "atom", apart)
        return Piece(f"<mi>{shown}</mi>", "atom", apart)
    if kind == "name":
        return Piece(f'<mi mathvariant="normal">{shown}</mi>', "atom", apart)
    if kind == "partial":
        below = f"<mrow><mo>∂</mo><mi>{html.escape(text[1:])}</mi></mrow>"
        return Piece(f"<mfrac><mrow><mo>∂</mo><mi>L</mi></mrow>{below}</mfrac>", "atom", apart)
    if kind == "word":
        return Piece(f"<mtext>{shown}</mtext>", "text", apart)
    if text == "Σ":
        return Piece('<mo largeop="true">∑</mo>', "atom", apart)
    if text == "√" and tokens:
        return Piece(f"<msqrt>{_piece(*tokens.pop(0), tokens).xml}</msqrt>", "atom", apart)
    if text in CLOSING:
        inside = _row(tokens, CLOSING[text])
        return Piece(f"<mrow><mo>{text}</mo>{inside}<mo>{CLOSING[text]}</mo></mrow>", "atom", apart, inside)
    if text == "|":
        return Piece('<mo lspace="0" rspace="0" stretchy="false">|</mo>', "atom", apart)
    return Piece(f"<mo>{shown}</mo>", "sign" if text in ENDS_A_PRODUCT else "atom", apart)


def _power(text: str) -> str:
    tokens = _tokens(text.removeprefix("^").translate(RAISED))
    return f"<mrow>{''.join(_piece(*token, []).xml for token in tokens)}</mrow>"


def _divide(pieces: list[Piece], tokens: list[tuple[str, str, bool]], apart: bool) -> None:
    """Put the fraction of what stands before a slash and what comes after it in the place of the former."""
    start = len(pieces)
    while start and pieces[start - 1].kind == "atom":
        start -= 1
        if not apart and pieces[start].apart:
            break
    above, below = pieces[start:], _denominator(tokens)
    before = above[0].apart if above else apart
    top, bottom = (
        part[0].bare if len(part) == 1 else f"<mrow>{''.join(p.xml for p in part)}</mrow>" for part in (above, below)
    )
    pieces[start:] = [Piece(f"<mfrac>{top}{bottom}</mfrac>", "atom", before)]


def _denominator(tokens: list[tuple[str, str, bool]]) -> list[Piece]:
    """The pieces after a slash that touch each other; a sum takes what it adds up with it."""
    below: list[Piece] = []
    while tokens:
        kind, text, apart = tokens[0]
        if below and (apart or text in ENDS_A_PRODUCT or text in ")]/·") and "∑" not in below[-1].xml:
            break
        tokens.pop(0)
        if kind == "power" and below:
            below[-1] = Piece(f"<msup><mrow>{below[-1].xml}</mrow>{_power(text)}</msup>", "atom", below[-1].apart)
        else:
            below.append(_piece(kind, text, apart, tokens))
    return below


def _with_spaces(pieces: list[Piece]) -> list[Piece]:
    """A thin space between neighbours that the text sets apart, where neither is a sign that brings its own."""
    spaced: list[Piece] = []
    for piece in pieces:
        if spaced and piece.apart and "sign" not in (piece.kind, spaced[-1].kind):
            wide = "text" in (piece.kind, spaced[-1].kind)
            spaced.append(Piece(f'<mspace width="{"0.35em" if wide else "0.17em"}"/>', "text", False))
        spaced.append(piece)
    return spaced
