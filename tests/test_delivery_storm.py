"""A small delivery storm for every run of the tests; `nox -s deliveries` is the large one."""

from __future__ import annotations

import pytest

from delivery_storm import run


@pytest.mark.slow
def test_each_user_gets_one_message_from_a_messenger_that_misbehaves_in_every_way(kind):
    """Making a video costs money; the message is the product."""
    report = run(kind=kind, jobs=50, kills=9, down_s=2.0)

    assert report.fine, report
