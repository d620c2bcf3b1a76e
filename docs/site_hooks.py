"""Hooks of mkdocs.yml: add pages from the root, and turn links to files outside docs/ into plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the site that are files of the repository's root.
ROOT_PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from the repository's root."""
    for page, source in ROOT_PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relative_to_docs(content)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Keep the text and drop the target of links to files that are not part of the site."""

    def replaced(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = target.partition("#")[0]
        if not path or "://" in target or target.startswith("mailto:"):
            return link[0]
        name = Path(page.file.src_uri).parent.joinpath(path).as_posix()
        for site_page, source in ROOT_PAGES.items():
            if path in (source, f"../{source}"):
                return f"[{text}]({site_page}{target[len(path) :]})"
        return link[0] if files.get_file_from_path(name) else text

    return LINK.sub(replaced, markdown)


def _relative_to_docs(markdown: str) -> str:
    """Return the text of a page in the repository's root with its links and images as seen from docs/."""
    return re.sub(r"(\]\(|src=\"|srcset=\")docs/", r"\1", markdown)
