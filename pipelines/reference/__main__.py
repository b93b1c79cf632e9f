"""Writes docs/reference and docs/results.md anew: `python -m pipelines.reference [DOCS]`."""

import sys
from pathlib import Path

from pipelines.reference import results
from pipelines.reference.pages import pages

if __name__ == "__main__":
    docs = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    folder = docs / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    (docs / "results.md").write_text(results.page(Path.cwd()), encoding="utf-8")
