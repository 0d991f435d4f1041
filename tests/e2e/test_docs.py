"""The OpenAPI document: its examples run, its page needs nothing from elsewhere."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.process import ROOT
from server.v1 import examples
from server.v1.schemas import BudgetReport, Classification, CostReport, ExitEvent
from server.v2.request_schemas import PARAMETERS

MODEL = "?model=cifar100-msdnet"
URL = re.compile(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""")


@pytest.fixture(scope="module")
def client(shipped: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shipped) as session:
        yield session


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> Any:  # noqa: ANN401
    return client.get("/openapi.json").json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:  # noqa: ANN401
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_every_example_runs(client: httpx.Client, document: Any) -> None:  # noqa: ANN401
    num_run = 0
    for method, path, operation in operations(document):
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            for example in content.get("examples", {}).values():
                headers = {"content-type": media_type}
                body = json.dumps(example["value"])
                said = client.request(method, f"{path}{MODEL}", content=body, headers=headers)
                assert said.status_code == 200, (example["summary"], said.text)
                num_run += 1
    assert num_run >= len(examples.REQUESTS)


def test_every_json_of_the_document_has_a_schema(document: Any) -> None:  # noqa: ANN401
    for method, path, operation in operations(document):
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            if "application/json" in (content := part.get("content", {})):
                assert content["application/json"].get("schema"), (method, path)


def test_the_answer_of_classify_is_documented(document: Any) -> None:  # noqa: ANN401
    answer = document["paths"]["/v1/classify"]["post"]["responses"]["200"]["content"]
    kinds = [{"$ref": f"#/components/schemas/Classification{plural}"} for plural in ("", "s")]
    assert answer["application/json"]["schema"]["anyOf"] == kinds
    assert answer["application/json"]["example"] == examples.CLASSIFICATION


def test_examples_of_answers_hold_what_answers_hold() -> None:
    answer = Classification.model_validate(examples.CLASSIFICATION, strict=False)
    assert answer.model_dump(mode="json") == examples.CLASSIFICATION
    said = ExitEvent.model_validate(examples.EXIT, strict=True)
    assert said.model_dump(mode="json") == examples.EXIT


def test_every_parameter_is_described(document: Any) -> None:  # noqa: ANN401
    """What a parameter is, and what holds without it; units and ranges by example."""
    said: dict[str, str] = {}
    for _, path, operation in operations(document):
        assert operation["tags"], path
        for parameter in operation.get("parameters", []):
            assert parameter["description"].endswith("."), (path, parameter["name"])
            if not parameter["required"]:
                assert "Default: " in parameter["description"], (path, parameter["name"])
            said[parameter["name"]] = parameter["description"]
    assert said["latency_budget_ms"].startswith("Milliseconds from the request's arrival")
    assert "0 to 1" in said["threshold"]
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    body = infer["application/json"]["schema"]["properties"]["parameters"]["properties"]
    assert body.keys() == PARAMETERS.keys()
    assert all("Default: " in parameter["description"] for parameter in body.values())


def test_the_pages_have_every_parameter_and_field(document: Any) -> None:  # noqa: ANN401
    page = (ROOT / "docs/serving.md").read_text()
    (operation,) = document["paths"]["/v1/classify"].values()
    named = {parameter["name"] for parameter in operation["parameters"]}
    for name in (named | Classification.model_fields.keys()) - {"version"}:
        assert f"`{name}" in page, name
    for name in (*CostReport.model_fields, *BudgetReport.model_fields):
        assert re.search(rf"`(cost|budget)\.{name}`", page), name
    page = (ROOT / "docs/open-inference-protocol.md").read_text()
    for name in PARAMETERS:
        assert f"`{name}`" in page, name


def test_the_page_has_the_fields_of_an_exit_event() -> None:
    page = (ROOT / "docs/serving.md").read_text()
    said = page.partition("An `exit` event has ")[2].partition(". ")[0]
    assert set(re.findall(r"`(\w+)`", said)) == ExitEvent.model_fields.keys()


def test_every_reference_leads_somewhere(document: Any) -> None:  # noqa: ANN401
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert references
    for reference in references:
        target = document
        for key in reference.split("/"):
            target = target[key]


def test_docs_ask_nobody_else(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    named = URL.findall(page.text)
    assert {"/openapi.json", "/static-offline-docs/swagger-ui-bundle.js"} <= set(named)
    assert "//" not in page.text.replace("<!--", "").replace("-->", "")
    assert '"validatorUrl": null' in page.text
    for path in named:
        assert client.get(path).status_code == 200
    style = client.get("/static-offline-docs/swagger-ui.css").text
    assert not re.findall(r"@import|url\((?!\"?data:)", style)


def test_files_of_the_page_are_one_route_in_the_metrics(client: httpx.Client) -> None:
    client.get("/static-offline-docs/favicon.png")
    client.get("/static-offline-docs/../secret")
    client.get("/static-offline-docs/nowhere")
    metrics = client.get("/metrics").text
    counted = set(re.findall(r'offramp_requests_total\{code="\d+",route="([^"]+)"', metrics))
    assert not [route for route in counted if "favicon" in route or "nowhere" in route]
