"""A trained network to attach exits to: EfficientNet-Lite0 with a classifier for Caltech-101.

The published ImageNet weights stay as they are; a linear classifier on top learns the 101 classes.
Takes a few minutes on two cores:

    pip install '.[train,example]'
    python -m examples.caltech101_efficientnet DATA efficientnet.onnx
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from examples.efficientnet import published
from models.bundle.image_input import ImageInput
from training.attaching.cut import pieces, places
from training.attaching.features import VIEWS
from training.attaching.passes import logits_of
from training.attaching.photos import open_photos
from training.attaching.program import program
from training.attaching.read import Options, read
from training.attaching.trial import runner_of

SIZE = 224
PUBLISHED = Options(mean=(127 / 255,), std=(128 / 255,))
"""How the published weights want pixels: (p - 127) / 128."""
EPOCHS, BATCH = 40, 128


def export_backbone(path: Path) -> None:
    """The published network without its classifier: images to 1,280 features."""
    net = published(SIZE)
    net._fc = nn.Identity()
    exported = torch.onnx.export(
        net.eval(),
        (torch.zeros(2, 3, SIZE, SIZE),),
        dynamo=True,
        input_names=["image"],
        output_names=["features"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert exported is not None
    onnx.save(exported.model_proto, path)


def trained_classifier(x: Tensor, labels: Tensor, num_classes: int) -> nn.Linear:
    """A linear layer that tells the classes by the features."""
    torch.manual_seed(0)
    mean, std = x.mean(0), x.std(0) + 1e-3
    layer = nn.Linear(x.shape[1], num_classes)
    optimizer = torch.optim.AdamW(layer.parameters(), weight_decay=0.1)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * steps)
    for _ in tqdm(range(EPOCHS), desc="training", unit="epoch"):
        for rows in torch.randperm(len(x))[: steps * BATCH].view(steps, BATCH):
            logits = layer((x[rows] - mean) / std)
            optimizer.zero_grad()
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():  # the standardisation goes into the layer
        layer.weight.div_(std)
        layer.bias.sub_(layer.weight @ mean)
    return layer


def with_classifier(backbone: Path, layer: nn.Linear, labels: tuple[str, ...]) -> onnx.ModelProto:
    """The network with its classifier, and its labels in the file."""
    model = onnx.load(backbone)
    graph = model.graph
    for name, values in (("weight", layer.weight), ("bias", layer.bias)):
        array = values.detach().numpy()
        graph.initializer.append(numpy_helper.from_array(array, f"classifier.{name}"))
    inputs = [graph.output[0].name, "classifier.weight", "classifier.bias"]
    graph.node.append(helper.make_node("Gemm", inputs, ["logits"], transB=1))
    del graph.output[:]
    shape: list[str | int | None] = ["batch", len(labels)]
    graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape))
    helper.set_model_props(model, {"labels": "\n".join(labels)})
    return model


def main(data: str, path: Path) -> None:
    backbone = path.with_suffix(".backbone.onnx")
    export_backbone(backbone)
    whole = program(read(backbone, PUBLISHED))
    segments, head = pieces(whole, [], places(whole)[-1])
    runner = runner_of(segments, [head])
    target = ImageInput(height=SIZE, width=SIZE, channels=3)
    train, test = open_photos(data, "train", target), open_photos(data, "test", target)
    assert train.names is not None
    assert train.labels is not None
    assert test.labels is not None

    seen = [
        torch.from_numpy(logits_of(runner, photos, f"features, {view}", VIEWS[view])[0])
        for photos, view in ((train, "plain"), (train, "mirrored"), (test, "plain"))
    ]
    labels = torch.from_numpy(train.labels)
    layer = trained_classifier(torch.cat(seen[:2]), labels.repeat(2), len(train.names))
    onnx.save(with_classifier(backbone, layer, train.names), path)
    with torch.no_grad():
        answers = layer(seen[2]).argmax(1).numpy()
    print(f"wrote {path}: {100 * np.mean(answers == test.labels):.2f} % of the test photos right")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
