"""Why a server read a prompt anew, instead of taking its beginning from the prompt cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ..models.local.llamacpp import LlamaCppClient
from ..models.request import Prompt
from ..models.types import ChatResponse

_SHOWN = 12  # tokens of each prompt, from the first difference on


@dataclass
class PromptDifference:
    """Where two prompts part.

    Attributes:
        tokens: how many they have in common, from the beginning.
        before, after: what each of them has from there on, a dozen tokens of it.
    """

    tokens: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"the prompts differ from token {self.tokens} on: {self.before!r} became {self.after!r}"


def compare_prompts(client: LlamaCppClient, before: Prompt, after: Prompt) -> Optional[PromptDifference]:
    """Return where the prompts of two requests part, chat template included; None if one begins with all of the other.

    llama-server reuses the tokens that a prompt has in common with the last one of its slot. So a date in the system
    prompt, tools in another order, or a template that drops the reasoning of earlier answers makes it read all that
    follows once more.

    Args:
        client: of the server, which applies its template and tokenizer: four requests.
        before, after: the requests, as for `LlamaCppClient.chat`.

    Raises:
        FlynnError: as for `LlamaCppClient.apply_template` and `tokenize`.

    Example:
        >>> str(compare_prompts(client, "Why is the sky blue?", "Why is the sea blue?"))
        "the prompts differ from token ... on: ..."
    """
    one, other = (client.tokenize(client.apply_template(prompt), add_special=True) for prompt in (before, after))
    alike = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), None)
    if alike is None:
        return None
    shown = (client.detokenize(tokens[alike : alike + _SHOWN]) for tokens in (one, other))
    return PromptDifference(alike, *shown)


def why_read_anew(client: LlamaCppClient, before: Prompt, expected: int, after: Prompt, response: ChatResponse) -> str:
    """Return in one line why fewer tokens came from the cache than could have; empty if they all did.

    Args:
        client: of the server.
        before: the request before, in the same conversation.
        expected: tokens that its prompt had.
        after, response: the request, and the answer to it.
    """
    usage = response.usage
    if usage is None or usage.cached_tokens >= expected:
        return ""
    why = compare_prompts(client, before, after)
    reason = why or "the prompt goes on from the last one, which the server's slot does not hold any more"
    return f"cached {usage.cached_tokens:,} of {usage.prompt_tokens:,} tokens: {reason}"
