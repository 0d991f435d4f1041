"""Everything that decides a training run, as one frozen record that travels with its checkpoint."""

from math import ceil
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from models.bundle.image_input import Colour, Resize

LossName = Literal["distillation", "exit-wise"]
Teachers = Literal["last", "all-later", "ensemble"]
Mixing = Literal["mixup", "cutmix"]
Share = Annotated[float, Field(gt=0, lt=1)]


class TrainConfig(BaseModel):
    """A training run. Two runs with equal configs on one machine give equal weights.

    `data` is "digits", a directory of image folders, a CSV, JSON lines or parquet file, a directory
    of such files, or a hub name. A table has images, or texts, or numbers: the column
    `text_column`, or the columns `number_columns`, comma-separated; its labels are in
    `label_column`. What is not named is guessed. `net` is a preset, the function of a user's own
    network, "file.py:function", or "transformers:" and a pretrained model's directory or hub name.

    Images become squares of `image_size`; without it all must have one size. `resize` says how, as
    the bundle's manifest does, `ground` too; `crop_share` is how much of the scaled short side
    `crop` keeps, all if None. Images that cannot be decoded are refused or skipped.

    `teachers` are the exits that every exit but the last learns to imitate: the last, the mean of
    all later ones, or the mean of all. `distillation_temperature` is constant where given; else it
    is annealed from 1, rising while the last exit's softened predictions are more confident than
    `distillation_confidence` on average: µ of Phuong & Lampert (2019), but at least 1.5 divided by
    the number of classes. `label_smoothing` is the share of a label that is spread over all
    classes.

    Texts go through `tokenizer`, a tokenizer.json, or else through one that is learned from the
    training rows and has up to `vocabulary` tokens; they are cut at `max_tokens`. `example` is a
    text that the model's users are shown.

    Of every class, `images_per_class` rows are used, whatever they are, all if None; they include
    `selection_per_class` rows that choose the best epoch. Apart from them, `calibration_per_class`
    rows are kept for export, and up to `unlabelled_per_class` more are learned from without their
    labels: half of each batch, if there are any. Where a share is given it takes the place of the
    number: `images_share` and `calibration_share` are of the class's rows, `selection_share` is of
    the images it is part of. Where texts or numbers have a validation split beside a test split,
    its rows select and calibrate, and none of the training split is kept apart for that.

    `start_from` is an earlier run, on the same data, whose best weights the first step starts from,
    and whose mean and deviation normalise; what is kept apart now must have been kept apart there.
    `teacher` is another such run, of any network, whose last exit every exit imitates in place of
    `teachers`.

    `micro_batches` is how many parts a batch is computed in, each normalised by its own statistics;
    every process of a distributed run takes the same number of parts. `ema_decay` is that of the
    weights' exponential moving average, which is then what is selected and exported.
    `decay_epochs` are where the "step" schedule divides the learning rate by ten: by default half
    and three quarters of the epochs, rounded up; only the "linear" one has `warmup_epochs`. "muon"
    takes steps of `matrix_learning_rate` on hidden matrices, and SGD's on all else; "adamw" decays
    matrices only. `gradient_scaling` gives a segment the mean of its exits' gradients in place of
    their sum.

    `freeze` leaves the segments as they are and trains the exit heads alone;
    `backbone_learning_rate` is the segments' own; Muon's for their matrices changes in proportion.

    `random_resized_crop` trains on parts of the images, of at least 8 % of their area, as networks
    for ImageNet are; `crop_padding` shifts them by a few pixels instead, as for CIFAR. `cutout` is
    the side of a square that is blanked in every image, in pixels. `mixing` is done to half of the
    batches.

    `bf16` takes effect where the processor has instructions for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    net: str
    image_size: PositiveInt | None = None
    resize: Resize = "crop"
    crop_share: Share | None = None
    ground: Colour = (255, 255, 255)
    undecodable: Literal["refuse", "skip"] = "refuse"
    text_column: str | None = None
    label_column: str | None = None
    number_columns: str | None = None
    tokenizer: str | None = None
    vocabulary: int = Field(4000, ge=100)
    max_tokens: int | None = Field(None, ge=4)
    example: str | None = None

    loss: LossName = "distillation"
    teachers: Teachers = "last"
    distillation_temperature: float | None = Field(None, ge=1)
    distillation_confidence: float = Field(0.5, gt=0, lt=1)
    label_smoothing: float = Field(0, ge=0, lt=1)

    images_per_class: PositiveInt | None = None
    selection_per_class: NonNegativeInt = 50
    calibration_per_class: NonNegativeInt = 25
    unlabelled_per_class: NonNegativeInt = 0
    images_share: Share | None = None
    selection_share: Share | None = None
    calibration_share: Share | None = None
    seed: NonNegativeInt = 0

    start_from: str | None = None
    teacher: str | None = None
    epochs: PositiveInt = 300
    batch_size: PositiveInt = 64
    micro_batches: PositiveInt = 1
    schedule: Literal["step", "linear"] = "step"
    decay_epochs: tuple[int, ...] = Field(
        default_factory=lambda given: (ceil(given["epochs"] / 2), ceil(given["epochs"] * 3 / 4))
    )
    warmup_epochs: float = Field(0, ge=0)
    learning_rate: float = Field(0.1, gt=0)
    backbone_learning_rate: float | None = Field(None, gt=0)
    freeze: Literal["backbone"] | None = None
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    optimizer: Literal["sgd", "muon", "adamw"] = "sgd"
    matrix_learning_rate: float = Field(0.02, gt=0)
    gradient_scaling: bool = False
    ema_decay: float | None = Field(None, gt=0, lt=1)
    selection_interval: PositiveInt = 1

    flip: bool = True
    crop_padding: NonNegativeInt = 4
    random_resized_crop: bool = False
    cutout: NonNegativeInt = 0
    mixing: Mixing | None = None

    bf16: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        parts = self.micro_batches * (2 if self.unlabelled_per_class else 1)
        if self.batch_size % parts:
            raise ValueError(f"a batch of {self.batch_size} cannot be cut into {parts} equal parts")
        return self

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if self.random_resized_crop and self.crop_padding:
            raise ValueError("random_resized_crop takes the place of crop_padding: set it to 0")
        if self.images_per_class is not None and self.images_share is not None:
            raise ValueError("images_per_class and images_share exclude each other")
        if self.crop_share is not None and self.resize != "crop":
            raise ValueError(f"crop_share is for resize=crop, not {self.resize}: set it to null")
        if self.warmup_epochs and self.schedule != "linear":
            raise ValueError(
                f"warmup_epochs is for schedule=linear, not {self.schedule}: set it to 0"
            )
        if self.freeze and self.backbone_learning_rate is not None:
            raise ValueError("a frozen backbone has no learning rate")
        if self.freeze and self.gradient_scaling:
            raise ValueError("a frozen backbone has no gradients to scale")
        return self

    @model_validator(mode="after")
    def _loss_uses_its_options(self) -> Self:
        if self.teacher is not None and self.teachers != "last":
            raise ValueError("a teacher takes the place of teachers: leave those out")
        if self.loss == "exit-wise":
            if self.unlabelled_per_class:
                raise ValueError("the exit-wise loss learns nothing from unlabelled rows")
            options = (self.teacher, self.distillation_temperature)
            if self.teachers != "last" or options != (None, None):
                raise ValueError("the exit-wise loss has neither teachers nor a temperature")
        return self


def changes(then: TrainConfig, now: TrainConfig) -> list[str]:
    """Every option that differs between two configurations, with both its values."""
    earlier, later = then.model_dump(), now.model_dump()
    return [
        f"{key} was {earlier[key]}, is {later[key]}"
        for key in earlier
        if earlier[key] != later[key]
    ]


RECIPES: dict[str, dict[str, object]] = {
    "paper": {},
    "paper-imagenet": {
        "image_size": 224,
        "crop_share": 0.875,
        "random_resized_crop": True,
        "crop_padding": 0,
        "selection_share": 0.1,
        "distillation_confidence": 0.1,
        "epochs": 90,
        "batch_size": 256,
        "decay_epochs": (30, 60),
    },
    "short": {
        "epochs": 28,
        "batch_size": 128,
        "schedule": "linear",
        "warmup_epochs": 2,
        "weight_decay": 5e-4,
        "selection_per_class": 0,
        "bf16": True,
        "compile": True,
    },
    "text": {
        "epochs": 12,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "linear",
        "warmup_epochs": 1,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "selection_per_class": 0,
        "calibration_per_class": 20,
    },
    "numbers": {
        "epochs": 40,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "linear",
        "warmup_epochs": 1,
        "weight_decay": 0.01,
        "selection_per_class": 0,
        "calibration_share": 0.2,
    },
    "digits": {
        "epochs": 12,
        "schedule": "linear",
        "warmup_epochs": 1,
        "flip": False,
        "crop_padding": 1,
        "selection_per_class": 10,
    },
}
"""`paper` and `paper-imagenet` are Phuong & Lampert's. `short` fits two CPU cores in two hours and
selects no epoch: its learning rate ends at zero. `text` is for small encoders trained from scratch,
`numbers` for perceptrons. `digits` trains in seconds."""
