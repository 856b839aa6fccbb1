"""`patchlens models`: what can be loaded."""

from patchlens.cli.options import Json
from patchlens.cli.terminal import draw, say_json

__all__ = ["models"]


def models(json: Json = False) -> None:
    """List the models that need no download, and the model families that can be read."""
    from patchlens.models.embedded import embedded, embedded_names
    from patchlens.models.registry import families

    shipped = [found for name in embedded_names() if (found := embedded(name)) is not None]
    known = families()
    if json:
        say_json(
            {
                "embedded": [
                    {"name": each.name, "summary": each.summary, "folder": str(each.folder)} for each in shipped
                ],
                "families": [
                    {
                        "family": each.family,
                        "takes": list(each.modalities),
                        "model_types": list(each.model_types),
                    }
                    for each in known
                ],
            }
        )
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = Table(box=box.SIMPLE_HEAD)
    names.add_column("name", no_wrap=True)
    names.add_column("what it is")
    for each in shipped:
        names.add_row(Text(each.name), Text(each.summary))
    kinds = Table(box=box.SIMPLE_HEAD)
    kinds.add_column("family", no_wrap=True)
    kinds.add_column("takes", no_wrap=True)
    kinds.add_column("model_type in config.json")
    for family in known:
        kinds.add_row(family.family, " + ".join(family.modalities), _few(family.model_types))
    draw(
        Text("Embedded models, which need no download", style="bold"), names if shipped else Text("  none installed\n")
    )
    draw(Text("Model families that can be read", style="bold"), kinds)


def _few(types: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(types) if len(types) <= most else f"{len(types)} types; patchlens models --json lists them"
