"""What the sections of the settings have in common."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app import api_keys

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What a batch may ask for, and what is served online: what vLLM serves of OpenAI's list."""


NotEmpty = Annotated[str, Field(min_length=1)]

KeyDigest = Annotated[NotEmpty, AfterValidator(api_keys.as_digest)]
"""Whoever has the settings has no key."""

Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
"""As browsers send it: scheme, host and a port other than the scheme's own; no path, not even a slash."""


MediaHost = Annotated[str, Field(pattern=r"^(\*|[a-z0-9._-]+)$")]


class Frozen(BaseModel):
    # Inputs may be secrets, and pydantic's report of an error would show them.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
