"""/v1/models: what the settings serve."""

import httpx2
import pytest

from tests.unit.fakes import START, error_of


def model(model_id: str) -> dict[str, object]:
    return {"id": model_id, "object": "model", "created": START, "owned_by": "batchyard"}


async def test_the_models_of_the_settings_are_listed_with_their_adapters(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    adapter = {**model("polite"), "parent": "good"}
    assert listed == {"object": "list", "data": [model("good"), adapter, model("other/model")]}
    assert (await client.get("/v1/models/polite")).json() == adapter


@pytest.mark.parametrize("path", ["/v1/models/other/model", "/v1/models/other%2Fmodel"])
async def test_a_model_may_have_a_slash_in_its_name(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).json() == model("other/model")


@pytest.mark.parametrize("model_id", ["unknown", "other", "good/", "", "%F0%9F%98%80"])
async def test_another_model_is_a_404(client: httpx2.AsyncClient, model_id: str) -> None:
    answer = await client.get(f"/v1/models/{model_id}")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
