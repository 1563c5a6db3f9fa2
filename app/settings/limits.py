"""How much of everything: of files and batches, and within one request."""

from typing import Self

from pydantic import Field, model_validator

from app.settings.fields import Frozen


class Limits(Frozen):
    lines: int = Field(default=50_000, ge=1, description="Lines a batch file may hold. OpenAI's limit.")
    file_bytes: int = Field(
        default=200 * 1024 * 1024, ge=1, description="Bytes of a batch input file. OpenAI's limit (209,715,200)."
    )
    upload_bytes: int = Field(default=512 * 1024 * 1024, ge=1, description="Bytes of any other upload. OpenAI's limit.")
    line_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        description="Bytes of one line. Above it a line would hold a chunk of its own in every process it passes.",
    )
    queued_lines: int = Field(
        default=2_000_000,
        ge=1,
        description="Lines of all unfinished batches together; above it POST /v1/batches answers 429.",
    )
    uploads_at_once: int = Field(
        default=32,
        ge=1,
        description="Uploads read at one time by a gateway; more get 503 before their body is read. Each takes about "
        "2 MB of memory, and its size on the disk of `data`.",
    )
    requests_at_once: int = Field(
        default=1000,
        ge=1,
        description="Requests that a gateway works on at one time; more get 503. Probes and /metrics do not count.",
    )

    @model_validator(mode="after")
    def _line_fits_in_file(self) -> Self:
        if self.line_bytes > self.file_bytes:
            raise ValueError(f"line_bytes ({self.line_bytes}) must not exceed file_bytes ({self.file_bytes})")
        return self


class RequestLimits(Frozen):
    """What one request may ask for, online or as a line. Above OpenAI's limits, or at them where the engine is slow."""

    values: int = Field(
        default=2_000_000,
        ge=1000,
        description="JSON values of a body, numbers of token arrays among them. Each takes up to 60 bytes where the "
        "body is read.",
    )
    containers: int = Field(
        default=100_000, ge=100, description="Objects and arrays of a body. An empty one takes 64 bytes, of 2 sent."
    )
    depth: int = Field(default=256, ge=10, le=500, description="Levels of objects and arrays in a body.")
    members: int = Field(default=5_000, ge=100, description="Members of any one object of a body.")
    messages: int = Field(default=2_048, ge=1, description="Messages of a chat, or items of `input` of a response.")
    content_parts: int = Field(default=10_000, ge=1, description="Parts of the contents of all messages together.")
    tool_calls: int = Field(default=128, ge=1, description="Tool calls of one message. OpenAI's limit.")
    tools: int = Field(default=128, ge=1, description="Tools, those in namespaces among them. OpenAI's limit.")
    prompts: int = Field(default=1_024, ge=1, description="Prompts of one completion request. vLLM's own limit.")
    embedding_inputs: int = Field(default=2_048, ge=1, description="Inputs of an embedding request. OpenAI's limit.")
    sequences: int = Field(
        default=1_024, ge=1, description="Prompts times `n` (or `best_of`): what one request may run at once."
    )
    choices: int = Field(default=128, ge=1, description="`n`, `best_of` and the width of a beam search. OpenAI's.")
    logprobs: int = Field(
        default=1_000_000,
        ge=1000,
        description="Log probabilities of an answer: sequences times tokens times (`top_logprobs` + 1), and the same "
        "of the prompt's. A million are 60 to 100 MB.",
    )
    stops: int = Field(default=16, ge=4, description="Stop sequences. OpenAI takes 4, and so does vLLM unless told.")
    token_ids: int = Field(
        default=1_024, ge=1, description="Entries of stop_token_ids, logit_bias, logprob_token_ids and bad_words, each."
    )
    schema_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Bytes of all JSON schemas of a body together, as compact JSON."
    )
    schema_depth: int = Field(
        default=64, ge=10, description="Levels of objects and arrays in a JSON schema: OpenAI's 10 of objects are 30."
    )
    schema_properties: int = Field(
        default=5_000, ge=1, description="Properties of all JSON schemas of a body together. OpenAI's limit, of one."
    )
    schema_optional: int = Field(
        default=400,
        ge=1,
        description="Properties of one object that are not in its `required`. At OpenAI all must be, if strict.",
    )
    schema_choices: int = Field(
        default=5_000,
        ge=1,
        description="Values of `enum`, `const`, `prefixItems`, `choice`, together. OpenAI: 1,000.",
    )
    schema_branches: int = Field(
        default=500, ge=1, description="Branches of `anyOf`, `oneOf` and `allOf`, of all JSON schemas together."
    )
    schema_characters: int = Field(
        default=131_072,
        ge=1000,
        description="Characters of the names of properties and of the choices, together. OpenAI's limit is 120,000.",
    )
    regex_characters: int = Field(
        default=4_096,
        ge=100,
        description="Characters of all expressions (`regex`, `pattern`), repeats written out; a `format` is 32.",
    )
    grammar_characters: int = Field(default=65_536, ge=1000, description="Characters of a grammar.")
