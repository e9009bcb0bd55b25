"""A request to the chat route: every field of it, declared once.

The JSON that is sent, the keyword options of `chat` and `chat_stream`, the options of the command and the `defaults` of
the configuration all follow from `ChatRequest`, and so do the options of the completion routes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Dict, Iterable, Mapping, Optional, Sequence, Tuple, Union

from ..errors import suggestion
from .messages import AnyMessage

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import ChatOptions


def _option(meaning: str, *, command: bool = False, completion: bool = True) -> Any:
    """A field of the chat route, and of the completion routes unless `completion` is false.

    Args:
        meaning: its help text.
        command: whether the command has an option for it.
    """
    return field(default=None, metadata={"help": meaning, "command": command, "completion": completion})


def _chat_option(meaning: str, *, command: bool = False) -> Any:
    """A field of the chat route alone."""
    return _option(meaning, command=command, completion=False)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ChatRequest:
    """A request to the chat route.

    Every field is sent under its own name. A field that is None is not sent: the server's default applies. Names and
    meanings are llama-server's: see the chat and completion routes in `tools/server/README.md`, and
    `tools/server/server-schema.cpp`, in ggml-org/llama.cpp.

    Args:
        messages: the conversation. The model continues an assistant's message at its end (prefill).
        extra: merged into the JSON last, for fields that are missing here.

    Example:
        >>> ChatRequest([Message("user", "Hi")], max_tokens=20, temperature=0.2).temperature
        0.2
    """

    messages: Sequence[AnyMessage]
    model: Optional[str] = _option("model to use, on a server with several", command=True)
    # length
    max_tokens: Optional[int] = _option("most tokens to generate; -1: until the model stops", command=True)
    max_completion_tokens: Optional[int] = _option("the same as max_tokens")
    n_predict: Optional[int] = _option("the same as max_tokens")
    stop: Union[str, Sequence[str], None] = _option("strings that end the answer", command=True)
    ignore_eos: Optional[bool] = _option("go on after the end-of-sequence token")
    t_max_predict_ms: Optional[int] = _option("most milliseconds to generate, once a line has ended; 0: no limit")
    n_indent: Optional[int] = _option("least indentation of generated lines, in characters")
    # choices and probabilities
    n: Optional[int] = _option("number of choices to generate")
    n_cmpl: Optional[int] = _option("the same as n")
    logprobs: Optional[bool] = _chat_option("return the log-probability of each token")
    top_logprobs: Optional[int] = _chat_option("number of likely tokens to return at each position; needs logprobs")
    n_probs: Optional[int] = _option("the same as top_logprobs, in the server's own form")
    post_sampling_probs: Optional[bool] = _option("return probabilities after sampling instead of before")
    # sampling
    temperature: Optional[float] = _option("randomness; 0: always the likeliest token", command=True)
    dynatemp_range: Optional[float] = _option("temperature varies by this much up and down; 0: off")
    dynatemp_exponent: Optional[float] = _option("exponent of the dynamic temperature")
    top_k: Optional[int] = _option("only the K likeliest tokens; 0: all", command=True)
    top_p: Optional[float] = _option("only the likeliest tokens that make up this probability; 1: all", command=True)
    min_p: Optional[float] = _option("least probability, relative to the likeliest token's; 0: any", command=True)
    top_n_sigma: Optional[float] = _option("only tokens within this many standard deviations; -1: off")
    typical_p: Optional[float] = _option("locally typical sampling; 1: off")
    xtc_probability: Optional[float] = _option("chance to exclude the top choices; 0: off")
    xtc_threshold: Optional[float] = _option("least probability of a top choice to exclude; over 0.5: off")
    repeat_penalty: Optional[float] = _option("penalty for repeated tokens; 1: off", command=True)
    repeat_last_n: Optional[int] = _option("number of last tokens that count as repeated; 0: off")
    presence_penalty: Optional[float] = _option("penalty for tokens that occur at all; 0: off", command=True)
    frequency_penalty: Optional[float] = _option("penalty for tokens by how often they occur; 0: off", command=True)
    dry_multiplier: Optional[float] = _option("strength of the DRY repetition penalty; 0: off")
    dry_base: Optional[float] = _option("base of the DRY penalty")
    dry_allowed_length: Optional[int] = _option("longest repetition without a DRY penalty, in tokens")
    dry_penalty_last_n: Optional[int] = _option("number of last tokens that DRY looks at; 0: off")
    dry_sequence_breakers: Optional[Sequence[str]] = _option("strings that end a sequence for DRY")
    mirostat: Optional[int] = _option("Mirostat sampling; 0: off, 1 or 2: its version")
    mirostat_tau: Optional[float] = _option("target entropy of Mirostat")
    mirostat_eta: Optional[float] = _option("learning rate of Mirostat")
    adaptive_target: Optional[float] = _option("probability that adaptive-p aims at; negative: off")
    adaptive_decay: Optional[float] = _option("decay of the average of adaptive-p, 0 to 0.99")
    seed: Optional[int] = _option("seed of the random numbers; -1: a random one", command=True)
    samplers: Union[str, Sequence[str], None] = _option("samplers in the order in which they apply")
    min_keep: Optional[int] = _option("least number of tokens that samplers leave; 0: off")
    logit_bias: Union[Sequence[Sequence[Any]], Mapping[str, Any], None] = _option("likelihood of single tokens")
    backend_sampling: Optional[bool] = _option("sample on the GPU")
    # constraints
    grammar: Optional[str] = _option("grammar of the answer, in GBNF", command=True)
    grammar_lazy: Optional[bool] = _option("apply the grammar only after one of grammar_triggers")
    grammar_triggers: Optional[Sequence[Any]] = _option("texts or tokens from which a lazy grammar applies")
    preserved_tokens: Optional[Sequence[str]] = _option("strings that are kept as single tokens")
    json_schema: Optional[Mapping[str, Any]] = _option("JSON schema of the answer")
    response_format: Union[Mapping[str, Any], Any, None] = _chat_option("a type, or a JSON schema in OpenAI's form")
    # tools
    tools: Optional[Sequence[Any]] = _chat_option("functions that the model may call, or their OpenAI definitions")
    tool_choice: Union[str, Mapping[str, Any], None] = _chat_option("auto, none, required, or the one function to call")
    parallel_tool_calls: Optional[bool] = _chat_option("allow several tool calls at once")
    parse_tool_calls: Optional[bool] = _chat_option("find tool calls in the generated text")
    # reasoning and the chat template
    reasoning_effort: Optional[str] = _chat_option("none, low, medium, high: for templates that use it", command=True)
    reasoning_format: Optional[str] = _chat_option("none: reasoning stays in the text; deepseek: apart", command=True)
    reasoning_budget_tokens: Optional[int] = _option("most tokens of reasoning; -1: no limit", command=True)
    reasoning_budget_message: Optional[str] = _option("text that ends reasoning when its budget is used up")
    reasoning_control: Optional[bool] = _option("let end_reasoning stop the reasoning")
    chat_template_kwargs: Optional[Mapping[str, Any]] = _chat_option("variables for the chat template")
    add_generation_prompt: Optional[bool] = _chat_option("let the template open the assistant's message")
    continue_final_message: Union[bool, str, None] = _chat_option("go on with the last message instead of a new one")
    # cache, slots, adapters
    cache_prompt: Optional[bool] = _option("use the prompt cache")
    id_slot: Optional[int] = _option("slot to use; -1: any")
    n_keep: Optional[int] = _option("tokens of the prompt to keep when the context is full; -1: all")
    n_discard: Optional[int] = _option("tokens after n_keep to drop when the context is full; 0: half")
    n_cache_reuse: Optional[int] = _option("shortest chunk to reuse from the cache by shifting, in tokens; 0: off")
    lora: Optional[Sequence[Mapping[str, Any]]] = _option("LoRA adapters with their scales")
    # what the reply holds
    return_progress: Optional[bool] = _option("send progress events while the prompt is read")
    return_tokens: Optional[bool] = _option("return the IDs of the generated tokens")
    timings_per_token: Optional[bool] = _option("send timings with each token")
    sse_ping_interval: Optional[int] = _option("seconds between pings in a silent stream; -1: none")
    response_fields: Optional[Sequence[str]] = _option("return only these fields of the reply")
    echo: Optional[bool] = _chat_option("begin the answer with the prefilled text")
    verbose: Optional[bool] = _option("return debug information in __verbose")
    extra: Mapping[str, Any] = field(default_factory=dict)

    # A request keeps only the fields that are set, of over 70; the others are found in the class, as None.

    def __init__(self, messages: Sequence[AnyMessage], **options: Unpack[ChatOptions]) -> None:
        check_options(options, OPTIONS)
        extra = options.get("extra")
        if extra is not None and not isinstance(extra, Mapping):
            raise TypeError(f"extra must be a mapping, not {type(extra).__name__}")
        given = {name: value for name, value in options.items() if value is not None}
        vars(self).update({"messages": messages, "extra": {}, **given})

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, ChatRequest) else NotImplemented

    def __repr__(self) -> str:
        given = (f"{name}={value!r}" for name, value in vars(self).items() if value != {})
        return f"ChatRequest({', '.join(given)})"


OPTIONS = tuple(option.name for option in fields(ChatRequest) if option.name != "messages")


def check_options(options: Iterable[str], known: Sequence[str]) -> None:
    """Raise TypeError for an option that a route does not have."""
    for name in options:
        if name not in known:
            raise TypeError(
                f"unknown option {name!r}{suggestion(name, known)} "
                f"(pass options that Flynn does not know yet in extra={{{name!r}: ...}})"
            )


if ChatRequest.__doc__:  # not under -OO
    _described = (f"        {f.name}: {f.metadata['help']}." for f in fields(ChatRequest) if f.metadata)
    ChatRequest.__doc__ = "\n".join([ChatRequest.__doc__.rstrip(), "", "    Options:", *_described])

Prompt = Union[str, Sequence[AnyMessage], ChatRequest]

# The Python types of a JSON value, by the words of the annotations above.
_JSON_TYPES: Dict[str, Tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Sequence": (list, tuple),
    "Mapping": (dict,),
}


def option_types() -> Dict[str, Tuple[type, ...]]:
    """Return the options of a chat request, each with the Python types that its value may have.

    Example:
        >>> option_types()["max_tokens"]
        (<class 'int'>,)
    """
    types = {}
    for option in fields(ChatRequest):
        if option.metadata:
            # The members of its Optional or Union, without their own arguments.
            outer = re.findall(r"(\w+)(?:\[[^]]*]+)?", str(option.type).partition("[")[2])
            types[option.name] = tuple(t for word, kinds in _JSON_TYPES.items() if word in outer for t in kinds)
    return types
