"""Online requests that cost the engine, or its front end, more than they look like."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.siege.attack import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MODEL,
    RESPONSES,
    Attack,
    Fire,
    Loot,
    Prepare,
    Target,
    chat_body,
    posts,
    requests,
)

REFUSED = ("400", "413")
MILLISECONDS = 1.0
"""A refusal that costs milliseconds, seen from outside on a busy machine, in seconds."""

HUGE = 2**63


def empty(count: int) -> bytes:
    """That many empty objects, as the bytes of an array."""
    return b"[" + b"{}," * (count - 1) + b"{}]"


def empty_messages(count: int) -> bytes:
    return b'{"model": "%b", "messages": %b}' % (MODEL.encode(), empty(count))


def empty_input(count: int) -> bytes:
    return b'{"model": "%b", "input": %b}' % (MODEL.encode(), empty(count))


def completion(**members: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "Go.", "max_tokens": 8, **members}


def schema(depth: int) -> str:
    """A list of lists of lists, as JSON: too deep for Python's own writer."""
    return '{"type": "array", "items": ' * depth + '{"type": "string"}' + "}" * depth


def wide(properties: int) -> str:
    members = {f"p{number}": {"type": "string"} for number in range(properties)}
    return json.dumps({"type": "object", "properties": members, "required": list(members)})


def with_schema(text: str) -> bytes:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": "SCHEMA"}}
    return _with(chat_body(response_format=wanted), text)


def structured(**constraint: Any) -> dict[str, Any]:
    return chat_body(structured_outputs=constraint)


def tools(count: int, parameters: str) -> bytes:
    functions = [{"name": f"f{each}", "parameters": "SCHEMA"} for each in range(count)]
    wanted = [{"type": "function", "function": each} for each in functions]
    return _with(chat_body(tools=wanted, tool_choice="none"), parameters)


def _with(body: dict[str, Any], text: str) -> bytes:
    return json.dumps(body).replace('"SCHEMA"', text).encode()


def left_at_once(clients: int) -> Prepare:
    """Streams whose clients leave after the first event."""

    async def prepare(target: Target) -> Fire:
        request = target.post(CHAT, chat_body(max_tokens=500, ignore_eos=True, stream=True))

        async def client(loot: Loot) -> None:
            reader, writer = await target.connect()
            writer.write(request)
            data = await reader.read(4096)
            writer.transport.abort()
            loot.bytes += len(data)
            loot.outcomes["left" if data.startswith(b"HTTP/1.1 200") else "no stream"] += 1

        async def fire() -> Loot:
            loot = Loot()
            await asyncio.gather(*(client(loot) for _ in range(clients)))
            return loot

        return fire

    return prepare


def never_read(clients: int, seconds: float) -> Prepare:
    """Streams of which nothing is taken."""

    async def prepare(target: Target) -> Fire:
        request = target.post(
            CHAT, chat_body(max_tokens=900, ignore_eos=True, stream=True, logprobs=True, top_logprobs=20)
        )

        async def fire() -> Loot:
            loot, writers = Loot(), []
            for _ in range(clients):
                reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=1)
                writer.write(request)
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                writers.append(writer)
            await asyncio.sleep(seconds)
            for writer in writers:
                writer.transport.abort()
            loot.outcomes["left unread"] = clients
            return loot

        return fire

    return prepare


def refused(name: str, fault: str, path: str, *bodies: Any, times: int = 1, gets: tuple[str, ...] = REFUSED) -> Attack:
    """A row of requests that must be refused at once."""
    return Attack(name, fault, posts(path, *bodies, times=times), gets, at_most=MILLISECONDS)


def served(name: str, fault: str, path: str, *bodies: Any, times: int = 1) -> Attack:
    """A row of requests that may be served or refused, as long as they cost nobody else anything."""
    return Attack(name, fault, posts(path, *bodies, times=times), ("200", *REFUSED))


