"""Small transformer encoders for texts, with an exit after every block or few.

Features are the hidden states, (batch, length, width), and the attention mask, (batch, length): 1
for a token, 0 for padding. What stands in padding changes no answer. The first segment takes token
numbers and the mask, int64 (batch, length) each.

The first segment also looks up every pair of neighbouring tokens, by a hash, in a table of their
own, as fastText does (Joulin et al., 2017): with few examples pairs of words say what attention
would have to learn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.nets.multi_exit import Features, MultiExitNet

UNKNOWN = 1
"""Number of the token that stands for what the tokenizer does not know."""
NEVER = -1e4
"""Added to the scores of padding; finite, so that a text without tokens has no NaN."""
PRIMES = 7919, 104729


@dataclass(frozen=True)
class TextConfig:
    """Shape of an encoder.

    `pairs` is the number of rows of the table of pairs. In training, `word_dropout` is the share
    of tokens that become unknown ones, `dropout` that of hidden numbers that become zero,
    `head_dropout` the same for what exit heads read.
    """

    blocks: tuple[int, ...]  # of each segment
    width: int
    heads: int  # of attention
    pairs: int
    mlp_factor: int = 4
    word_dropout: float = 0.1
    dropout: float = 0.1
    head_dropout: float = 0.3


class Embedding(nn.Module):
    """Token numbers to hidden states: a vector a token, a place and a pair of neighbours."""

    def __init__(self, config: TextConfig, vocabulary: int, max_length: int) -> None:
        super().__init__()
        self.word_dropout, self.num_pairs = config.word_dropout, config.pairs
        self.tokens = nn.Embedding(vocabulary, config.width)
        self.pairs = nn.Embedding(config.pairs, config.width)
        self.places = nn.Parameter(torch.empty(max_length, config.width))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.tokens.weight, std=0.05)
        for weight in (self.pairs.weight, self.places):
            nn.init.normal_(weight, std=0.02)

    def forward(self, features: Features) -> Features:
        ids, mask = features
        if self.training:
            is_dropped = torch.rand(ids.shape, device=ids.device) < self.word_dropout
            ids = torch.where(is_dropped & (mask != 0), UNKNOWN, ids)
        before = F.pad(ids, (1, 0))[:, :-1]
        pairs = (before * PRIMES[0] + ids * PRIMES[1]) % self.num_pairs
        x = self.tokens(ids) + self.pairs(pairs) + self.places[: ids.shape[1]]
        return [self.dropout(x), mask]


class Block(nn.Module):
    """Attention, then a two-layer perceptron; each normalises its input, and is added to it."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, inner = config.width, config.mlp_factor * config.width
        self.num_heads = config.heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Features) -> Features:
        x, mask = features
        x = x + self.dropout(self.attention(self.norm(x), mask))
        return [x + self.dropout(self.mlp(self.mlp_norm(x))), mask]

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """Multi-head self-attention over (batch, tokens, width); `mask` is 0 at padding."""
        split = self.queries_keys_values(x).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # (batch, head, token, channel) each
        scores = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)
        unseen = (1 - mask.to(x.dtype))[:, None, None, :] * NEVER
        weights = (scores + unseen).softmax(-1)
        attended: Tensor = self.out((weights @ values).transpose(1, 2).flatten(2))
        return attended


class MeanMaxHead(nn.Module):
    """Logits from mean and maximum over the normalised tokens; both are 0 where there is none."""

    def __init__(self, width: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, features: Features) -> Tensor:
        x, mask = self.norm(features[0]), features[-1].to(features[0].dtype)[..., None]
        num_tokens = mask.sum(1)
        mean = (x * mask).sum(1) / num_tokens.clamp(min=1)
        largest = (x + (1 - mask) * NEVER).amax(1) * num_tokens.clamp(max=1)
        logits: Tensor = self.linear(self.dropout(torch.cat([mean, largest], dim=1)))
        return logits


def text_encoder(config: TextConfig, shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Builds an encoder for texts; `shape` is the vocabulary's size and the longest length."""
    vocabulary, max_length = shape
    segments: list[nn.Module] = []
    for num_blocks in config.blocks:
        first: list[nn.Module] = [] if segments else [Embedding(config, vocabulary, max_length)]
        segments.append(nn.Sequential(*first, *(Block(config) for _ in range(num_blocks))))
    heads = [MeanMaxHead(config.width, num_classes, config.head_dropout) for _ in segments]
    return MultiExitNet(segments, heads)


TEXT_TINY = TextConfig(blocks=(1, 1, 1, 1), width=96, heads=3, pairs=4096)
TEXT_SMALL = TextConfig(blocks=(1,) * 6, width=256, heads=4, pairs=16384)
