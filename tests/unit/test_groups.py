"""Tests of a group run in one worker: what they share is started once."""

import os

import pytest


@pytest.mark.xdist_group("together")
def test_a_group_is_told_to_who_deals_out_the_tests(request):
    """It is part of the name of a test there."""
    assert request.node.nodeid.endswith("@together") or "PYTEST_XDIST_WORKER" not in os.environ
