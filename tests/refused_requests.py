"""What servers answer to a request that is too long for them, as their users quote it: (status, body, context, prompt, most of a reply)."""

from __future__ import annotations

import json
from typing import Any

Refused = tuple[int, Any, int | None, int | None, int | None]


def _error(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, **more}}


_LLAMA = "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it"
_LLAMA_FIELDS = {"type": "exceed_context_size_error", "n_prompt_tokens": 1407, "n_ctx": 256}

REFUSED: dict[str, Refused] = {
    "OpenAI, both": (
        400,
        _error(
            "This model's maximum context length is 4097 tokens. However, you requested 4203 tokens (3703 in the messages, 500 in the "
            "completion). Please reduce the length of the messages or completion.",
            code="context_length_exceeded",
        ),
        4097,
        3703,
        None,
    ),
    "OpenAI, prompt": (
        400,
        _error("This model's maximum context length is 4097 tokens. However, your messages resulted in 35569 tokens."),
        4097,
        35569,
        None,
    ),
    "OpenAI, input": (
        400,
        _error("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300007 tokens."),
        272000,
        300007,
        None,
    ),
    "OpenAI, reply": (
        400,
        _error("max_tokens is too large: 6000. This model supports at most 4096 completion tokens, whereas you provided 6000."),
        None,
        None,
        4096,
    ),
    "OpenAI, rate": (
        429,
        _error("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389."),
        30000,
        None,
        None,
    ),
    "vLLM, reply": (
        400,
        {
            "object": "error",
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 4096 tokens and "
            "your request has 1024 input tokens (8192 > 4096 - 1024).",
        },
        4096,
        1024,
        None,
    ),
    "vLLM 0.20": (
        400,
        _error(
            "This model's maximum context length is 128000 tokens. However, you requested 65535 output tokens and your prompt contains at "
            "least 62466 input tokens, for a total of at least 128001 tokens. (parameter=input_tokens, value=62466)"
        ),
        128000,
        62466,
        None,
    ),
    "vLLM, only": (
        400,
        _error(
            "You passed 31745 input tokens and requested 1024 output tokens. However, the model's context length is only 32768 tokens, "
            "resulting in a maximum input length of 31744 tokens. Please reduce the length of the input prompt."
        ),
        32768,
        31745,
        None,
    ),
    "vLLM, length": (
        400,
        _error("max_tokens=38000cannot be greater than max_model_len=max_total_tokens=32768. Please request fewer output tokens."),
        32768,
        None,
        None,
    ),
    "vLLM, decoder": (
        400,
        _error("The decoder prompt (length 100001) is longer than the maximum model length of 4096."),
        4096,
        100001,
        None,
    ),
    "SGLang, prompt": (
        400,
        {"object": "error", "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).", "code": 400},
        40960,
        61709,
        None,
    ),
    "SGLang, both": (
        400,
        _error(
            "Requested token count exceeds the model's maximum context length of 40960 tokens. You requested a total of 46392 tokens: "
            "30008 tokens from the input messages and 16384 tokens for the completion."
        ),
        40960,
        30008,
        None,
    ),
    "SGLang, memory": (400, _error("Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."), 59862, 160062, None),
    "llama.cpp": (400, _error(_LLAMA, type="exceed_context_size_error", n_prompt_tokens=4390, n_ctx=4096), 4096, 4390, None),
    "llama.cpp, 2025": (400, _error("the request exceeds the available context size, try increasing it", **_LLAMA_FIELDS), 256, 1407, None),
    "llama.cpp, old": (400, _error("the request exceeds the available context size. try increasing the context size"), None, None, None),
    "llama.cpp, shared": (500, _error("Context size has been exceeded.", type="server_error"), None, None, None),
    "llama-cpp-python": (
        400,
        _error(
            "This model's maximum context length is 2048 tokens, however you requested 10477 tokens (2285 in your prompt; 8192 for the "
            "completion). Please reduce your prompt; or completion length.",
            code="context_length_exceeded",
        ),
        2048,
        2285,
        None,
    ),
    "llama-cpp-python, raw": (500, _error("Requested tokens (2285) exceed context window of 2048"), 2048, 2285, None),
    "LM Studio": (
        400,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n_ctx: "
            "4096). Try to load the model with a larger context length, or provide a shorter input."
        },
        4096,
        13055,
        None,
    ),
    "LM Studio, no figure": (
        400,
        {"error": "The number of tokens to keep from the initial prompt is greater than the context length. Try to load the model with …"},
        None,
        None,
        None,
    ),
    "LM Studio, 2025": (
        400,
        {
            "error": "Trying to keep the first 10136 tokens when context the overflows. However, the model is loaded with context length "
            "of only 7866 tokens, which is not enough."
        },
        7866,
        10136,
        None,
    ),
    "LM Studio, 2026": (400, {"error": "Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)"}, 7424, 15028, None),
    "Ollama": (
        400,
        {"error": json.dumps({"error": {"code": 400, "message": _LLAMA, "n_prompt_tokens": 4390, "n_ctx": 4096}})},
        4096,
        4390,
        None,
    ),
    "Ollama, difference": (400, _error("prompt too long; exceeded max context length by 4096 tokens"), None, None, None),
    "TGI": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1512. Given: 1000 "
            "`inputs` tokens and 1024 `max_new_tokens`"
        },
        1512,
        1000,
        None,
    ),
    "TGI, prompt": (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1872"}, 1024, None, None),
    "OpenRouter": (
        400,
        _error(
            "This endpoint's maximum context length is 8192 tokens. However, you requested about 10556 tokens (2364 of text input, 8192 in "
            "the output). Please reduce the length of either one"
        ),
        8192,
        2364,
        None,
    ),
    "Anthropic": (400, _error("prompt is too long: 202095 tokens > 200000 maximum"), 200000, 202095, None),
    "Anthropic, both": (
        400,
        _error("input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease input length or `max_tokens`"),
        200000,
        199759,
        None,
    ),
    "Anthropic, reply": (
        400,
        _error("max_tokens: 8000 > 4096, which is the maximum allowed number of output tokens for claude-3-haiku-20240307"),
        None,
        None,
        4096,
    ),
    "Mistral": (400, _error("Prompt contains 300000 tokens, too large for model with 131072 maximum context length"), 131072, 300000, None),
    "DeepSeek": (400, _error("Invalid max_tokens value, the valid range of max_tokens is [1, 4096]"), None, None, 4096),
    "DashScope": (400, _error("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 2048]"), None, None, 2048),
    "Doubao": (
        400,
        _error(
            "The parameter `max_completion_tokens` specified in the request are not valid: integer above maximum value, expected a value "
            "<= 12288, but got 32000 instead."
        ),
        None,
        None,
        12288,
    ),
    "Groq": (
        413,
        _error(
            "Request too large for model `llama-3.1-8b-instant` in organization `org_x` service tier `on_demand` on tokens per minute "
            "(TPM): Limit 6000, Requested 14810, please reduce your message size and try again."
        ),
        6000,
        None,
        None,
    ),
    "Gemini": (
        400,
        [{"error": {"code": 400, "message": "The input token count (2845475) exceeds the maximum number of tokens allowed (1048576)."}}],
        1048576,
        2845475,
        None,
    ),
    "MiniMax": (400, _error("invalid params, context window exceeds limit (2013)"), None, None, None),
    "in thousands": (400, _error("This model has a context window of 128k tokens"), None, None, None),
    "with points": (400, _error("The maximum context length is 8.192 tokens"), None, None, None),
    "without a limit": (400, _error("the prompt is too long for n_ctx = -1"), None, None, None),
    "bytes": (413, _error("Payload too large: the body exceeds the limit of 32768 bytes"), None, None, None),
    "with status 200": (200, _error("This model's maximum context length is 4096 tokens", code=400), 4096, None, None),
    "another": (400, _error("Prompt has 300,000 tokens, but the configured context size is 131,072 tokens"), 131072, 300000, None),
    "a proxy": (413, "<html><head><title>413 Request Entity Too Large</title></head></html>", None, None, None),
}

