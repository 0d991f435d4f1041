"""The interface every multi-exit network offers to training and export."""

from collections.abc import Sequence

from torch import Tensor, nn

Features = list[Tensor]


class NetError(ValueError):
    """The network cannot be built; the message says why, in one sentence."""


class MultiExitNet(nn.Module):
    """A backbone cut into segments, with an exit head after each.

    Segment 1 takes a list of tensors: normalised images, (batch, channels, height, width); or token
    numbers and attention mask, int64 (batch, length) each; or normalised rows of numbers, (batch,
    numbers). Every later segment takes the features of the one before it. Head k takes the features
    of segment k and returns logits, (batch, classes).

    A new architecture is one file with a function that returns one of these. `normalisation` is the
    mean and the deviation per channel that its weights were trained with, of pixels in [0, 1]; None
    takes the training data's.
    """

    normalisation: tuple[list[float], list[float]] | None = None

    def __init__(self, segments: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        if not segments or len(segments) != len(heads):
            raise NetError(f"{len(segments)} segments need as many exit heads, not {len(heads)}")
        self.segments = nn.ModuleList(segments)
        self.heads = nn.ModuleList(heads)

    @property
    def num_exits(self) -> int:
        return len(self.segments)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Logits of every exit, first to last, each (batch, classes)."""
        features, logits = list(inputs), []
        for segment, head in self.split():
            features = segment(features)
            logits.append(head(features))
        return logits

    def split(self) -> list[tuple[nn.Module, nn.Module]]:
        """The exportable pieces: segment and exit head of each exit."""
        return list(zip(self.segments, self.heads, strict=True))
