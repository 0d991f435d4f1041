"""From texts to the token ids that segment 1 takes, by the bundle's `tokenizer.json`.

Training, evaluation and the server all call `TextReader`.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.bundle.bundle import BundleError
from models.bundle.runner import Arrays
from models.bundle.text_input import TextInput


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the network reads it, without padding.

    `length` is the smallest length bucket that holds it. `is_cut` says that it was longer than the
    largest one.
    """

    ids: list[int]
    types: list[int]
    length: int
    is_cut: bool


class TextReader:
    """Reads texts with a bundle's tokenizer. Calls may come from several threads at once.

    Texts are cut at the largest length bucket, whatever the tokenizer's own truncation says but for
    the side that is cut. Raises BundleError for a tokenizer that `tokenizers` refuses.
    """

    def __init__(self, tokenizer: bytes, target: TextInput) -> None:
        self._inputs, self._buckets = target.inputs, target.length_buckets
        longest = self._buckets[-1]
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
        except Exception as error:  # its errors have no common base
            raise BundleError(f"{target.tokenizer.file} cannot be used: {error}") from error
        if self._tokenizer.num_special_tokens_to_add(is_pair=False) >= longest:
            raise BundleError(f"length {longest} leaves no room beside the tokenizer's own tokens")
        padding, cutting = self._tokenizer.padding or {}, self._tokenizer.truncation or {}
        self._pad_id, self._pad_type = padding.get("pad_id", 0), padding.get("pad_type_id", 0)
        self._pads_left = padding.get("direction") == "left"
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(longest, direction=cutting.get("direction", "right"))

    def read(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text; raises what `tokenizers` raises, and ValueError for no token."""
        return [self._tokens(encoding) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def length_of(self, num_tokens: int) -> int:
        """The smallest length bucket that holds so many, or the largest."""
        return self._buckets[min(bisect_left(self._buckets, num_tokens), len(self._buckets) - 1)]

    def _tokens(self, encoding: Encoding) -> Tokens:
        ids = encoding.ids
        if not ids:
            raise ValueError("the text has no token")
        return Tokens(ids, encoding.type_ids, self.length_of(len(ids)), bool(encoding.overflowing))

    def arrays(self, texts: Sequence[Tokens], length: int) -> Arrays:
        """Segment 1's inputs for a batch of texts, each (texts, length), padded."""
        made = {
            "input_ids": ([text.ids for text in texts], self._pad_id),
            "attention_mask": ([[1] * len(text.ids) for text in texts], 0),
            "token_type_ids": ([text.types for text in texts], self._pad_type),
        }
        return [self._padded(*made[name], length) for name in self._inputs]

    def _padded(self, rows: Sequence[list[int]], padding: int, length: int) -> NDArray[np.int64]:
        filled = np.full((len(rows), length), padding, np.int64)
        for place, row in zip(filled, rows, strict=True):
            place[length - len(row) if self._pads_left else 0 :][: len(row)] = row
        return filled
