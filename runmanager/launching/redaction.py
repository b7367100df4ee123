"""Text without what looks like a secret."""

import re
from collections.abc import Iterator

_HIDDEN = "<redacted>"
_SHAPES = re.compile(
    r"""(?xs)
    -----BEGIN[\ A-Z]{0,20}PRIVATE\ KEY.*?(?:-----END[\ A-Z]{0,40}-----|(?=\ndiff\ --git\ )|\Z)
    | (?:\n[+\- ][ \t]*[A-Za-z0-9+/=]{4,}){0,60}\n[+\- ][ \t]*-----END[\ A-Z]{0,20}PRIVATE\ KEY-----  # began above what is shown
    | (?<![A-Za-z0-9])(?:gh[a-z]_|github_pat_|glpat-|hf_|npm_|pypi-|AIza|(?:sk|pk|rk)[_-])[\w-]{16,}
    | (?<![A-Za-z0-9])(?:A[KS]IA[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,}|eyJ[\w-]{8,}(?:\.[\w-]*)*)
    | (?<=hooks\.slack\.com/services/)[\w/-]+
    | (?<=://)(?:[^\s"'@/:]{0,99}:[^\s"']{0,300}|[^\s"'@/]{1,300})(?=@)  # user:password@
    | (?<=Bearer\ )[\w.~+/=-]{6,} | (?<=Basic\ )[\w+/]{12,}=* | (?<=\ -u\ )[^\s"':]+:[^\s"']+
    """
)
_LONG = re.compile(r"[A-Za-z0-9][A-Za-z0-9+/_-]{28,}")  # less than 32: a + or / may stand at the ends
_TURN = re.compile(r"[a-z](?=[A-Z0-9])|[A-Z](?=[0-9])|[0-9](?=[A-Za-z])")
_KEY = (
    r"(?i:token(?!i[sz])|secret(?!ar|ion)|passw(?:or)?d|passphrase|pwd|credential|auth(?!or(?!i))"
    r"|(?:api|access|private|secret|account|encryption|signing|ssh|deploy)[_-]?key)[\w.-]{0,40}(?:\[[^\]\n]{0,40}\])?"
)
_ASSIGNED = re.compile(
    rf"""{_KEY}[\\"']{{0,2}}\]?[ \t]*(?:[!:=]=|:(?!:)|=|(?<=["'])\s?,)"""  # key = value, "key": "value", get("key", "value")
    rf"""|(?<![\w-])--[\w-]{{0,40}}?{_KEY}["']?[ ,=]|password[ ](?=\S+$)"""  # --key value, and .netrc
)
_HARMLESS = re.compile(  # what no secret looks like: code without a text in it
    r"""(?x)(?: \s*[\[(]*(?:
        (?:await\ |not\ |lambda\b)?[A-Za-z_][\w.]*[\[(](?:[^"'`]*[\])]|\s*$)
        | (?:\w+\.)*(?:str|int|float|bool|bytes|object|Any|Tensor|Path|list|dict|tuple|set|Module|None|True|False)\b(?!\s*\w)
        | (?:return|continue|break|raise|pass|yield|self\.|args\.|run\.)\b
        ) | [\])] ) [^"'`]*"""
)
_COUNT = re.compile(r"""\s*[\[(]*(?:[A-Za-z_.]+[,)\]]|-?\d[\d._e-]{0,11}(?=[\s,)\]}:]|$))[^"'`]*""")  # max_tokens=128


def redacted(diff: str) -> str:
    """A diff with `<redacted>` for what has the shape of a secret, or is assigned to the name of one."""
    diff = _SHAPES.sub(_HIDDEN, diff)
    diff = _LONG.sub(lambda found: _HIDDEN if _is_random(found[0]) else found[0], diff)
    return "\n".join(_without_assigned(diff.split("\n")))


def _is_random(text: str) -> bool:
    """Whether digits and both kinds of letters take turns as in no name or path; one kind need only have digits among them."""
    is_mixed = re.search("[0-9]", text) is not None and re.fullmatch("[0-9a-z]+|[0-9A-Z]+", text) is not None
    return (is_mixed and not text.isdigit()) or len(_TURN.findall(text)) > 0.2 * len(text)


def _without_assigned(lines: list[str]) -> Iterator[str]:
    """Lines without what is assigned to a secret's name, and without the lines that the value goes on in."""
    quotes, indent = "", None
    for line in lines:
        if line.startswith(("@@ ", "diff --git ")):
            quotes, indent = "", None
        if quotes:
            quotes = "" if quotes in line else quotes
            yield line[:1] + _HIDDEN
            continue
        if indent is not None and (_indent(line) > indent or re.match(r".?\s*(?:- |$)", line)):
            yield line[:1] + _HIDDEN
            continue
        start, indent = _start_of_secret(line), None
        if start is None:
            yield line
            continue
        value = line[start:].strip()
        opened = re.match(r"""[(\[{]?[a-zA-Z]{0,2}("{3}|'{3})""", value)
        quotes = opened[1] if opened and value.count(opened[1]) % 2 else ""
        is_open = sum(map(value.count, "([{")) > sum(map(value.count, ")]}")) or value[-1:] in ("", "\\", "|", ">", "-")
        indent = _indent(line) if is_open else None
        yield f"{line[:start]} {_HIDDEN}"


def _start_of_secret(line: str) -> int | None:
    """Where the value begins that is assigned to the first name of a secret; None when there is none."""
    for found in _ASSIGNED.finditer(line):
        value = line[found.end() :]
        is_key_alone = re.fullmatch(r".\s*(?:- )?[\"']?[\w.-]*", line[: found.start()]) is not None
        if not value.strip() and not (is_key_alone and not found[0].endswith(",")):
            continue
        is_count = re.search("(?i)token|auth", found[0]) is not None and _COUNT.fullmatch(value) is not None
        if len(line) > 2_000 or not (is_count or _HARMLESS.fullmatch(value)):
            return found.end()
    return None


def _indent(line: str) -> int:
    return len(line[1:]) - len(line[1:].lstrip())
