"""For `make docs`: pages that stand elsewhere in the repository come in, and links follow them.

README.md is the site's first page. A link to a folder or to code, which the site does not hold, becomes its name.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
#: Page of the site -> where it stands.
PAGES = {
    "index.md": "README.md",
    "DATASET.md": "dust/datasets/DATASET.md",
    "MODEL_ZOO.md": "MODEL_ZOO.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
ROOMS_LEFT_OUT = ("cli",)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/, and the API page, which lists every module that is there now."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def api_page() -> str:
    """Write a heading for each room, and a reference of each of its modules."""
    lines = ["# API", ""]
    for room in sorted(path.parent for path in (ROOT / "dust").glob("*/__init__.py")):
        if room.name in ROOMS_LEFT_OUT:
            continue
        lines += [f"## dust.{room.name}", ""]
        for path in sorted(room.rglob("*.py")):
            if path.name != "__init__.py":
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                lines += [f"::: {name}", "    options: {heading_level: 3}", ""]
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where their pages are within the site."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    homes = {where: name for name, where in PAGES.items()}

    def moved(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        path = _normal(PurePosixPath(source).parent / target)
        if path in homes:
            return f"[{text}]({homes[path]}{anchor})"
        if path.startswith("docs/") and path.endswith((".md", ".ipynb", ".png", ".svg", ".jpg")):
            return f"{picture}[{text}]({path.removeprefix('docs/')}{anchor})"
        return text  # a folder, or code

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)", moved, markdown)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
