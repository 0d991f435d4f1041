import pytest
import torch
from torch.nn import functional as F

from models.nets.multi_exit import NetError
from models.nets.vit import VIT_TINY, Attention, MeanTokenHead, Tokens, ViTConfig, vit

SMALL = ViTConfig(blocks=(1, 2), patch=4, width=12, heads=3)


def test_one_token_per_patch_row_by_row() -> None:
    tokens = Tokens(SMALL, (8, 12, 3)).eval()
    images = torch.randn(1, 3, 8, 12)
    changed = images.clone()
    changed[:, :, 4:, 8:] += 1  # the last patch of the second and last row
    with torch.no_grad():
        before, after = tokens(images), tokens(changed)
    assert before.shape == (1, 6, 12)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5], after[:, 5])


def test_equal_patches_differ_by_their_positions() -> None:
    torch.manual_seed(0)
    tokens = Tokens(SMALL, (8, 8, 3))
    with torch.no_grad():
        first, second, *_ = tokens(torch.ones(1, 3, 8, 8))[0]
        apart = tokens.positions[0] - tokens.positions[1]
    assert first - second == pytest.approx(apart, abs=1e-6)
    assert tokens.positions.std().item() == pytest.approx(0.02, rel=0.4)


@pytest.mark.parametrize("image_shape", [(30, 32, 3), (32, 30, 3)])
def test_images_that_are_no_whole_patches_are_refused(image_shape: tuple[int, int, int]) -> None:
    with pytest.raises(NetError, match=r"^3.x3. pixels cannot be cut into 4x4 patches$"):
        vit(VIT_TINY, image_shape, 10)


def test_attention_is_torchs() -> None:
    attention, x = Attention(12, num_heads=3), torch.randn(2, 5, 12)
    with torch.no_grad():
        queries, keys, values = (
            part.view(2, 5, 3, 4).transpose(1, 2)
            for part in attention.queries_keys_values(x).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        expected = attention.out(attended.transpose(1, 2).reshape(2, 5, 12))
        assert attention(x) == pytest.approx(expected, abs=1e-6)


def test_features_are_the_tokens_and_heads_read_their_normalised_mean() -> None:
    net, images = vit(SMALL, (8, 8, 3), 10).eval(), torch.randn(2, 3, 8, 8)
    (segment, head), (last_segment, _) = net.split()
    assert isinstance(head, MeanTokenHead)
    with torch.no_grad():
        (tokens,) = features = segment([images])
        (last,) = last_segment(features)
        means = F.layer_norm(tokens, (12,)).mean(dim=1)
        assert tokens.shape == last.shape == (2, 4, 12)
        assert head(features) == pytest.approx(means @ head.linear.weight.T, abs=1e-6)
