"""``python -m tools.synthetic_profiles``: write the synthetic profiles anew."""

from __future__ import annotations

from pathlib import Path

import click

from tools.synthetic_profiles import render_files


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("profiles/synthetic"), show_default=True, help="Folder."
)
def main(out: Path) -> None:
    """Write a synthetic profile of every device class."""
    for name, text in render_files().items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(path)


if __name__ == "__main__":
    main()
