"""Formulas as MathML: well-formed whatever the text, and set as they are meant."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import functional as F
from minicnn.engine import Op
from minicnn.inspect.mathml import mathml

OPS = [value for value in vars(F).values() if isinstance(value, Op)]


def linear(element):
    """MathML read back as a line: {above/below}, base^{power}, √{inside}."""
    parts = [linear(child) for child in element if child.tag != "mspace"]
    if element.tag == "mfrac":
        return f"{{{parts[0]}/{parts[1]}}}"
    if element.tag == "msup":
        return f"{parts[0]}^{{{parts[1]}}}"
    if element.tag == "msqrt":
        return f"√{{{''.join(parts)}}}"
    return (element.text or "") + "".join(parts)


def rows(formula):
    return [linear(row) for row in ET.fromstring(mathml(formula)).iter("mtr")]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_operation_has_a_formula_with_its_gradients(op):
    forward, *backward = rows(op.formula)
    assert "=" in forward and backward and all("{∂L/∂" in row for row in backward)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (F.SIGMOID.formula, ["y={1/1+e^{−x}}", "{∂L/∂x}=g·y(1−y)"]),
        (F.VAR.formula, ["y={∑(x−mean)^{2}/n−c}", "{∂L/∂x}={2g(x−mean)/n−c}"]),
        (F.SOFTMAX.formula, ["y={e^{x}/∑e^{x}}", "{∂L/∂x}=y(g−∑gy)"]),
        (F.LINEAR.formula, ["y=xW^{T}+b", "{∂L/∂x}=gW", "{∂L/∂W}=g^{T}x", "{∂L/∂b}=∑g"]),
        (F.SQRT.formula, ["y=√{x}", "{∂L/∂x}={g/2y}"]),
        (F.SOFTPLUS.formula, ["y={log(1+e^{βx})/β}", "{∂L/∂x}=gσ(βx)"]),
        ("∂x = γ/std (g − 1)", ["{∂L/∂x}={γ/std}(g−1)"]),
        ("y = 2αβ/n · x", ["y={2αβ/n}·x"]),
        ("y = −g·a / b²", ["y=−{g·a/b^{2}}"]),
        ("y = (a + b) / c", ["y={a+b/c}"]),
        ("y = |x|", ["y=|x|"]),
        ("∂weight = g,  ∂b = g", ["{∂L/∂weight}=g", "{∂L/∂b}=g"]),
        ("x with a border", ["xwithaborder"]),
    ],
)
def test_set_as_meant(formula, expected):
    assert rows(formula) == expected


def test_words_are_words_and_letters_are_not():
    math = ET.fromstring(mathml("y = x with a border"))
    assert [e.text for e in math.iter("mtext")] == ["with", "a", "border"]
    assert [e.text for e in math.iter("mi")] == ["y", "x"]


def test_nothing():
    assert mathml("") == "" and mathml(" ; ") == ""


@given(st.text(alphabet="xy∂Σ√/^()[]²ⁿ;,<&>| ab1.", max_size=30) | st.text(max_size=30))
def test_any_text_is_well_formed(text):
    xml = mathml("".join(c for c in text if c.isprintable()))
    if xml:
        ET.fromstring(xml)
