"""Refuse phrases that send a reader back to the start of the sentence, and British spellings.

``plain_english.py FILE...`` prints each place and exits with 1 if there is any. In Python and C++ files it reads
comments and docstrings, in other files every line. It skips code between backticks.

Say it directly: subject, verb, object; "if" or "when" for a condition, "where" only for a place.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

RULES: Final = re.compile(
    r"""(?x)
    \b(what[ ]is | as[ ]it[ ]is(?![ ]\w+ed\b) | so[ ]that[ ]it[ ]is | is[ ]kept[ ]of)\b
    | (?i:\b(anew | hardly | in[ ]place[ ]of | so[ ]many | by[ ]turns | go(es)?[ ]on | whoever | whosoever | lest
        | hence | thereof | beforehand)\b)
    | (?<!\bone)(?<!\bnone)(?<!\beach)(?<!\bnumber)[ ]of[ ]these\b
    | \btold\b (?!:|[ ]that[ ]it[ ]may[ ]decline)  # a key and a baseline in results files
    | \bwhere[ ](it|they|there|that|this|nothing|none)\b
    | [,;][ ]for[ ](it|they|there|this|that|those|only|what)\b
    | \bbut[ ]for\b | \bsave[ ]for\b
    | \bwhat[ ](has|they|no|does|stands|follows)\b
    | (?i:\b(behaviour | colour | favour | sceptic | learnt | grey | honour | neighbour | centre)\b)
    | \b(cancel|label|model)l(ed|ing)\b
    | (?i:\b(initial|maxim|minim|normal|optim|quant|recogn|serial|standard|summ[a]r|token)is
        (e|ing|ation|ed|es|er|ers)\b)
    """
)

#: Code: ``name``, `name`, and lines of an example.
CODE: Final = re.compile(r"``.*?``|`[^`]*`|:\w+:|^\s*(>>>|\.\.\.).*$")

#: A string, a character, or a comment of C++; a string must not seem to begin a comment.
CPP: Final = re.compile(
    r"""(?x)
    R"(?P<mark>[^(\s]*)\( .*? \)(?P=mark)" | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+'
    | (?P<comment> //[^\n]* | /\*.*?\*/ )
    """,
    re.DOTALL,
)


def cpp_comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line of a comment with its number."""
    for match in CPP.finditer(text):
        if match["comment"]:
            first = text.count("\n", 0, match.start()) + 1
            yield from enumerate(match["comment"].split("\n"), first)


def python_comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line of a comment or docstring with its number."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            yield from enumerate(lines[first.lineno - 1 : first.end_lineno], first.lineno)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that people read, with their numbers and without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".h", ".cpp"):
        lines = cpp_comments(text)
    elif path.suffix == ".py":
        lines = python_comments(text)
    else:
        lines = enumerate(text.split("\n"), 1)
    yield from ((number, CODE.sub("", line)) for number, line in lines)


def main(names: list[str]) -> int:
    """Print every place that the rules refuse, and return the exit code."""
    places = [
        f"{name}:{number}: [{match[0]}] {line.strip()}"
        for name in names
        for number, line in prose(Path(name))
        for match in RULES.finditer(line)
    ]
    print("\n".join(places), end="\n" if places else "")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
