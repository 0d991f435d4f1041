"""Everything that decides a training run, as one frozen record that travels with its checkpoint."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

LossName = Literal["distillation", "exit-wise"]


class TrainConfig(BaseModel):
    """A training run. Two runs with equal configs on one machine give equal weights.

    `data` is "digits", a directory of parquet files or of image folders, or a hub name.
    `distillation_confidence` is µ of Phuong & Lampert (2019): the distillation temperature rises
    while the last exit's softened predictions are more confident than this on average.
    `decay_epochs` are where the "step" schedule divides the learning rate by ten.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    net: str
    image_size: PositiveInt | None = None
    loss: LossName = "distillation"
    distillation_confidence: float = Field(0.5, gt=0, lt=1)

    epochs: PositiveInt = 300
    batch_size: PositiveInt = 64
    schedule: Literal["step", "linear"] = "step"
    decay_epochs: tuple[int, ...] = (150, 225)
    warmup_epochs: float = Field(0, ge=0)
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)

    flip: bool = True
    crop_padding: int = Field(4, ge=0)
    calibration_per_class: PositiveInt = 25
    selection_per_class: int = Field(50, ge=0)
    max_train_per_class: PositiveInt | None = None
    seed: int = 0

    bf16: bool = False
    compile: bool = False


RECIPES: dict[str, dict[str, object]] = {
    "paper": {},
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
    "digits": {
        "epochs": 12,
        "schedule": "linear",
        "warmup_epochs": 1,
        "flip": False,
        "crop_padding": 1,
        "selection_per_class": 10,
    },
}
"""`paper` is Phuong & Lampert's. `short` fits two CPU cores in two hours and selects no epoch:
its learning rate ends at zero. `digits` trains in seconds."""
