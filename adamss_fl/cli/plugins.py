"""``adamss-fl plugins``: what is installed at each extension point."""

from adamss_fl import plugins as registry
from adamss_fl.cli.shell import JsonOption, emit


def plugins(json: JsonOption = False) -> None:
    """List what is installed at each extension point, with its settings and where it comes from.

    Example: adamss-fl plugins
    """
    found = [info for point in registry.POINTS for info in registry.installed(point)]
    if json:
        emit({"plugins": found}, json=True)
        return
    for point in registry.POINTS:
        rows = [
            {
                "name": info.name,
                "does": info.description,
                "settings": ", ".join(f"{key}: {text}" for key, text in info.settings.items()),
                "from": info.distribution,
            }
            for info in found
            if info.point == point
        ]
        emit({point: rows})
