"""The vendor's OpenAPI documents, where they are at hand, and answers held against them.

They are data of somebody else and not in the repository: `HEADRACE_CONTRACTS` names their folder,
`../shared/contracts` is looked at too.
"""

import copy
import json
import os
import re
from functools import cache
from pathlib import Path

import jsonschema_rs
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = (os.environ.get("HEADRACE_CONTRACTS", ""), str(ROOT.parent / "shared" / "contracts"))
NEWEST, OLDER = "algolia-ingestion.openapi.yml", "algolia-ingestion-2024-02.openapi.yml"


@cache
def document(name):
    """Return a document as OpenAPI 3.1, or None where it is not at hand."""
    for folder in filter(None, FOLDERS):
        path = Path(folder) / name
        if path.exists():
            found = yaml.safe_load(path.read_text())
            found["openapi"] = "3.1.0"
            return _merged(_as_31(found), found)
    return None


def _merged(node, root):
    """Join what `allOf` lists: closed objects that only their sum fits."""
    if isinstance(node, list):
        return [_merged(one, root) for one in node]
    if not isinstance(node, dict):
        return node
    parts = node.get("allOf", ())
    parts = [_at(root, part["$ref"]) if "$ref" in part else part for part in parts]
    if len(parts) > 1 and all(part.get("type") == "object" for part in parts):
        node = {key: value for key, value in node.items() if key != "allOf"} | {
            "type": "object",
            "properties": {k: v for part in parts for k, v in part.get("properties", {}).items()},
            "required": [name for part in parts for name in part.get("required", ())],
            "additionalProperties": parts[0].get("additionalProperties", True),
        }
    return {key: _merged(value, root) for key, value in node.items()}


def _at(root, ref):
    for part in ref.removeprefix("#/").split("/"):
        root = root[part]
    return root


def _as_31(node):
    """Say `nullable` as 3.1 does."""
    if isinstance(node, list):
        return [_as_31(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _as_31(value) for key, value in node.items()}
    if "oneOf" in made:  # their alternatives overlap (a CSV source's input is a JSON source's too)
        made["anyOf"] = made.pop("oneOf")
    if made.get("additionalProperties") == {"type": "string"}:  # a secret's value is hidden too
        made["additionalProperties"] = {"type": ["string", "null"]}
    if "`null`" in str(made.get("description")) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]  # only the description says so of hidden members
    if made.pop("nullable", False) is True:
        kinds = made.get("type")
        if isinstance(kinds, str):
            made["type"] = [kinds, "null"]
            if "enum" in made:
                made["enum"] = [*made["enum"], None]
        else:
            made = {"anyOf": [made, {"type": "null"}]}
    return made


def _opened(node):
    if isinstance(node, list):
        return [_opened(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _opened(value)
        for key, value in node.items()
        if (key, value) != ("additionalProperties", False)
    }


class Answers:
    """Checks answers against one document."""

    def __init__(self, name):
        self.document = document(name)
        if name == OLDER:  # its clients pass over the members that came later
            self.document = _opened(self.document)
        self.seen = set()
        self._paths = sorted(
            (
                (re.compile(re.sub(r"\\\{[^}]+\\\}", "[^/]+", re.escape(path))), path)
                for path in self.document["paths"]
                if path != "/{path}"
            ),
            key=lambda one: one[1].count("{"),
        )
        self._validators = {}

    def operation(self, method, path):
        """Return the template of a path that has this method, or None."""
        for pattern, template in self._paths:
            if pattern.fullmatch(path) and method.lower() in self.document["paths"][template]:
                return template
        return None

    def _validator(self, method, template, status):
        key = method, template, status
        if key not in self._validators:
            responses = self.document["paths"][template][method.lower()]["responses"]
            told = responses.get(str(status))
            while told and "$ref" in told:
                told = _at(self.document, told["$ref"])
            schema = (told or {}).get("content", {}).get("application/json", {}).get("schema")
            root = None if schema is None else schema | {
                "components": copy.deepcopy(self.document["components"])
            }  # fmt: skip
            self._validators[key] = root and jsonschema_rs.validator_for(
                {"$schema": "https://json-schema.org/draft/2020-12/schema"} | root
            )
        return self._validators[key]

    def faults(self, method, path, status, body):
        """Return what is wrong with an answer; an empty list for one that is not described."""
        if (template := self.operation(method, path)) is None:
            return []
        self.seen.add((method, template))
        answer = json.loads(body)
        if status >= 400:
            return [] if isinstance(answer.get("message"), str) else ["no message"]
        validator = self._validator(method, template, status)
        if validator is None:
            return [f"{status} is not described"]
        return [
            f"{list(e.instance_path)}: {e.message}"[:500] for e in validator.iter_errors(answer)
        ]
