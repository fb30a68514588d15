"""Every no-code step, tried on records."""

import json

import pytest

from headrace.engine.javascript import tried


def made(record, *steps):
    found = tried("noCode", {"steps": list(steps)}, {}, record)
    assert found.error is None, found.error
    return [json.loads(one) for one in found.payloads]


R = {"objectID": "1", "name": " Big Chair ", "price": {"amount": "12.50", "was": None}, "tags": ["A", "b"],
     "note": "x;y;z", "active": "yes"}  # fmt: skip


@pytest.mark.parametrize(("steps", "changes"), [
    ([{"type": "keep", "attributes": ["price.amount"]}],
     {"name": ..., "price": {"amount": "12.50"}, "tags": ..., "note": ..., "active": ...}),
    ([{"type": "remove", "attributes": ["name", "price.was", "none.there"]}],
     {"name": ..., "price": {"amount": "12.50"}}),
    ([{"type": "rename", "from": "price.amount", "to": "cost"}],
     {"price": {"was": None}, "cost": "12.50"}),
    ([{"type": "copy", "from": "tags", "to": "more.tags"}], {"more": {"tags": ["A", "b"]}}),
    ([{"type": "set", "attribute": "price.was", "value": {"n": [1]}}],
     {"price": {"amount": "12.50", "was": {"n": [1]}}}),
    ([{"type": "default", "attribute": "price.was", "value": 0},
      {"type": "default", "attribute": "note", "value": 0}],
     {"price": {"amount": "12.50", "was": 0}}),
    ([{"type": "convert", "attribute": "price.amount", "to": "number"},
      {"type": "convert", "attribute": "active", "to": "boolean"},
      {"type": "convert", "attribute": "price.was", "to": "number"}],
     {"price": {"amount": 12.5, "was": None}, "active": True}),
    ([{"type": "case", "attributes": ["tags", "name"], "to": "lower"},
      {"type": "case", "attributes": ["name"], "to": "trim"}],
     {"tags": ["a", "b"], "name": "big chair"}),
    ([{"type": "replace", "attribute": "note", "find": ";", "by": "$&"}], {"note": "x$&y$&z"}),
    ([{"type": "split", "attribute": "note", "separator": ";"}], {"note": ["x", "y", "z"]}),
    ([{"type": "join", "attribute": "tags", "separator": "-"}], {"tags": "A-b"}),
])  # fmt: skip
def test_a_step_does_what_it_says(steps, changes):
    wanted = {key: value for key, value in (R | changes).items() if value is not ...}
    assert made(R, *steps) == [wanted]


@pytest.mark.parametrize(("attribute", "operator", "value", "stays"), [
    ("n", "=", 5, True), ("n", "=", "5", False), ("n", "!=", 5, False), ("n", ">", 4, True),
    ("n", "<=", 4, False), ("n", ">=", "4", False), ("n", "exists", None, True),
    ("x", "exists", None, False), ("x", "missing", None, True), ("x", ">", 1, False),
    ("t", "contains", "ell", True), ("l", "contains", 2, True), ("l", "=", 2, True),
    ("l", "contains", 3, False), ("o.p", "<", 2, True), ("__proto__", "exists", None, False),
])  # fmt: skip
def test_a_filter_lets_through_what_fits(attribute, operator, value, stays):
    record = {"objectID": "1", "n": 5, "t": "hello", "l": [1, 2], "o": {"p": 1}}
    step = {"type": "filter", "attribute": attribute, "operator": operator, "value": value}
    assert made(record, step) == ([record] if stays else [])


def test_what_cannot_be_converted_rejects_the_record():
    step = {"type": "convert", "attribute": "name", "to": "number"}
    assert 'name: " Big Chair " is no number' in tried("noCode", {"steps": [step]}, {}, R).error


@pytest.mark.parametrize("steps", [
    [{"type": "explode"}], [{}], [{"type": "keep"}], [{"type": "keep", "attributes": []}],
    [{"type": "set", "attribute": "a", "value": 1, "more": 2}], "no list", [None],
    [{"type": "set", "attribute": "__proto__.polluted", "value": 1}],
])  # fmt: skip
def test_steps_that_are_none_are_told(steps):
    found = tried("noCode", {"steps": steps}, {}, {"objectID": "1"})
    assert found.payloads == []
    assert "step" in found.error or "attribute" in found.error
