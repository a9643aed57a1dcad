"""The library's messages in the words of the command line: its options, not Python's arguments.

>>> spoken("can't open m.pt2: ...; pass trust=True if you trust it")
"can't open m.pt2: ...; pass --trust if you trust it"
"""

import re

__all__ = ["spoken"]

_WORDS = {
    r"trust=True": "--trust",
    r"state=True": "--state",
    r"inputs=\[\(x, \.\.\.\), \.\.\.\]": "--inputs X.npz",
    r"inputs=": "--inputs X.npz",
    r"calibration=": "--calibration DATA.npz",
    r"max_drop": "--max-drop",
    r"min_sqnr": "--min-sqnr",
    r"dynamic_shapes": "--dynamic",
    r"opset=": "--opset ",
    r"path=": "--output ",
    r"import what defines it before loading": "give the file that defines it as --plugin FILE.py",
}
_ANY = re.compile("|".join(f"(?<![\\w.])(?:{word})" for word in _WORDS))


def spoken(message: str) -> str:
    """The message with the names of options in it."""
    return _ANY.sub(lambda found: next(o for w, o in _WORDS.items() if re.fullmatch(w, found[0])), message)
