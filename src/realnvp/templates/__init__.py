"""HTML pages as Jinja2 templates; each page extends base.html."""

from typing import Any


def render(template: str, **values: Any) -> str:
    """Render a template of this folder; values are escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("realnvp"), autoescape=True)
    return environment.get_template(template).render(values)
