"""The pages of docs/reference by their names."""

from genmodels import registry
from pipelines.params import IMAGES, SCHEMAS
from pipelines.reference import blocks, command


def pages() -> dict[str, str]:
    """Return the text of each page of the reference.

    Raises:
        KeyError: a key has no words.
    """
    found = {
        "command.md": command.page(),
        "params.md": blocks.page("params.yaml", registry.load({"": IMAGES}, "")),
    }
    for name in SCHEMAS:
        schema = registry.load(SCHEMAS, name)
        found[f"params_{name}.md"] = blocks.page(f"pipelines/{name}/params.yaml", schema)
    return found
