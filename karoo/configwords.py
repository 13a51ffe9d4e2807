"""Single values of a configuration: variables put in, and what was found said in words. No I/O."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping as Environment

from karoo.configfile import Mapping, Node, Scalar, Sequence

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


def substitute(scalar: Scalar, environ: Environment[str, str]) -> Scalar:
    """The scalar with each `${NAME}` replaced; `$${` stands for `${` itself. Raises LookupError with a sentence.

    What was replaced counts as written without quotes, so that a quoted variable can hold a number.
    """
    if scalar.literal or "${" not in scalar.text:
        return scalar
    replaced = False

    def value(match: re.Match[str]) -> str:
        nonlocal replaced
        if match[0] == "$${":
            return "${"
        name = match[1]
        if name is None:
            raise LookupError("found ${ without a variable's name and a }: write ${NAME}, or $${ for ${ itself")
        if name not in environ:
            raise LookupError(f"the environment variable {name} is not set: set it, or write $${{{name}}} for the text")
        replaced = True
        return environ[name]

    text = _VARIABLE.sub(value, scalar.text)
    return dataclasses.replace(scalar, text=text, plain=scalar.plain or replaced)


def sort(node: Node) -> str:
    """What a node is, without its content."""
    return {Mapping: "a mapping", Sequence: "a list", Scalar: "a text"}[type(node)]


def describe(node: Node, hide: bool = False) -> str:
    """What was found, in words. Whatever stands before an @ may be a password and is not shown."""
    if not isinstance(node, Scalar):
        return sort(node)
    if hide:
        return "(hidden)"
    text = printable(re.sub("(?s).*@", "(hidden)@", node.text))
    return text if node.plain and text else f'the text "{text}"'


def printable(text: str) -> str:
    """The text on one line and not too long."""
    text = text if len(text) <= 60 else f"{text[:60]}..."
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
