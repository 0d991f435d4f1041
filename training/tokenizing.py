"""Tokenizers: learned on the training split, or read from a file."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from models.bundle.records import File
from models.bundle.text_input import TextInput
from training.data.errors import DataError

FILE = "tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]")
"""Tokens 0 and 1; the latter is `UNKNOWN` in `models.nets.text`."""
WITHIN = "##"
"""Before a token that does not begin its word."""
MIN_FREQUENCY = 2
LONGEST = 512
QUANTILES = (0.25, 0.5, 0.75, 0.95)
"""Of the training texts' lengths; each becomes a length bucket, rounded up."""
STEP = 4


def learned(texts: Sequence[str], vocabulary: int) -> str:
    """The `tokenizer.json` of a WordPiece tokenizer for lower-case texts without accents.

    Equal texts give equal tokens. Left to itself the library numbers the characters within words in
    an order that changes from call to call, and by these numbers it decides between equal pairs.
    """
    normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()]
    )
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    characters = sorted({character for word in words for character in word[1:]})
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL[1]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[*SPECIAL, *(WITHIN + character for character in characters)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    plain = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=SPECIAL[1]))
    plain.normalizer, plain.pre_tokenizer = normalizer, splitter
    plain.add_special_tokens(list(SPECIAL))
    plain.enable_padding(pad_id=0, pad_token=SPECIAL[0])
    return str(plain.to_str())


def read(path: Path) -> str:
    """A `tokenizer.json`, or that of a directory; raises DataError where there is none."""
    file = path / FILE if path.is_dir() else path
    try:
        content = file.read_text()
        Tokenizer.from_str(content)
    except Exception as error:  # the library's errors have no common base
        raise DataError(f"{file} is no tokenizer: {error}") from error
    return content


def of_pretrained(source: str) -> str:
    """The tokenizer of a `transformers` model, from its directory or the hub."""
    from transformers import AutoTokenizer  # noqa: PLC0415 (optional)

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(Path(source).expanduser()), use_fast=True)
        return str(tokenizer.backend_tokenizer.to_str())
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{source} has no {FILE}: {error}".partition("\n")[0]) from error


def target_of(
    tokenizer: str, texts: Sequence[str], longest: int | None, example: str | None
) -> TextInput:
    """What a network for these training texts takes.

    Texts are cut at `longest` tokens: if None the next power of two above the longest of them, at
    least `STEP`: a length that cannot vary cannot be exported.
    """
    reader = Tokenizer.from_str(tokenizer)
    reader.no_padding()
    reader.enable_truncation(longest or LONGEST)
    lengths = [len(encoding.ids) for encoding in reader.encode_batch_fast(list(texts))]
    limit = longest or min(LONGEST, max(STEP, 1 << (max(lengths) - 1).bit_length()))
    quantiles = np.quantile(lengths, QUANTILES)
    buckets = {STEP * max(1, int(np.ceil(q / STEP))) for q in quantiles}
    given = {"example": example} if example else {}
    return TextInput.model_validate(
        {
            "tokenizer": File(file=FILE, sha256=sha256(tokenizer.encode()).hexdigest()),
            "length_buckets": (*sorted(b for b in buckets if b < limit), limit),
            **given,
        }
    )
