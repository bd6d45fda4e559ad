"""Say what to use in place of functions that torchkeras 3 and 4 had in modules that are there."""

from __future__ import annotations

PAGE = "docs/from-torchkeras-3-and-4.md"
FORMER = {
    "torchkeras.utils": {
        "prettydf": "print(df.to_string()) shows a table, or tabulate.tabulate(df)",
        "text_to_image": "PIL's ImageDraw draws text",
    },
    "torchkeras.data": {
        "get_url_img": "urllib.request.urlopen reads what PIL.Image.open takes",
    },
}


def missing(module: str, name: str) -> ImportError | AttributeError:
    """Return the error for a name that a module does not have, or no longer has."""
    hint = FORMER.get(module, {}).get(name)
    if hint is None:
        return AttributeError(f"module {module!r} has no attribute {name!r}")
    return ImportError(f"{module}.{name} was part of an earlier version, and is not in this one: "
                       f'{hint}. What is where: the page "From torchkeras 3 and 4", {PAGE}',
                       name=module)
