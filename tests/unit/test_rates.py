"""Rate limits by address."""

import pytest

from headrace.api import rates
from headrace.api.rates import Rates
from headrace.domain.errors import TooMany
from headrace.settings import Rate


def test_a_window_ends(monkeypatch):
    now = [0.0]
    limit = Rates(Rate(2, 10), clock=lambda: now[0])
    limit.take("a")
    limit.take("a")
    now[0] = 7.5
    with pytest.raises(TooMany) as caught:
        limit.take("a")
    assert caught.value.facts["retry_after"] == 3
    limit.take("b")
    now[0] = 10.0
    limit.take("a")


def test_no_limit_is_no_limit():
    limit = Rates(Rate())
    for _ in range(1000):
        limit.take("a")


def test_old_addresses_are_forgotten(monkeypatch):
    monkeypatch.setattr(rates, "CALLERS_MAX", 10)
    now = [0.0]
    limit = Rates(Rate(2, 10), clock=lambda: now[0])
    for number in range(50):
        now[0] = float(number)
        limit.take(str(number))
    assert len(limit._windows) <= 20
