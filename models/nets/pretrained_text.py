"""Text classifiers of the `transformers` library, cut into segments with exits between them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from models.nets.multi_exit import Features, MultiExitNet, NetError
from models.nets.pretrained import ClassToken, family_of, load
from models.nets.text import MeanMaxHead

NUM_EXITS = 4
Parts = tuple[nn.Module, list[nn.Module], nn.Module]
"""Embedding, layers, and the last exit's head."""


class Embed(nn.Module):
    """Token numbers to hidden states; the mask goes on."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, features: Features) -> Features:
        ids, mask = features
        return [self.embeddings(input_ids=ids), mask]


class Layer(nn.Module):
    """One layer of the encoder, which does not look at padding."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Features) -> Features:
        x, mask = features
        lowest = torch.finfo(x.dtype).min
        unseen = (1 - mask.to(x.dtype))[:, None, None, :] * lowest
        return [self.layer(x, attention_mask=unseen), mask]


class HiddenHead(nn.Sequential):
    """Logits from the hidden states, without the mask."""

    def forward(self, features: Features) -> Tensor:
        logits: Tensor = super().forward(features[0])  # type: ignore[no-untyped-call]
        return logits


def pretrained_text(source: str, shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Loads a classifier from a directory or the hub; its weights are where training starts.

    "SOURCE@2,4" has exits after its layers 2 and 4 and after its last; without these there are four
    at equal distances. The last exit is the model's own classifier, if it has as many classes.
    BERT, DistilBERT and RoBERTa are known. `shape` is the vocabulary's size and the longest length.
    """
    source, chosen = parted(source)
    model = load("AutoModelForSequenceClassification", source, num_classes)
    family = family_of(model, FAMILIES, source)
    refuse_other_texts(model.config, source, shape)
    embeddings, layers, last_head = family(model)
    ends = ends_of(chosen, len(layers))
    segments: list[nn.Module] = []
    for start, end in pairwise([0, *ends]):
        first: list[nn.Module] = [] if segments else [Embed(embeddings)]
        segments.append(nn.Sequential(*first, *map(Layer, layers[start:end])))
    width = model.config.hidden_size
    heads: list[nn.Module] = [MeanMaxHead(width, num_classes) for _ in segments[:-1]]
    return MultiExitNet(segments, [*heads, last_head])


def parted(source: str) -> tuple[str, str]:
    """The directory or hub name, and the layers after its "@"; a directory above may have one."""
    place, at, chosen = source.rpartition("@")
    return (place, chosen) if at and "/" not in chosen else (source, "")


def refuse_other_texts(config: Any, source: str, shape: Sequence[int]) -> None:  # noqa: ANN401
    vocabulary, max_length = shape
    if vocabulary > config.vocab_size:
        raise NetError(
            f"{source} knows {config.vocab_size} tokens, the tokenizer has {vocabulary}; take its "
            "own: --set tokenizer=FILE"
        )
    longest = config.max_position_embeddings
    if config.model_type == "roberta":
        longest -= config.pad_token_id + 1
    if max_length > longest:
        raise NetError(f"{source} takes {longest} tokens at most: --set max_tokens={longest}")


def ends_of(chosen: str, num_layers: int) -> list[int]:
    """How many layers lie before each exit."""
    if not chosen:
        num_exits = min(NUM_EXITS, num_layers)
        return [num_layers * k // num_exits for k in range(1, num_exits + 1)]
    ends = {int(end) if end.isdigit() else 0 for end in chosen.split(",")} | {num_layers}
    if min(ends) < 1 or max(ends) > num_layers:
        raise NetError(f"exits go after layers 1 to {num_layers}, not {chosen}")
    return sorted(ends)


def bert_parts(model: Any) -> Parts:  # noqa: ANN401
    base = model.bert
    pooler = base.pooler
    head = HiddenHead(
        ClassToken(), pooler.dense, pooler.activation, model.dropout, model.classifier
    )
    return base.embeddings, list(base.encoder.layer), head


def distilbert_parts(model: Any) -> Parts:  # noqa: ANN401
    base = model.distilbert
    layers = [model.pre_classifier, nn.ReLU(), model.dropout, model.classifier]
    return base.embeddings, list(base.transformer.layer), HiddenHead(ClassToken(), *layers)


def roberta_parts(model: Any) -> Parts:  # noqa: ANN401
    base = model.roberta
    return base.embeddings, list(base.encoder.layer), HiddenHead(model.classifier)


FAMILIES: dict[str, Callable[[Any], Parts]] = {
    "bert": bert_parts,
    "distilbert": distilbert_parts,
    "roberta": roberta_parts,
}
"""What each kind of classifier is made of."""
