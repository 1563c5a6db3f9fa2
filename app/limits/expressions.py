"""The size of a regular expression when its repeats are written out, as an engine does: `(a{100}){100}` is 10,000."""

import re

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_DIGITS = 9
"""Of a repeat that is told from a larger one."""


def expanded_length(pattern: str) -> int:
    """Characters, each class and escape one. Of a pattern that is none it is some number: the engine refuses it."""
    sizes, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text == "(":
            sizes.append(0)
            last = 0
        elif text == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif text[0] == "{" and len(text) > 1:
            more = last * (max(_times(token[1]), _times(token[2]), 1) - 1)
            sizes[-1] += more
            last += more
        else:
            last = 1
            sizes[-1] += 1
    return sum(sizes)


def _times(digits: str | None) -> int:
    return int(digits[:_DIGITS]) if digits else 0
