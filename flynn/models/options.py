"""The options of calls as TypedDicts, for type checkers and editors. `ChatRequest` declares and describes them.

A test compares this file with that declaration. Nothing imports it at run time.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, TypedDict, Union


class CompletionOptions(TypedDict, total=False):
    """The options of the chat and of the completion routes."""

    model: Optional[str]
    max_tokens: Optional[int]
    max_completion_tokens: Optional[int]
    n_predict: Optional[int]
    stop: Union[str, Sequence[str], None]
    ignore_eos: Optional[bool]
    t_max_predict_ms: Optional[int]
    n_indent: Optional[int]
    n: Optional[int]
    n_cmpl: Optional[int]
    n_probs: Optional[int]
    post_sampling_probs: Optional[bool]
    temperature: Optional[float]
    dynatemp_range: Optional[float]
    dynatemp_exponent: Optional[float]
    top_k: Optional[int]
    top_p: Optional[float]
    min_p: Optional[float]
    top_n_sigma: Optional[float]
    typical_p: Optional[float]
    xtc_probability: Optional[float]
    xtc_threshold: Optional[float]
    repeat_penalty: Optional[float]
    repeat_last_n: Optional[int]
    presence_penalty: Optional[float]
    frequency_penalty: Optional[float]
    dry_multiplier: Optional[float]
    dry_base: Optional[float]
    dry_allowed_length: Optional[int]
    dry_penalty_last_n: Optional[int]
    dry_sequence_breakers: Optional[Sequence[str]]
    mirostat: Optional[int]
    mirostat_tau: Optional[float]
    mirostat_eta: Optional[float]
    adaptive_target: Optional[float]
    adaptive_decay: Optional[float]
    seed: Optional[int]
    samplers: Union[str, Sequence[str], None]
    min_keep: Optional[int]
    logit_bias: Union[Sequence[Sequence[Any]], Mapping[str, Any], None]
    backend_sampling: Optional[bool]
    grammar: Optional[str]
    grammar_lazy: Optional[bool]
    grammar_triggers: Optional[Sequence[Any]]
    preserved_tokens: Optional[Sequence[str]]
    json_schema: Optional[Mapping[str, Any]]
    reasoning_budget_tokens: Optional[int]
    reasoning_budget_message: Optional[str]
    reasoning_control: Optional[bool]
    cache_prompt: Optional[bool]
    id_slot: Optional[int]
    n_keep: Optional[int]
    n_discard: Optional[int]
    n_cache_reuse: Optional[int]
    lora: Optional[Sequence[Mapping[str, Any]]]
    return_progress: Optional[bool]
    return_tokens: Optional[bool]
    timings_per_token: Optional[bool]
    sse_ping_interval: Optional[int]
    response_fields: Optional[Sequence[str]]
    verbose: Optional[bool]
    extra: Mapping[str, Any]


class RunOptions(CompletionOptions, total=False):
    """The options of `run_tools`."""

    logprobs: Optional[bool]
    top_logprobs: Optional[int]
    response_format: Union[Mapping[str, Any], Any, None]
    tool_choice: Union[str, Mapping[str, Any], None]
    parallel_tool_calls: Optional[bool]
    parse_tool_calls: Optional[bool]
    reasoning_effort: Optional[str]
    reasoning_format: Optional[str]
    chat_template_kwargs: Optional[Mapping[str, Any]]
    add_generation_prompt: Optional[bool]
    continue_final_message: Union[bool, str, None]
    echo: Optional[bool]


class ChatOptions(RunOptions, total=False):
    """The options of the chat routes."""

    tools: Optional[Sequence[Any]]


class CallOptions(ChatOptions, total=False):
    """The options of `chat` and `chat_json`."""

    timeout: Optional[float]
    headers: Optional[Mapping[str, str]]


class StreamOptions(CallOptions, total=False):
    """The options of `chat_stream` and `chat_json_stream`."""

    resume: Optional[bool]
    resume_for: Optional[float]
