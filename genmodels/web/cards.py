"""Pictures, tables and messages as HTML, in which whatever somebody typed is text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from genmodels.table import number
from genmodels.web.likelihoods import Line
from genmodels.web.picture import Picture, data_url, png
from genmodels.web.studio import Frame


def cards(pictures: Sequence[Picture]) -> str:
    """Return finished pictures, each with its download and its settings."""
    return _list(_card(picture) for picture in pictures)


def sheet(frame: Frame, shape: Sequence[int]) -> str:
    """Return pictures under way."""
    shown = (f'<img src="{data_url(png(pixels, shape))}" alt="">' for pixels in frame.pixels)
    return _list(f"<li>{image}</li>" for image in shown)


def row(name: str, inside: str) -> str:
    """Return what a model has drawn, under its name."""
    return f'<section class="row" aria-label="{escape(name)}"><h3>{escape(name)}</h3>{inside}</section>'


def status(text: str) -> str:
    """Return a line that says how far the work is; who cannot see it is told."""
    return f'<p class="status" role="status">{escape(text)}</p>'


def alert(message: str) -> str:
    """Return what went wrong."""
    return f'<p class="alert" role="alert">{escape(message)}</p>'


def table(lines: Sequence[Line]) -> str:
    """Return the likelihoods, a body of the table for each kind of images."""
    if not lines:
        return "<p>No likelihoods beside these models: the pipelines that train models write them.</p>"
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("model", "likelihood", "kind", "how"))
    bodies = "".join(_body(title, some) for title, some in _by_title(lines).items())
    return f'<table class="likelihoods"><thead><tr>{heads}</tr></thead>{bodies}</table>'


def _by_title(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line.title, []).append(line)
    return found


def _body(title: str, lines: Sequence[Line]) -> str:
    heading = f'<tr><th colspan="4" scope="rowgroup">{escape(title)}</th></tr>'
    return f"<tbody>{heading}{''.join(map(_line, lines))}</tbody>"


def _line(line: Line) -> str:
    how = line.row["method"] if line.row["value"] is not None else line.row["reason"]
    cells = "".join(f"<td>{escape(str(it))}</td>" for it in (number(line.row), line.row["kind"], how))
    return f'<tr><th scope="row">{escape(line.model)}</th>{cells}</tr>'


def _list(items: Iterable[str]) -> str:
    return f'<ul class="pictures">{"".join(items)}</ul>'


def _card(picture: Picture) -> str:
    its = picture.settings
    what = str(its.get("prompt") or its["model"])
    words = escape(f"{what}, seed {its['seed']}, picture {its['picture']}")
    file = f"{_plain(what)}-{its['seed']}-{its['picture']}.png"
    link = f'<a download="{file}" href="{picture.url()}" aria-label="Download {words}">Download</a>'
    details = f"<details><summary>Settings</summary>{_settings(its)}</details>"
    image = f'<img src="{picture.url()}" alt="{words}">'
    return f"<li><figure>{image}<figcaption>{link}{details}</figcaption></figure></li>"


def _plain(text: str) -> str:
    """Return a name for a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "picture"


def _settings(settings: Mapping[str, Any]) -> str:
    pairs = (f"<dt>{escape(name)}</dt><dd>{escape(str(it)) or '–'}</dd>" for name, it in settings.items())
    return f"<dl>{''.join(pairs)}</dl>"
