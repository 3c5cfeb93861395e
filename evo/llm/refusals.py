"""What a server that refuses a request as too long says of what it holds: pure.

There is no standard for it. The texts are those of the servers, as their users quote them: OpenAI, vLLM and SGLang in several versions,
llama.cpp's server and its Python package, LM Studio, Ollama, TGI, OpenRouter, Anthropic, Mistral, DeepSeek, DashScope, Groq
(tests/refused_requests.py). Figures are read where they stand; a refusal without one is a refusal all the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_MOST_CHARACTERS = 4000  # of an answer that is read, which bounds the time of the patterns
_STATUSES = (400, 413, 422, 429, 500, 502)  # 5xx: routers pass on what a provider behind them refused
_BUSY = 429  # which mostly means: too many requests
_ABOUT = re.compile(
    r"context[_ ](?:length|size|window|limit)|exceed_context|too (?:long|large)\b|too many tokens|(?:input|token) limit|longer than the"
    r"|tokens exceed|input token count|n_ctx",
    re.IGNORECASE,
)
_OTHERWISE = re.compile(  # the same words in what no shorter request helps against: time, quotas, memory, settings that are refused
    r"took too long|too large to load|per (?:hour|day|month)|daily|monthly|quota|requests per|to allocate|out of memory|temperature"
    r"|not a valid|not permitted|unknown (?:field|parameter|argument)",
    re.IGNORECASE,
)
# A number of tokens: no part of another, such as the 8 of 8.192 or of 1e6, none in thousands (1000 or 1024 of them?) or of something else.
_N = r"(\d[\d,]{0,12})(?![\d,.]*\d|e\d|\s?(?:k|m|[kmg]i?b|bytes?|char(?:acter)?s?|requests?|messages?|usd)\b)"
_CONTEXT = (  # the first that is there counts
    rf"n_ctx[^\w-]{{0,5}}{_N}",
    rf"context limit: [\d,]+ \+ [\d,]+ > {_N}",
    rf"tokens > {_N} maximum",
    rf"max_model_len(?:=max_total_tokens)?={_N}",
    rf"{_N} maximum context",
    rf"context[_ ](?:length|size|window)\s*(?:is|of)?\s*(?:only)?\s*\(?{_N}",
    rf"maximum model length of {_N}",
    rf"(?:allowed length|tokens allowed) \({_N}",
    rf"(?:configured limit of|token limit:|exceeds (?:the )?limit of) {_N}",
    rf"max_new_tokens. must be <= {_N}",
    rf"inputs. must have less than {_N}",
    rf"tokens per min.{{0,20}}: limit {_N}, requested",
)
_PROMPT = (
    rf"n_prompt_tokens\W{{0,5}}{_N}",
    rf"n_keep\W{{0,5}}{_N}",
    rf"{_N} in (?:the|your) (?:messages|prompt)",
    rf"{_N} (?:of text input|input tokens|tokens from the input)",
    rf"(?:request|input|requested tokens|input length|input token count) \({_N}",
    rf"(?:messages resulted in|keep the first|context limit:|too long:) {_N}",
    rf"prompt (?:contains|has|is) {_N}",
    rf"prompt \(length {_N}",
    rf"given: {_N} .?inputs",
)
_REPLY = (
    rf"at most {_N} completion tokens",
    rf"max(?:_completion)?_tokens\b[^\[]{{0,60}}\[\s*\d+\s*,\s*{_N}\s*\]",
    rf"max(?:_completion)?_tokens: [\d,]+ > {_N}, which",
    rf"max(?:_completion)?_tokens\b.{{0,90}}<= {_N}",
    rf"maximum output tokens \({_N}",
)


@dataclass(frozen=True)
class Refusal:
    """What a server said when it refused a request as too long, in tokens; None: nothing."""

    context: int | None = None  # what it holds, of prompt and reply together
    prompt: int | None = None  # what it counted in the prompt
    reply: int | None = None  # the most that a request may ask for in a reply


def refusal(status: int, said: str, body: object = None) -> Refusal | None:
    """The refusal in an answer to a failed request; None if that was refused for something else.

    Args:
        said: the message of the answer.
        body: all of it, where it is JSON: some servers have the figures in fields of their own.
    """
    told = said[:_MOST_CHARACTERS]
    context, prompt, reply = (_figure(patterns, told) for patterns in (_CONTEXT, _PROMPT, _REPLY))
    is_about_length = context or reply or (status != _BUSY and _ABOUT.search(told))
    if status not in _STATUSES or not is_about_length or _OTHERWISE.search(told):
        return None
    fields = json.dumps(body, default=str)[:_MOST_CHARACTERS]  # not looked at before: some servers send the prompt back in there
    return Refusal(context or _figure(_CONTEXT[:1], fields), prompt or _figure(_PROMPT[:1], fields), reply)


def _figure(patterns: tuple[str, ...], text: str) -> int | None:
    for pattern in patterns:
        if match := re.search(pattern, text, re.IGNORECASE):
            return int(match[1].replace(",", "")) or None
    return None