OTHERS: dict[str, tuple[int, Any]] = {
    "the name of the limit": (
        400,
        _error("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
    ),
    "a rate": (429, _error("Rate limit reached for model `x` on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443.")),
    "a rate of requests": (429, _error("The request exceeds the limit of 10 requests per minute")),
    "a rate of few": (429, _error("Rate limit reached for requests: Limit 3, Requested 1")),
    "a day's tokens": (429, _error("You have reached your daily token limit: 100000. It resets at midnight.")),
    "a month's tokens": (400, _error("You have reached your monthly token limit")),
    "a price": (400, _error("This costs 0.05 USD, which exceeds the limit of 20 USD")),
    "time": (502, _error("The upstream server took too long to respond")),
    "memory": (500, _error("failed to allocate the KV cache for n_ctx = 131072")),
    "a large model": (500, _error("the model is too large to load")),
    "a parameter": (400, _error("'context_length' is not a valid parameter")),
    "a hot one": (400, _error("temperature is too large: 5.0")),
    "a busy server": (429, _error("Too many requests")),
    "a token that is a key": (400, _error("Invalid API token")),
    "temperature": (400, _error("temperature must be 1")),
    "a broken server": (500, _error("out of order")),
    "a prompt that is sent back": (422, {"detail": [{"msg": "field required", "input": "context_length exceeded, n_ctx = 256"}]}),
    "no key": (401, _error("context length exceeded")),
}
