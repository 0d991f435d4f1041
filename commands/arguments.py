"""Arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(help="A bundle: ZOO/NAME/VERSION.")]
Name = Annotated[str, typer.Option(help="Name of the model.")]
Version = Annotated[int, typer.Option(help="Version of the model.", min=1)]
Zoo = Annotated[Path, typer.Option(help="Directory of bundles to write into.")]
ZOO = Path("models/zoo")
