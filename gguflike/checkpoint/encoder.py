"""Text to token ids: Hugging Face ``tokenizers`` on the tokenizer.json that a vocabulary amounts to."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gguflike.checkpoint.excerpt import MAX_BYTES, Excerpt, excerpt
from gguflike.checkpoint.tokenizer_json import document
from gguflike.checkpoint.vocabulary import Vocabulary
from gguflike.errors import GGUFError, GGUFLikeError

if TYPE_CHECKING:
    import tokenizers

#: Bytes of texts that are encoded with what they need of the vocabulary, before all of it is made ready.
EXCERPTS = 8192
#: What an excerpt costs beside its text, in the same unit.
EXCERPT = 1024
#: Characters that are looked at for each token that is wanted of a text, at first.
CHARACTERS = 6
#: The last letter of a word behind which there is one space, and then another word.
_SEAM = re.compile(r"[^\W\d_](?= [^\W\d_])")
#: A letter and a space behind it in tokens that write bytes as characters, and in others: the last byte of the letter,
#: which is that of no space, and the space.
_CROSSING = {
    True: re.compile(rb"(?:[A-Za-z]|[\x80-\xbf](?<!\xc4[\x80-\xa0]))(?:\xc4\xa0| )"),
    False: re.compile(rb"(?:[A-Za-z]|[\x80-\xbf](?<!\xe2\x96\x81))(?:\xe2\x96\x81| )"),
}
#: How far a seam is looked for from where it would be best.
_NEAR = 4096


class Encoder:
    """Encodes texts as a vocabulary says. Safe to use from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._lock = threading.Lock()
        self._left = EXCERPTS

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of ``text``, with BOS and EOS where the file asks for them if ``add_special``.

        Unless ``parse_special``, markup in the text is text.
        """
        with self._lock:  # of two that need all of the vocabulary one makes it ready
            encode = self._for(text, parse_special)
        return encode([text], add_special, parse_special)[0]

    def first(self, text: str, count: int) -> list[int]:
        """The first ``count`` of the token ids that `encode` gives for ``text`` with what is added and without markup,
        from as much of it as tells them.

        Where no token has a letter and the space behind it, none goes across such a place: what stands before it gives
        the same tokens whatever follows.
        """
        size = CHARACTERS * count
        while size < len(text) and self._has_seams:
            seams = [found.end() for found in _SEAM.finditer(text, max(size - _NEAR, 0), size)]
            if seams and len(ids := self.encode(text[: seams[-1]], True, False)) > count:  # one more may be the end
                return ids[:count]
            size *= 2
        return self.encode(text, True, False)[:count]

    @cached_property
    def _has_seams(self) -> bool:
        """Whether no token that stands for text has a letter and a space behind it."""
        texts = self.vocabulary.texts
        for found in _CROSSING[self.vocabulary.bytewise].finditer(texts.data.tobytes()):
            index = int(np.searchsorted(texts.starts, found.start(), "right")) - 1
            inside = found.end() <= texts.starts[index] + texts.lengths[index]  # not of what stands between texts
            if inside and not self.vocabulary.is_special(index):
                return False
        return True

    def ready_for(self, texts: Sequence[str]) -> Part:
        """An encoder of all of ``texts``, with no more of the vocabulary than they need together."""
        # Also with the space that may be put before each.
        part = excerpt(self.vocabulary, "".join(f"\n {text}" for text in texts), most=1 << 30)
        return Part(self.vocabulary, part)

    @cached_property
    def _whole(self) -> Part:
        return Part(self.vocabulary, None)

    @cached_property
    def _plain(self) -> Part:
        """The encoder of a Unigram for texts whose markup is text: its model would find control tokens by itself."""
        return Part(self.vocabulary, None, markup=False)

    def _for(self, text: str, markup: bool) -> Part:
        """An encoder that is right for ``text``: for the first few short ones, of what they need of the vocabulary."""
        cost = EXCERPT + len(text.encode())
        if cost <= self._left and "_whole" not in self.__dict__:
            self._left -= cost
            part = excerpt(self.vocabulary, text, most=MAX_BYTES)
            if part is not None:
                return Part(self.vocabulary, part, markup)
        return self._whole if markup or not self.vocabulary.finds_markup else self._plain


class Turns:
    """Lets those in at the same time who want the same state of a thing, and others when these have left. Who comes
    first is let in first, so that nobody waits for ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._state: bool | None = None
        self._inside = 0

    @contextmanager
    def __call__(self, state: bool, change: Callable[[], None]) -> Iterator[None]:
        """A block in which the thing has this state, to which ``change`` brings it while nobody is inside."""
        with self._changed:
            place = object()
            self._waiting.append(place)
            try:
                while self._waiting[0] is not place or (self._inside and self._state != state):
                    self._changed.wait()
                if self._state != state:
                    change()
                    self._state = state
                self._inside += 1
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()


