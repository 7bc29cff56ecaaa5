"""docs/api.md, made from both servers' OpenAPI: `python tests/house/api_page.py` writes it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from admin_server.app import create_app as create_admin
from admin_server.settings import Settings as AdminSettings
from client_server.app import create_app as create_client
from client_server.settings import Settings as ClientSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
HEAD = """# REST

Made from the servers' OpenAPI by `python tests/house/api_page.py`; a test compares the two.

* Every route but `/health` needs `Authorization: Bearer …`. Errors are `application/problem+json`, [by name](troubleshooting.md).
* Lists are `{"items": […], "next": key}`: pass `next` as `after`; `limit` is 1 to 1000 rows.
* Live streams are server-sent events; `Last-Event-ID` goes on where a connection broke.
* A 202 names in `Location` what to poll.
"""


def page() -> str:
    """Write the page: for each server its routes, then the fields of the bodies that they take."""
    with tempfile.TemporaryDirectory() as home:
        admin = create_admin(AdminSettings(espalier_home=Path(home), apps_dir=Path(home))).openapi()
        client = create_client(ClientSettings(espalier_home=Path(home))).openapi()
    parts = [HEAD]
    for title, schema in (("Admin server", admin), ("Client server", client)):
        parts += [f"\n## {title}\n\n| route | |\n|---|---|\n", *routes(schema), *bodies(schema)]
    return "".join(parts)


def routes(schema: dict[str, Any]) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            query = [parameter["name"] for parameter in route.get("parameters", []) if parameter["in"] == "query"]
            asked = f"<br>`?{'&'.join(query)}`" if query else ""
            said = route.get("description", route["summary"]).partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            yield f"| `{method.upper()} {path}` | {said}{asked} |\n"


def bodies(schema: dict[str, Any]) -> Iterator[str]:
    models = schema["components"]["schemas"]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            content = route.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            yield f"\n### `{method.upper()} {path}`\n\n| field | type | default | |\n|---|---|---|---|\n"
            yield from fields(models[reference(content["schema"])])


def fields(model: dict[str, Any]) -> Iterator[str]:
    needed = model.get("required", [])
    for name, field in model.get("properties", {}).items():
        default = "needed" if name in needed else f"`{field['default']}`" if field.get("default") is not None else ""
        yield f"| `{name}` | {type_of(field)} | {default} | {field.get('description', '')} |\n"


def type_of(field: dict[str, Any]) -> str:
    """Say a JSON schema's type in a word or two."""
    if "anyOf" in field:
        return " or ".join(word for word in map(type_of, field["anyOf"]) if word != "null")
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {type_of(field.get('items', {}))}"
    return str(field.get("format") or field.get("type") or "any")


def reference(schema: dict[str, Any]) -> str:
    options = schema.get("anyOf", [schema])
    return str(next(option["$ref"] for option in options if "$ref" in option).rpartition("/")[2])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
