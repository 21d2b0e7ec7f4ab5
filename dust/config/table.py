"""The table of all keys in docs/CONFIG.md. ``python -m dust.config.table docs/CONFIG.md`` writes it again."""

import sys
from itertools import groupby
from pathlib import Path

from dust.config.defaults import OWN
from dust.config.schema import Key
from dust.utils.errors import ConfigError

BEGIN, END = "<!-- keys: written by python -m dust.config.table docs/CONFIG.md -->\n", "<!-- end of keys -->\n"
KINDS = {"str": "texts", "int": "whole numbers", "float": "numbers", "object": "entries", "list": "lists", "": ""}
KINDS |= {"Weight": "numbers, or `{name: number}`", "Folders": "a folder, or several as `[a, b]`"}
STAGES = {"features": "a stage or a folder", None: ""}


def table() -> str:
    """Return all keys that dust acts on, in Markdown: a table for each section, in their order."""
    keys = sorted(OWN.items(), key=lambda item: "." in item[0])  # those at the top in one table
    lines = []
    for section, group in groupby(keys, key=lambda item: item[0].rpartition(".")[0].split(".")[0]):
        title = section or "At the top"
        lines += [f"### {title}", "", "| key | default | values | what it is | resume |", "|---|---|---|---|---|"]
        lines += [_row(name, facts) for name, facts in group]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, facts: Key) -> str:
    doc = facts.doc + (f"; gives {facts.inherits}.*" if facts.inherits and facts.inherits not in facts.doc else "")
    default = repr(facts.default).replace("'", "") if isinstance(facts.default, (list, tuple)) else str(facts.default)
    cells = (f"`{name}`", f"`{default or repr('')}`", _values(facts), doc, "yes" if facts.may_change_on_resume else "")
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |".replace("  ", " ")


def _values(facts: Key) -> str:
    options = (f"`{option or repr('')}`" + f" ({why})" * bool(why) for option, why in facts.options.items())
    several = "one or more of " * (bool(facts.options) and isinstance(facts.default, list))
    kind = facts.kind.__name__ if facts.kind and facts.default is not None else ""
    parts = [
        several + ", ".join(options),
        facts.bounds,
        facts.values,
        f"{facts.length} values" if facts.length else "",
        KINDS[kind],
        *(f"or `{word}`" for word in facts.words),
        STAGES.get(facts.stage, "a file, `zoo://NAME` or a stage"),
    ]
    return ", ".join(filter(None, parts))


def replaced(text: str) -> str:
    """Return a text with the table between its two marks. ConfigError if it does not have both, once and in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in before + after:
        raise ConfigError(f"the table of keys stands between the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(replaced(path.read_text(encoding="utf-8")), encoding="utf-8")
