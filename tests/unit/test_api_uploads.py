"""/v1/files: uploads of every kind and order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from app.api import forms, pace
from app.api.pace import Pace
from app.batch.lifecycle import Lifecycle
from app.errors import StoreUnavailable
from app.objects import Objects
from app.settings import Settings
from app.store import Store
from tests.unit.fakes import JSON, START, Clock, MakeClient, Upload, client_of, error_of, exchange

BOUNDARY = "xBOUNDARYx"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(*parts: tuple[str, bytes] | tuple[str, bytes, str]) -> bytes:
    """A form of (name, content) and (name, content, filename) parts, in this order."""
    body = b""
    for name, content, *filename in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename[0]}"' if filename else "")
        body += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


PURPOSE = ("purpose", b"batch")
FILE = ("file", b'{"a": 1}\n', "in.jsonl")
ANCHOR = ("expires_after[anchor]", b"created_at")
SECONDS = ("expires_after[seconds]", b"3600")


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "batchyard.db" not in path.name]


async def nothing_is_left(client: httpx2.AsyncClient, folder: Path) -> bool:
    """No row, no object, no temporary file."""
    listed = (await client.get("/v1/files")).json()["data"]
    return not listed and not files_of(folder)


async def test_an_upload_is_shown_as_a_processed_file(client: httpx2.AsyncClient, objects: Objects) -> None:
    answer = await client.post("/v1/files", content=form(PURPOSE, FILE), headers=MULTIPART)
    assert answer.status_code == 200
    file = answer.json()
    assert len(file["id"]) == len("file-") + 24
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": 9,
        "created_at": START,
        "expires_at": START + 30 * 86400,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
    }
    assert await objects.read(f"files/{file['id']}") == b'{"a": 1}\n'
    assert (await client.get(f"/v1/files/{file['id']}")).json() == file


@pytest.mark.parametrize(
    "parts",
    [
        (PURPOSE, ANCHOR, SECONDS, FILE),
        (FILE, PURPOSE, ANCHOR, SECONDS),
        (SECONDS, FILE, ANCHOR, PURPOSE),
    ],
)
async def test_the_fields_may_come_in_any_order(client: httpx2.AsyncClient, parts: tuple[Any, ...]) -> None:
    answer = await client.post("/v1/files", content=form(*parts), headers=MULTIPART)
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_at"] == START + 3600


async def test_only_batch_files_expire_by_themselves(client: httpx2.AsyncClient) -> None:
    for purpose in ("assistants", "fine-tune", "vision", "user_data", "evals"):
        answer = await client.post("/v1/files", content=form(("purpose", purpose.encode()), FILE), headers=MULTIPART)
        assert (answer.json()["purpose"], answer.json()["expires_at"]) == (purpose, None)


async def test_a_body_in_single_bytes_is_the_same_form(app: Starlette, objects: Objects) -> None:
    content = b"a\r\n--xBOUNDARY\r\n--\r\n\r" * 3
    body = form(("file", content, "in.jsonl"), PURPOSE)
    wire = await exchange(app, "POST", "/v1/files", [body[i : i + 1] for i in range(len(body))], headers=MULTIPART)
    assert wire.status == 200, wire.body
    async with client_of(app) as client:
        file_id = (await client.get("/v1/files")).json()["data"][0]["id"]
    assert await objects.read(f"files/{file_id}") == content


async def test_a_file_larger_than_what_waits_in_memory_arrives_whole(upload: Upload, objects: Objects) -> None:
    content = bytes(range(256)) * 4 * 3000
    file = await upload(content)
    assert (file["bytes"], await objects.read(f"files/{file['id']}")) == (len(content), content)


async def test_an_empty_file_is_accepted(upload: Upload, client: httpx2.AsyncClient) -> None:
    file = await upload(b"")
    assert file["bytes"] == 0
    content = await client.get(f"/v1/files/{file['id']}/content")
    assert (content.status_code, content.content) == (200, b"")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("größe 数据 😀.jsonl".encode(), "größe 数据 😀.jsonl"),
        (rb"a\"b.jsonl", 'a"b.jsonl'),
        (b"../../etc/passwd", "../../etc/passwd"),
        (b"nul\0.jsonl", "nul\ufffd.jsonl"),
        (b"\xff\xed\xa0\x80.jsonl", "\ufffd\ufffd\ufffd\ufffd.jsonl"),
        (b"", "file"),
    ],
)
async def test_the_file_name_is_kept(client: httpx2.AsyncClient, sent: bytes, kept: str) -> None:
    body = form(PURPOSE, ("file", b"x", "NAME")).replace(b"NAME", sent)
    answer = await client.post("/v1/files", content=body, headers=MULTIPART)
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == kept
    content = await client.get(f"/v1/files/{answer.json()['id']}/content")
    assert content.headers["content-disposition"].isascii()


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ("filename*=UTF-8''gr%C3%BC%C3%9Fe.jsonl", "grüße.jsonl"),
        ("filename*=iso-8859-1'de'gr%FC%DFe.jsonl", "grüße.jsonl"),
        ("filename=\"gr__e.jsonl\"; filename*=utf-8''gr%C3%BC%C3%9Fe.jsonl", "grüße.jsonl"),
        ("filename*=utf-8''gr%C3%BC%C3%9Fe.jsonl; filename=gr__e.jsonl", "grüße.jsonl"),
        ("filename*=nonsense''a; filename=b.jsonl", "b.jsonl"),
        ("filename*=unicode_escape''%5Cud800%00", "?\ufffd"),
        ("filename*=idna''%ff", "file"),
        ("filename=\"a; filename*=UTF-8''b\"", "a; filename*=UTF-8''b"),
        ('filename="=?utf-8?B?Z3LDvMOfZS5qc29ubA==?="', "grüße.jsonl"),
        ('filename="=?utf-8?Q?gr=C3=BC=C3=9Fe.jsonl?="', "grüße.jsonl"),
        ('filename="=?utf-8?B?Z3LDvMOf?= =?utf-8?B?ZS5qc29ubA==?="', "grüße.jsonl"),
        ('filename="=?nonsense?B?YQ==?="', "=?nonsense?B?YQ==?="),
        ('filename="=?utf-8?B?Z?="', "=?utf-8?B?Z?="),
    ],
)
async def test_the_file_name_is_read_however_it_is_encoded(
    client: httpx2.AsyncClient, parameters: str, kept: str
) -> None:
    body = form(PURPOSE, FILE).replace(b'filename="in.jsonl"', parameters.encode())
    answer = await client.post("/v1/files", content=body, headers=MULTIPART)
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == kept


@pytest.mark.parametrize(
    ("parts", "param", "code"),
    [
        ([FILE], "purpose", "missing_required_parameter"),
        ([PURPOSE], "file", "missing_required_parameter"),
        ([], "file", "missing_required_parameter"),
        ([("purpose", b"nonsense"), FILE], "purpose", "invalid_value"),
        ([("purpose", b""), FILE], "purpose", "invalid_value"),
        ([("purpose", b"batch_output"), FILE], "purpose", "invalid_value"),
        ([PURPOSE, FILE, ANCHOR], "expires_after[seconds]", "missing_required_parameter"),
        ([PURPOSE, FILE, SECONDS], "expires_after[anchor]", "missing_required_parameter"),
        ([PURPOSE, FILE, ANCHOR, (SECONDS[0], b"3599")], "expires_after[seconds]", "invalid_value"),
        ([PURPOSE, FILE, ANCHOR, (SECONDS[0], b"2592001")], "expires_after[seconds]", "invalid_value"),
        ([PURPOSE, FILE, ANCHOR, (SECONDS[0], b"9" * 1000)], "expires_after[seconds]", "invalid_value"),
        ([PURPOSE, FILE, ANCHOR, (SECONDS[0], b"an hour")], "expires_after[seconds]", "invalid_type"),
        ([PURPOSE, FILE, ANCHOR, (SECONDS[0], b"")], "expires_after[seconds]", "invalid_type"),
        ([PURPOSE, FILE, (ANCHOR[0], b"last_active_at"), SECONDS], "expires_after[anchor]", "invalid_value"),
        ([PURPOSE, FILE, ("colour", b"red")], "colour", "unknown_parameter"),
        ([PURPOSE, PURPOSE, FILE], "purpose", "duplicate_parameter"),
        ([PURPOSE, FILE, FILE], "file", "duplicate_parameter"),
        ([("purpose", b"b" * 2000), FILE], "purpose", "string_above_max_length"),
    ],
)
async def test_a_wrong_form_is_a_400_that_names_the_field(
    client: httpx2.AsyncClient, tmp_path: Path, parts: list[Any], param: str, code: str
) -> None:
    body = form(*parts) if parts else f"--{BOUNDARY}--\r\n".encode()
    answer = await client.post("/v1/files", content=body, headers=MULTIPART)
    assert answer.status_code == 400
    assert (error_of(answer)["param"], error_of(answer)["code"]) == (param, code)
    assert await nothing_is_left(client, tmp_path)


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        (None, "invalid_content_type"),
        ("application/json", "invalid_content_type"),
        ("application/x-www-form-urlencoded", "invalid_content_type"),
        ("multipart/mixed; boundary=x", "invalid_content_type"),
        ("multipart/form-data", "invalid_form"),
        ("multipart/form-data; boundary=", "invalid_form"),
        ("multipart/form-data; boundary=" + "b" * 300, "invalid_form"),
        ("multipart/form-data; boundary=another", "invalid_form"),
    ],
)
async def test_what_is_no_form_is_a_400(client: httpx2.AsyncClient, content_type: str | None, code: str) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await client.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (400, code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n" * 1000,
        b"nonsense",
        form(PURPOSE, FILE)[:-4],
        form(PURPOSE, FILE)[:-8],
        form(PURPOSE, FILE).replace(b'name="file"', b'game="file"'),
        form(PURPOSE, FILE).replace(b"Content-Disposition", b"Content Disposition"),
        form(PURPOSE, FILE).replace(b"Content-Disposition", b"Content-Indisposition"),
        form(PURPOSE, FILE).replace(b"Content-Disposition", b"X-A: 1\r\n" * 20 + b"Content-Disposition"),
        form(PURPOSE, FILE).replace(b"in.jsonl", b"n" * 10_000),
        form(PURPOSE, FILE) + b"e" * 600_000,
    ],
)
async def test_a_malformed_form_is_a_400_and_leaves_nothing(
    client: httpx2.AsyncClient, tmp_path: Path, body: bytes
) -> None:
    answer = await client.post("/v1/files", content=body, headers=MULTIPART)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_form")
    assert await nothing_is_left(client, tmp_path)


BODY = form(PURPOSE, FILE, ANCHOR, SECONDS)


@pytest.mark.parametrize("length", [0, 1, 20, BODY.index(b"batch"), BODY.index(b'{"a"') + 3, len(BODY) - 5, len(BODY)])
async def test_an_upload_that_is_cut_off_leaves_nothing(app: Starlette, tmp_path: Path, length: int) -> None:
    wire = await exchange(app, "POST", "/v1/files", [BODY[:length]], headers=MULTIPART, cut_off=True)
    assert (wire.status, wire.error) == (None, None)
    async with client_of(app) as client:
        assert await nothing_is_left(client, tmp_path)


async def test_an_upload_that_stalls_gives_its_place_back(
    app: Starlette, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "UPLOADS", Pace(0.02, 1000))

    async def stalling() -> AsyncIterator[bytes]:
        yield BODY[:50]
        await asyncio.Event().wait()

    async with client_of(app) as client:
        answer = await client.post("/v1/files", content=stalling(), headers=MULTIPART)
        assert (answer.status_code, error_of(answer)["code"]) == (408, "upload_stalled")
        assert await nothing_is_left(client, tmp_path)


async def test_an_upload_without_a_place_is_refused_before_its_body_is_read(make_client: MakeClient) -> None:
    client = make_client(limits={"uploads_at_once": 2})
    reading = 0
    two, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        nonlocal reading
        reading += 1
        if reading == 2:
            two.set()
        yield BODY[:50]
        await go_on.wait()
        yield BODY[50:]

    async with asyncio.TaskGroup() as group:
        uploads = [
            group.create_task(client.post("/v1/files", content=body(), headers=MULTIPART), name=str(number))
            for number in range(2)
        ]
        await two.wait()
        for _ in range(3):
            refused = await client.post("/v1/files", content=body(), headers=MULTIPART)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "too_many_uploads")
            assert "limits.uploads_at_once" in error_of(refused)["message"]
            assert refused.headers["retry-after"] == "5"
        go_on.set()
    assert [task.result().status_code for task in uploads] == [200] * 2
    assert reading == 2
    assert (await client.post("/v1/files", content=BODY, headers=MULTIPART)).status_code == 200


LIMITS = {"file_bytes": 2000, "upload_bytes": 3000, "line_bytes": 1024}


@pytest.mark.parametrize(
    ("parts", "setting"),
    [
        ([PURPOSE, ("file", b"x" * 2001, "a")], "file_bytes"),
        ([("file", b"x" * 2001, "a"), PURPOSE], "file_bytes"),
        ([("purpose", b"vision"), ("file", b"x" * 3001, "a")], "upload_bytes"),
        ([("file", b"x" * 3001, "a"), ("purpose", b"vision")], "upload_bytes"),
        ([PURPOSE, ("file", b"x" * 400_000, "a")], "upload_bytes"),  # so much is refused as soon as it is announced
    ],
)
async def test_a_file_that_is_too_large_is_a_413_that_names_the_limit(
    make_client: MakeClient, tmp_path: Path, parts: list[Any], setting: str
) -> None:
    client = make_client(limits=LIMITS)
    answer = await client.post("/v1/files", content=form(*parts), headers=MULTIPART)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "file_too_large")
    assert f"{LIMITS[setting]} bytes allowed (limits.{setting})" in error_of(answer)["message"]
    assert await nothing_is_left(client, tmp_path)


@pytest.mark.parametrize("parts", [[PURPOSE, ("file", b"x" * 2000, "a")], [("file", b"x" * 2000, "a"), PURPOSE]])
async def test_a_file_of_just_the_limit_is_accepted(make_client: MakeClient, parts: list[Any]) -> None:
    answer = await make_client(limits=LIMITS).post("/v1/files", content=form(*parts), headers=MULTIPART)
    assert answer.status_code == 200


async def test_an_announced_length_is_refused_before_the_body_is_read(
    make_app: Callable[..., Starlette], make_settings: Callable[..., Any]
) -> None:
    app = make_app(settings=make_settings(limits=LIMITS))
    wire = await exchange(
        app, "POST", "/v1/files", [], headers={**MULTIPART, "content-length": "99999999"}, cut_off=True
    )
    assert wire.status == 413


async def test_too_much_without_an_announcement_is_refused_before_its_end(
    make_client: MakeClient, tmp_path: Path
) -> None:
    client, sent = make_client(limits=LIMITS), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield BODY[: BODY.index(b'{"a"')]
        while True:
            sent += 1
            yield b"x" * 500

    answer = await client.post("/v1/files", content=endless(), headers=MULTIPART)
    assert (answer.status_code, sent) == (413, 5)
    assert await nothing_is_left(client, tmp_path)


async def test_a_full_disk_is_a_503(
    client: httpx2.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(forms, "TemporaryFile", lambda dir: Full())
    answer = await client.post("/v1/files", content=BODY, headers=MULTIPART)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "objects_unavailable")
    assert "No space left on device" in error_of(answer)["message"]
    assert await nothing_is_left(client, tmp_path)


@pytest.mark.parametrize(
    "fault", [ConnectionResetError(104, "Connection reset by peer"), OSError(24, "Too many files")]
)
async def test_an_error_that_is_not_the_disks_is_not_called_one(settings: Settings, fault: OSError) -> None:
    with pytest.raises(type(fault)), forms.spool(settings.data):
        raise fault


# Idempotency-Key


async def test_the_same_key_and_body_give_the_same_file(client: httpx2.AsyncClient, clock: Clock) -> None:
    headers = {**MULTIPART, "idempotency-key": "k"}
    first = await client.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
    clock.now += 100
    again = await client.post("/v1/files", content=form(FILE, PURPOSE), headers=headers)
    assert again.json() == first.json()
    assert len((await client.get("/v1/files")).json()["data"]) == 1


@pytest.mark.parametrize(
    "other",
    [
        [PURPOSE, ("file", b"other content", "in.jsonl")],
        [PURPOSE, ("file", FILE[1], "other.jsonl")],
        [("purpose", b"vision"), FILE],
        [PURPOSE, FILE, ANCHOR, SECONDS],
    ],
)
async def test_the_same_key_with_another_body_is_a_409(client: httpx2.AsyncClient, other: list[Any]) -> None:
    headers = {**MULTIPART, "idempotency-key": "k"}
    await client.post("/v1/files", content=form(PURPOSE, FILE), headers=headers)
    answer = await client.post("/v1/files", content=form(*other), headers=headers)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert (error_of(answer)["param"], error_of(answer)["code"]) == ("Idempotency-Key", "idempotency_conflict")


async def test_one_request_sent_twice_at_once_makes_one_file_and_one_object(
    client: httpx2.AsyncClient, tmp_path: Path, settings: Settings, store: Store, objects: Objects
) -> None:
    headers = {**MULTIPART, "idempotency-key": "k"}
    answers = await asyncio.gather(
        *(client.post("/v1/files", content=form(PURPOSE, FILE), headers=headers) for _ in range(5))
    )
    assert len({answer.json()["id"] for answer in answers}) == 1
    await Lifecycle(store, objects, settings, "me", capabilities=lambda model: None).sweep()
    assert len(list((tmp_path / "objects" / "files").iterdir())) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_without_sense_is_a_400(client: httpx2.AsyncClient, key: str) -> None:
    for path, kind in (("/v1/files", MULTIPART), ("/v1/batches", JSON)):
        answer = await client.post(path, content=BODY, headers={**kind, "idempotency-key": key})
        assert (answer.status_code, error_of(answer)["param"]) == (400, "Idempotency-Key")


async def test_an_upload_whose_row_never_became_true_is_swept_a_day_later(
    client: httpx2.AsyncClient,
    settings: Settings,
    store: Store,
    objects: Objects,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "add_file", away)
    answer = await client.post("/v1/files", content=form(PURPOSE, FILE), headers=MULTIPART)
    assert answer.status_code == 503
    lifecycle = Lifecycle(store, objects, settings, "me", clock, capabilities=lambda model: None)
    await lifecycle.sweep()
    assert not await nothing_is_left(client, settings.data), "it may still become true"
    clock.now += 86_401
    await lifecycle.sweep()
    assert await nothing_is_left(client, settings.data)
