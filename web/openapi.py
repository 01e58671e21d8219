"""The OpenAPI document of the HTTP API, made from its operations."""

import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from nightread import __version__
from web.api_models import Problem

_REFERENCE: Final = "#/components/schemas/{model}"
#: Refusals that any operation may give.
_REFUSALS: Final = {
    "400": "the request is malformed", "401": "no user has this token", "403": "the user's role does not allow it",
    "421": "the Host header names another host", "503": "the database does not answer: try again",
}  # fmt: skip
_PATH_PARAMETERS: Final = {
    "reference": "id, unique prefix of it, or name", "uid": "Study Instance UID", "name": "name of a model bundle",
    "version": "version of a model bundle",
}  # fmt: skip


def make_document(operations: Sequence[Any], prefix: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    Args:
        operations: of the API, `web.api.Operation`.
        prefix: path of the API.
    """
    models: list[type[BaseModel]] = [Problem]
    for operation in operations:
        models += [model for model in (operation.query, operation.body, operation.gives) if model is not None]
    keyed = [(model, "validation") for model in dict.fromkeys(models)]
    _, definitions = models_json_schema(keyed, ref_template=_REFERENCE)  # type: ignore[arg-type]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _describe(operation)
        paths.setdefault(f"{prefix}{operation.path}", {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nightread", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _describe(operation: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"Needs the role {operation.role.value}.",
        "parameters": [*_list_path_parameters(operation.path), *_list_query_parameters(operation.query)],
        "responses": {
            str(operation.status): {"description": "done", "content": _describe_content(operation)},
            **{code: _refuse(text) for code, text in {**_REFUSALS, **operation.refusals}.items()},
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=operation.body.__name__)}}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _describe_content(operation: Any) -> dict[str, Any]:
    if operation.gives is None:
        return {operation.media_type: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=operation.gives.__name__)}}}


def _refuse(text: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}}
    return {"description": text, "content": content}


def _list_path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name, "in": "path", "required": True, "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string", "minLength": 1, "maxLength": 200},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]  # fmt: skip


def _list_query_parameters(query: type[BaseModel] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    schema = query.model_json_schema(ref_template=_REFERENCE)
    listed = []
    for name, field in schema.get("properties", {}).items():
        # A parameter is there or not; null cannot be written in an address.
        kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
        kept = {key: value for key, value in field.items() if key not in {"anyOf", "title", "description", "default"}}
        told = {"description": field["description"]} if "description" in field else {}
        listed.append({"name": name, "in": "query", "schema": {**kept, **(kinds[0] if kinds else {})}, **told})
    return listed
