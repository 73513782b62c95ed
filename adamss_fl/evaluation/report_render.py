"""Pages from templates: nothing is fetched, no script runs, and all text is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"


def svg_uri(svg: str) -> str:
    """An SVG as a data URI: figures cannot clash with each other's identifiers, and nothing is fetched."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def render(template: str, page: Mapping[str, Any]) -> str:
    """The HTML of a template by its file's name; page : all that it shows, anything that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg_uri"] = svg_uri
    return environment.get_template(template).render(page)
