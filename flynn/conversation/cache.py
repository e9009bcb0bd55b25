"""Why the server read a prompt again, instead of taking its beginning from the prompt cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ..errors import FlynnError
from ..models.local.llamacpp import LlamaCppClient
from ..models.request import Prompt
from ..models.types import ChatResponse

_SHOWN = 12  # tokens of each prompt, from the first difference on


@dataclass
class PromptDifference:
    """The first difference of two prompts.

    Attributes:
        tokens: number of tokens that they have in common, from the beginning.
        before, after: the next dozen tokens of each, as text.
    """

    tokens: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"the prompts differ from token {self.tokens} on: {self.before!r} became {self.after!r}"


def compare_prompts(client: LlamaCppClient, before: Prompt, after: Prompt) -> Optional[PromptDifference]:
    """Return the first difference of two requests' prompts, chat template included; None if one begins the other.

    llama-server reuses the tokens that a prompt has in common with the last prompt of its slot. A date in the system
    prompt, tools in another order, or a template that drops earlier reasoning make it read everything after that again.

    Args:
        client: the server's client. It sends up to six requests, for the server's template and tokenizer, and raises
            what `apply_template` and `tokenize` raise.
        before, after: the requests, as for `LlamaCppClient.chat`.

    Example:
        >>> str(compare_prompts(client, "Why is the sky blue?", "Why is the sea blue?"))
        "the prompts differ from token ... on: ..."
    """
    one, other = (client.tokenize(client.apply_template(prompt), add_special=True) for prompt in (before, after))
    common = next((index for index, (a, b) in enumerate(zip(one, other)) if a != b), None)
    if common is None:
        return None
    shown = (client.detokenize(tokens[common : common + _SHOWN]) for tokens in (one, other))
    return PromptDifference(common, *shown)


def why_read_anew(
    client: LlamaCppClient, before: Prompt, after: Prompt, response: ChatResponse, expected: Optional[int] = None
) -> str:
    """Return in one line why the cache supplied less than the last prompt; empty if it supplied all of it.

    `expected` is the number of the last prompt's tokens; the server counts them if it is None.
    """
    usage = response.usage
    try:
        expected = client.count_tokens(before) if expected is None else expected
        # Of a prompt that it knows whole, the server reads the last token again.
        if usage is None or usage.cached_tokens >= min(expected, usage.prompt_tokens - 1):
            return ""
        difference = compare_prompts(client, before, after)
    except FlynnError as error:
        return f"the prompts cannot be compared: {error}"
    reason = difference or "the prompt continues the last one, but the server's slot no longer holds it"
    return f"cached {usage.cached_tokens:,} of {usage.prompt_tokens:,} tokens: {reason}"
