"""`offramp attach`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.arguments import ZOO, Name, Version, Zoo
from commands.rooms import room

CUTTING, LABELS, IMAGES = "Where to cut", "Labels", "Images"
TEXTS, OUTCOME = "Texts", "What comes out"

Model = Annotated[
    Path, typer.Argument(help="A trained classifier of images or texts as an ONNX file.")
]
Data = Annotated[
    str,
    typer.Option(
        help="Images or texts, as for train. Images need no labels, and no test split.",
    ),
]
Exits = Annotated[
    int | None,
    typer.Option(
        help="Number of exits, the last included. Default: as many as pay on this host.",
        min=2,
        rich_help_panel=CUTTING,
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        help="Tensors to cut at, by name, separated by commas. Default: chosen for you.",
        rich_help_panel=CUTTING,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="File of the network's labels: one per line in its order, or JSON with or without"
        " their indices.",
        rich_help_panel=LABELS,
    ),
]
Unlabelled = Annotated[
    bool,
    typer.Option(
        "--unlabelled",
        help="Learn and calibrate without the labels of the data.",
        rich_help_panel=LABELS,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Side of an image in pixels, where the file does not say. Default: 224.",
        min=1,
        rich_help_panel=IMAGES,
    ),
]
Resize = Annotated[
    Literal["squash", "crop", "pad"],
    typer.Option(help="How to fit images of another size.", rich_help_panel=IMAGES),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of pixels in [0, 1], as R,G,B. Default: ImageNet's; 0.5 where channels are"
        " last.",
        rich_help_panel=IMAGES,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Standard deviation of pixels, likewise.", rich_help_panel=IMAGES),
]
ChannelsFirst = Annotated[
    bool | None,
    typer.Option(
        help="Order of the input's axes, where the file does not say.", rich_help_panel=IMAGES
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        help="Tokenizer of a network for texts. Default: the tokenizer.json beside its file.",
        rich_help_panel=TEXTS,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        help="Tokens of the longest text. Default: those of the longest in the data.",
        min=4,
        rich_help_panel=TEXTS,
    ),
]
MaxDisagreement = Annotated[
    float,
    typer.Option(
        help="Share of answers that may differ from the last exit's at the operating point"
        " certified, with probability 0.9.",
        min=0,
        max=1,
        rich_help_panel=OUTCOME,
    ),
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Write 8-bit graphs, if they are faster and answer alike.",
        rich_help_panel=OUTCOME,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Directory that keeps features for the next run. Default: offramp/attach in the"
        " user's caches.",
        rich_help_panel=OUTCOME,
    ),
]
Seed = Annotated[
    int,
    typer.Option(help="Seed of the split and of the heads.", min=0, rich_help_panel=OUTCOME),
]


def attach(
    model: Model,
    data: Data,
    name: Name,
    version: Version = 1,
    zoo: Zoo = ZOO,
    exits: Exits = None,
    at: At = None,
    labels: Labels = None,
    unlabelled: Unlabelled = False,
    size: Size = None,
    resize: Resize = "squash",
    mean: Mean = None,
    std: Std = None,
    channels_first: ChannelsFirst = None,
    tokenizer: Tokenizer = None,
    max_tokens: MaxTokens = None,
    max_disagreement: MaxDisagreement = 0.05,
    int8: Int8 = False,
    cache: Cache = None,
    seed: Seed = 0,
) -> None:
    """Put exits on a network that is trained already; the same call goes on after a stop."""
    room("training").attach(
        model,
        data,
        name,
        version,
        zoo,
        num_exits=exits,
        at=at,
        labels=labels,
        uses_labels=not unlabelled,
        size=size,
        resize=resize,
        mean=mean,
        std=std,
        channels_first=channels_first,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        max_disagreement=max_disagreement,
        int8=int8,
        cache=cache,
        seed=seed,
    )