class Part:
    """An encoder of ``part`` of a vocabulary, or of all of it. Safe to use from several threads, which wait for each
    other only where markup is text for one and not for the other."""

    def __init__(self, vocabulary: Vocabulary, part: Excerpt | None, markup: bool = True) -> None:
        """``markup`` matters to a Unigram: whether texts hold some. GGUFError where there is no such tokenizer."""
        import json

        from tokenizers import Tokenizer

        self._ids, self._turns = None, Turns()
        try:
            made = document(vocabulary, part, markup)
            if part is not None and vocabulary.model == "t5":  # whose ids are places in the list of tokens
                self._ids = part.ids
                _renumber(made, {index: place for place, index in enumerate(part.ids)})
            self._encoder: tokenizers.Tokenizer = Tokenizer.from_str(json.dumps(made))
            _keep_few_words(self._encoder)
        except Exception as error:  # tokenizers raises bare Exception for whatever it does not like
            if isinstance(error, GGUFLikeError):
                raise
            raise GGUFError(
                "the vocabulary makes no tokenizer", field="tokenizer.ggml", got=str(error)[:300]
            ) from error

    def __call__(self, texts: Sequence[str], add_special: bool, parse_special: bool) -> list[list[int]]:
        def change() -> None:
            self._encoder.encode_special_tokens = not parse_special

        with self._turns(parse_special, change):
            encoded = [self._encoded(text, add_special) for text in texts]
        if self._ids is None:
            return encoded
        return [[self._ids[place] for place in places] for places in encoded]

    def _encoded(self, text: str, add_special: bool) -> list[int]:
        """Token ids as tokenizers has them. While it makes them of a list of texts, others may run Python; of one text
        they may not, which for a long one is the time of many tokens of every answer."""
        if len(text) < _LONG:
            ids: list[int] = self._encoder.encode(text, add_special_tokens=add_special).ids
        else:
            ids = self._encoder.encode_batch([text], add_special_tokens=add_special)[0].ids
        return ids


_LONG = 4096  # characters: about a millisecond
_WORDS = 2_000  # text whose words are all kept is made to tokens 2 to 10 % faster with 10,000


def _keep_few_words(encoder: tokenizers.Tokenizer) -> None:
    """Keep the tokens of fewer words. tokenizers keeps those of 10,000 for good, up to 4 kB each: 40 MB of a server
    that is asked about what is no words."""
    resize = getattr(encoder.model, "_resize_cache", None)  # of BPE and Unigram
    if resize is not None:
        resize(_WORDS)


def _renumber(made: dict[str, Any], places: dict[int, int]) -> None:
    """Let tokenizer.json speak of places in an excerpt where it speaks of ids."""
    for entry in made["added_tokens"]:
        entry["id"] = places[entry["id"]]
    for token in made["post_processor"]["special_tokens"].values():
        token["ids"] = [places[index] for index in token["ids"]]
    unknown = made["model"]["unk_id"]
    made["model"]["unk_id"] = None if unknown is None else places[unknown]
