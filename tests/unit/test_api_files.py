"""/v1/files once they are there: lists, content, deletes."""

import httpx2
import pytest

from app.objects import Objects
from app.store import Batch, Store
from tests.unit.fakes import START, AddResultFile, Clock, Upload, error_of

# Lists


async def test_files_are_listed_newest_first_in_pages(client: httpx2.AsyncClient, upload: Upload) -> None:
    ids = [(await upload(filename=f"{number}.jsonl"))["id"] for number in range(5)][::-1]
    first = (await client.get("/v1/files", params={"limit": 2})).json()
    assert first["object"] == "list"
    assert [file["id"] for file in first["data"]] == ids[:2]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
    rest = (await client.get("/v1/files", params={"limit": 3, "after": ids[1]})).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2:], False)
    oldest = (await client.get("/v1/files", params={"order": "asc", "limit": 1})).json()
    assert oldest["first_id"] == ids[-1]


async def test_a_list_may_be_of_one_purpose_and_may_be_empty(client: httpx2.AsyncClient, upload: Upload) -> None:
    await upload()
    vision = await upload(purpose="vision")
    listed = (await client.get("/v1/files", params={"purpose": "vision"})).json()
    assert [file["id"] for file in listed["data"]] == [vision["id"]]
    for params in ({"purpose": "no such"}, {"after": "file-unknown"}):
        empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        assert (await client.get("/v1/files", params=params)).json() == empty


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "ten", "", "1.5", "1" * 5000, "１"])
async def test_a_limit_out_of_range_is_a_400(client: httpx2.AsyncClient, limit: str) -> None:
    answer = await client.get("/v1/files", params={"limit": limit})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "limit")


async def test_an_unknown_order_is_a_400(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/files", params={"order": "up"})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "order")


# Content

CONTENT = bytes(range(100))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=90-", 90, 100),
        ("bytes=90-1000", 90, 100),
        ("bytes=-10", 90, 100),
        ("bytes=-1000", 0, 100),
        ("Bytes = 5-6", 5, 7),
    ],
)
async def test_one_range_is_a_206(upload: Upload, client: httpx2.AsyncClient, asked: str, start: int, end: int) -> None:
    file = await upload(CONTENT)
    answer = await client.get(f"/v1/files/{file['id']}/content", headers={"range": asked})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/100"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,5-6", "bytes=9-5", "lines=1-2", "bytes=", "bytes=-", "bytes=a-b", "bytes=0-" + "9" * 5000, ""]
)
async def test_what_is_no_single_range_gives_the_whole(upload: Upload, client: httpx2.AsyncClient, asked: str) -> None:
    file = await upload(CONTENT)
    answer = await client.get(f"/v1/files/{file['id']}/content", headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


async def test_a_range_of_an_unknown_version_gives_the_whole(upload: Upload, client: httpx2.AsyncClient) -> None:
    file = await upload(CONTENT)
    headers = {"range": "bytes=0-1", "if-range": '"an-etag"'}
    assert (await client.get(f"/v1/files/{file['id']}/content", headers=headers)).content == CONTENT


@pytest.mark.parametrize(
    ("content", "asked"),
    [(CONTENT, "bytes=100-"), (CONTENT, "bytes=100-200"), (CONTENT, "bytes=-0"), (b"", "bytes=0-"), (b"", "bytes=-5")],
)
async def test_a_range_outside_is_a_416(upload: Upload, client: httpx2.AsyncClient, content: bytes, asked: str) -> None:
    file = await upload(content)
    answer = await client.get(f"/v1/files/{file['id']}/content", headers={"range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert error_of(answer)["code"] == "range_not_satisfiable"


async def test_the_headers_of_a_download(upload: Upload, client: httpx2.AsyncClient) -> None:
    file = await upload(CONTENT, filename='größe; "a".jsonl')
    for answer in (
        await client.get(f"/v1/files/{file['id']}/content"),
        await client.head(f"/v1/files/{file['id']}/content", headers={"range": "bytes=0-1"}),
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/jsonl"
        assert answer.headers["content-length"] == "100"
        assert answer.headers["accept-ranges"] == "bytes"
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith('attachment; filename="gr__e; ')
        assert "filename*=UTF-8''gr%C3%B6%C3%9Fe%3B%20" in disposition
    assert answer.content == b""


async def test_the_type_of_a_download_follows_its_purpose(
    upload: Upload, client: httpx2.AsyncClient, add_result_file: AddResultFile
) -> None:
    vision = await upload(purpose="vision")
    answer = await client.get(f"/v1/files/{vision['id']}/content")
    assert answer.headers["content-type"] == "application/octet-stream"
    await add_result_file("file-out", b"{}\n")
    answer = await client.get("/v1/files/file-out/content")
    assert answer.headers["content-type"] == "application/jsonl"


async def test_content_that_is_gone_from_under_its_file_is_a_404(
    upload: Upload, client: httpx2.AsyncClient, objects: Objects
) -> None:
    file = await upload()
    await objects.delete(f"files/{file['id']}")
    answer = await client.get(f"/v1/files/{file['id']}/content")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "object_missing")


# Delete


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/files/{}"), ("GET", "/v1/files/{}/content"), ("DELETE", "/v1/files/{}")]
)
@pytest.mark.parametrize("file_id", ["file-unknown", "x", "%00", "%F0%9F%98%80", "'; drop table files"])
async def test_an_unknown_file_is_a_404(client: httpx2.AsyncClient, method: str, path: str, file_id: str) -> None:
    answer = await client.request(method, path.format(file_id))
    assert answer.status_code == 404
    assert error_of(answer)["message"].startswith("No such File object: ")
    assert error_of(answer)["param"] == "id"


async def test_a_deleted_file_is_gone(upload: Upload, client: httpx2.AsyncClient) -> None:
    file = await upload()
    path = f"/v1/files/{file['id']}"
    assert (await client.delete(path)).json() == {"id": file["id"], "object": "file", "deleted": True}
    for answer in (await client.get(path), await client.get(f"{path}/content"), await client.delete(path)):
        assert answer.status_code == 404


async def test_a_file_that_a_batch_still_reads_is_not_deleted(
    upload: Upload, client: httpx2.AsyncClient, store: Store
) -> None:
    file = await upload()
    batch = Batch("batch_1", "default", "validating", "/v1/completions", file["id"], "24h", START, START + 86400)
    await store.create_batch(batch, queued_lines_limit=10)
    answer = await client.delete(f"/v1/files/{file['id']}")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert "batch 'batch_1' reads it" in error_of(answer)["message"]
    assert (await client.get(f"/v1/files/{file['id']}")).status_code == 200


async def test_a_file_past_its_time_is_gone(upload: Upload, client: httpx2.AsyncClient, clock: Clock) -> None:
    file = await upload()
    clock.now += 30 * 86400
    assert (await client.get(f"/v1/files/{file['id']}")).status_code == 404