def made(make: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A body that is made in the attacker's process alone."""
    return lambda: make(*args)


LOGPROBS = {"prompt": "Go on. " * 100, "prompt_logprobs": 20, "logprobs": 20, "max_tokens": 16}
LOOP = "{% for i in range(10**9) %}{% endfor %}"
LEFT = 'root ::= root "a" | "a"'

ATTACKS = (
    refused(
        "empty-messages-120kb", "online chat, `messages: [{} × 40,000]` (120 kB)", CHAT, made(empty_messages, 40_000)
    ),
    refused(
        "empty-messages-3mb", "online chat, `messages: [{} × 1,000,000]` (3 MB)", CHAT, made(empty_messages, 1_000_000)
    ),
    refused("empty-input", "`/v1/responses`, `input: [{} × 5,000]` (15 kB)", RESPONSES, made(empty_input, 5000)),
    refused(
        "logprobs-n50",
        "completions with `prompt_logprobs: 20`, n = 50",
        COMPLETIONS,
        completion(n=50, **LOGPROBS),
        gets=("200", "400"),
    ),
    refused(
        "logprobs-n500", "completions with `prompt_logprobs: 20`, n = 500", COMPLETIONS, completion(n=500, **LOGPROBS)
    ),
    refused("schema-600", "JSON schema 600 deep (17 kB)", CHAT, made(lambda: with_schema(schema(600)))),
    refused("schema-900", "JSON schema 900 deep (25 kB)", CHAT, made(lambda: with_schema(schema(900)))),
    refused(
        "choice-50000",
        "choice of 50,000",
        CHAT,
        made(lambda: structured(choice=[f"choice {each}" for each in range(50_000)])),
    ),
    served("properties-2000", "JSON schema of 2,000 properties", CHAT, made(lambda: with_schema(wide(2000)))),
    refused("schema-ref", '`{"$ref": "#"}` as JSON schema', CHAT, with_schema('{"$ref": "#"}')),
    refused("n-10000", "`n: 10000`", COMPLETIONS, completion(n=10_000)),
    refused("prompts-1000-n-100", "1,000 prompts × n = 100", COMPLETIONS, completion(prompt=["Go."] * 1000, n=100)),
    served(
        "regex",
        "regex `(a+)+$`, of 100 kB, with {1000}{1000}",
        CHAT,
        structured(regex="(a+)+$"),
        structured(regex="(a|b)?" * 16_000),
        structured(regex="((a{1,1000}){1,1000}){1,1000}"),
    ),
    served(
        "grammar",
        "grammars: left-recursive, endless, of 1 MB",
        CHAT,
        structured(grammar=LEFT),
        structured(grammar="root ::= root"),
        made(lambda: structured(grammar="\n".join(f'r{each} ::= r{each + 1} | "a"' for each in range(30_000)))),
    ),
    refused(
        "logit-bias",
        "`logit_bias` of 100,000",
        CHAT,
        made(lambda: chat_body(logit_bias={str(each): 1 for each in range(100_000)})),
    ),
    refused(
        "stop-10000",
        "`stop` of 10,000, `stop_token_ids` of 100,000",
        CHAT,
        made(lambda: chat_body(stop=[f"stop {each}" for each in range(10_000)])),
        made(lambda: chat_body(stop_token_ids=list(range(100_000)))),
    ),
    served(
        "one-word-1mb",
        "a prompt of 1 MB without a space, 4 times",
        CHAT,
        made(lambda: chat_body(messages=[{"role": "user", "content": "a" * 1_000_000}])),
        times=4,
    ),
    refused(
        "token-ids",
        "prompts of token ids: negative, 2^63, a million",
        COMPLETIONS,
        completion(prompt=[-1, -5]),
        completion(prompt=[HUGE]),
        made(lambda: completion(prompt=[1] * 1_000_000)),
    ),
    refused(
        "beam-1000",
        "beam search with a width of 1,000",
        COMPLETIONS,
        completion(use_beam_search=True, n=1000),
        completion(use_beam_search=True, best_of=1000),
    ),
    refused(
        "embeddings-100000",
        "embeddings of 100,000 strings",
        EMBEDDINGS,
        made(lambda: {"model": MODEL, "input": ["a"] * 100_000}),
        gets=("400", "404"),
    ),
    served(
        "numbers",
        "max_tokens 2^63 and -1, n -1, NaN, Infinity, min_tokens over max_tokens",
        CHAT,
        chat_body(max_tokens=HUGE),
        chat_body(max_tokens=-1),
        chat_body(n=-1),
        chat_body(temperature=float("nan")),
        chat_body(top_p=float("inf")),
        chat_body(min_tokens=HUGE),
    ),
    refused(
        "chat-template",
        "`chat_template` with a loop of a billion",
        CHAT,
        chat_body(chat_template=LOOP),
        chat_body(chat_template_kwargs={"chat_template": LOOP}),
    ),
    refused(
        "tools-10000",
        "10,000 tools; a tool 600 deep",
        CHAT,
        made(tools, 10_000, schema(2)),
        made(lambda: tools(1, schema(600))),
    ),
    refused(
        "parts-100000",
        "a message of 100,000 parts",
        CHAT,
        made(lambda: chat_body(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}])),
    ),
    Attack("streams-left", "100 clients that leave their streams", left_at_once(100), ("left",)),
    Attack(
        "online-1100",
        "1,100 online chats of 64 tokens at once",
        requests(lambda target: [target.post(CHAT, chat_body(max_tokens=64, ignore_eos=True))] * 1100, at_once=1100),
        ("200", "503"),
        seconds=120,
        waits=("online", "large online", "models", "list", "upload", "batch"),
    ),
    Attack(
        "streams-unread",
        "100 clients that take nothing of their streams, for 20 s",
        never_read(100, 20),
        ("left unread",),
    ),
)
