"""Texts to the tokens that a model takes, without trusting a character of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.bundle.text import TextReader, Tokens
from server.engine.job import Given
from server.errors import BadParameter, TextTooLong

SMALL_CHARACTERS = 2048
"""Of a request's texts. So many are tokenized in a millisecond, about as fast as a thread wakes."""
CHARACTERS_PER_TOKEN = 4
"""Of English words: tells about how long a text is before it is tokenized."""


def text_of(content: bytes, field: str) -> str:
    """Strict UTF-8, with or without a byte order mark; raises BadParameter."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start}: {error.reason}"
        raise BadParameter(field, f"is not UTF-8, at {where}") from error


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a request for a model; `fields` are their names in the request."""

    contents: Sequence[str]
    fields: Sequence[str]
    reader: TextReader
    max_characters: int

    @property
    def num_rows(self) -> int:
        return len(self.contents)

    @property
    def length(self) -> int:
        """The bucket that the longest is expected to need."""
        return self.reader.length_of(max(map(len, self.contents)) // CHARACTERS_PER_TOKEN)

    def decode_here(self) -> list[Given] | None:
        """The texts where they are short, or None: a thread is to read what takes longer."""
        is_small = sum(map(len, self.contents)) <= SMALL_CHARACTERS
        return self.decode() if is_small else None

    def parts(self) -> list[Callable[[], list[Given]]]:
        return [self.decode]

    def decode(self) -> list[Given]:
        """Every text as tokens, those of one bucket in one array; an error names the text."""
        tokens = [self._tokens(*pair) for pair in zip(self.contents, self.fields, strict=True)]
        rows: dict[int, Given] = {}
        for length in {each.length for each in tokens}:
            numbers = [number for number, each in enumerate(tokens) if each.length == length]
            arrays = self.reader.arrays([tokens[number] for number in numbers], length)
            for index, number in enumerate(numbers):
                rows[number] = Given(arrays, index, length, tokens[number].is_cut)
        return [rows[number] for number in range(len(tokens))]

    def sources(self) -> list[bytes]:
        return [text.encode(errors="surrogatepass") for text in self.contents]

    def _tokens(self, text: str, field: str) -> Tokens:
        if len(text) > self.max_characters:
            detail = f"{len(text)} characters; at most {self.max_characters} are read"
            raise TextTooLong(detail, field)
        if not text.strip():
            raise BadParameter(field, "has no characters but white space")
        if "\0" in text:
            raise BadParameter(field, "has a NUL character")
        if (place := first_surrogate(text)) is not None:
            raise BadParameter(field, f"has half a surrogate pair, at character {place}")
        try:
            (tokens,) = self.reader.read([text])
        except Exception as error:  # the errors of `tokenizers` have no common base
            raise BadParameter(field, f"cannot be tokenized: {error}") from error
        return tokens


def first_surrogate(text: str) -> int | None:
    """Where a text has what UTF-8 cannot say."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
