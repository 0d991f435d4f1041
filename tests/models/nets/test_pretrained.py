"""Models of the transformers library with exits: tiny, with random weights, saved to a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from models.nets.layers import Head
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.presets import build
from training.exporting.graphs import macs_of

SIZE = 32
CONFIGS: dict[str, dict[str, Any]] = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]},
    "ConvNext": {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]},
    "ViT": {
        "hidden_size": 16,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": SIZE,
        "patch_size": 8,
    },
    "MobileNetV1": {"depth_multiplier": 0.25, "image_size": SIZE},
    "MobileNetV2": {"depth_multiplier": 0.25, "image_size": SIZE},
}


def saved(kind: str, directory: Path, num_labels: int = 5) -> Any:  # noqa: ANN401
    """The model, written as the library writes its own."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(num_labels=num_labels, **CONFIGS[kind])
    model = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_last_exit_is_the_model_itself(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    net = build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5).eval()
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        logits = net(images)
        expected = model(images).logits
    assert [tuple(z.shape) for z in logits] == [(3, 5)] * 4
    assert torch.allclose(logits[-1], expected, atol=1e-5)


def test_macs_of_a_vit_by_hand(tmp_path: Path) -> None:
    """16 patches of 8x8x3 and the class token, 6 layers of width 16, a linear layer at the end."""
    saved("ViT", tmp_path)
    net = build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5).eval()
    free = [Head() for _ in range(net.num_exits - 1)]
    trunk = MultiExitNet(list(net.segments), [*free, net.heads[-1]])
    layer = 17 * (4 * 16 * 16 + 2 * 16 * 32) + 2 * 17 * 17 * 16
    found = macs_of(trunk, [torch.zeros(1, 3, SIZE, SIZE)])
    assert found == 16 * (8 * 8 * 3) * 16 + 6 * layer + 16 * 5


def test_another_number_of_classes_begins_with_a_new_classifier(tmp_path: Path) -> None:
    model = saved("ResNet", tmp_path)
    net = build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 7).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, SIZE, SIZE))[-1].shape == (2, 7)
    stem = model.resnet.embedder.embedder.convolution.weight
    assert torch.equal(next(net.segments.parameters()), stem)


def test_images_are_normalised_as_the_model_was_trained(tmp_path: Path) -> None:
    saved("ResNet", tmp_path)
    assert build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5).normalisation is None
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    net = build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5)
    assert net.normalisation == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    unused = json.dumps(settings | {"do_normalize": False})
    (tmp_path / "preprocessor_config.json").write_text(unused)
    net = build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5)
    assert net.normalisation == ([0.0] * 3, [1.0] * 3)


def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(NetError, match=r"nothing cannot be loaded: "):
        build(f"transformers:{tmp_path}/nothing", (SIZE, SIZE, 3), 5)
    saved("ViT", tmp_path)
    with pytest.raises(NetError, match=r"images of 32x32 pixels, not 64x64: --set image_size=32$"):
        build(f"transformers:{tmp_path}", (64, 64, 3), 5)
    with pytest.raises(NetError, match=r"takes images of 3 channels, not 1$"):
        build(f"transformers:{tmp_path}", (SIZE, SIZE, 1), 5)


def test_a_kind_that_is_not_known_is_refused_though_it_has_another_form(tmp_path: Path) -> None:
    """CLIP has its number of channels elsewhere, and no model within."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    library: Any = transformers
    config = library.CLIPConfig(
        text_config=size | {"num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2},
        vision_config=size | {"num_attention_heads": 2, "image_size": SIZE, "patch_size": 8},
    )
    library.CLIPForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(NetError, match=r"is a clip; known are resnet, convnext, vit, mobilenet"):
        build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5)


def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    saved("ResNet", tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text('{"image_mean": null, "image_std": null}')
    assert build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5).normalisation is None
    settings.write_text("{")
    with pytest.raises(NetError, match=r"cannot be loaded: Expecting property name"):
        build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(NetError, match=r"cannot be loaded: .*header too large$"):
        build(f"transformers:{tmp_path}", (SIZE, SIZE, 3), 5)


def test_pretrained_models_are_none_for_numbers(tmp_path: Path) -> None:
    saved("ResNet", tmp_path)
    with pytest.raises(NetError, match=r"is no network for numbers; there are mlp$"):
        build(f"transformers:{tmp_path}", (4,), 5)
