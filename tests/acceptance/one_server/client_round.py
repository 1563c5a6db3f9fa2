"""Run by a test with one of several versions of the openai client on its path: prints what it did, as JSON."""

import json
import sys
import time

import openai
from openai import OpenAI
from openai.types import Batch

POLL_SECONDS = 0.2


def main(base_url: str, path: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none", timeout=60)
    done = []
    with open(path, "rb") as data:
        file = client.files.create(file=data, purpose="batch")
    assert client.files.wait_for_processing(file.id).status == "processed"
    done.append("upload")

    batch = create(client, file.id)
    done.append("create")
    await_status(client, batch.id, "completed")
    done.append("poll")

    output_file_id = client.batches.retrieve(batch.id).output_file_id
    lines = client.files.content(output_file_id).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == [f"line-{number}" for number in range(5)]
    done.append("content")

    more = [create(client, file.id).id for _ in range(4)]
    listed = [each.id for each in client.batches.list(limit=2)]
    assert listed[:5] == [*reversed(more), batch.id] and len(listed) == len(set(listed))
    files = [each.id for each in client.files.list(limit=2, order="asc")]
    assert file.id in files and len(files) == len(set(files))
    done.append("paging")

    cancelled = client.batches.cancel(create(client, file.id).id)
    await_status(client, cancelled.id, "cancelled")
    done.append("cancel")

    for batch_id in more:
        await_status(client, batch_id, "completed")
    assert client.files.delete(file.id).deleted
    done.append("delete")
    print(json.dumps({"version": openai.__version__, "done": done}))


def create(client: OpenAI, file_id: str) -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")


def await_status(client: OpenAI, batch_id: str, status: str) -> None:
    while client.batches.retrieve(batch_id).status != status:
        time.sleep(POLL_SECONDS)


main(*sys.argv[1:])
