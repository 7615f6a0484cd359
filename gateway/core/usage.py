"""What a call used, in tokens."""

from __future__ import annotations

from msgspec import Struct


class Usage(Struct, frozen=True, gc=False):
    """Token counts as the ledger keeps them.

    `input_tokens` includes the cached and cache-written ones and the audio and image ones that came in,
    `output_tokens` includes the reasoning ones and the audio and image ones that went out.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_image_tokens: int = 0
    estimated: bool = False  # the provider gave no usage: these are the gateway's own figures

    @property
    def total(self) -> int:
        """Input and output together, as limits count them."""
        return self.input_tokens + self.output_tokens

    @property
    def audio_tokens(self) -> int:
        """Audio tokens of both directions."""
        return self.input_audio_tokens + self.output_audio_tokens

    @property
    def image_tokens(self) -> int:
        """Image tokens of both directions."""
        return self.input_image_tokens + self.output_image_tokens


NOTHING = Usage()
