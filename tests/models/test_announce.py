"""What a user has to know reaches them, whether or not they configured logging."""

import logging

import pytest

from dalib.models.announce import announce, logger


def test_without_configured_logging_it_is_printed_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # away from the handlers of pytest
    announce("3 of 4")
    assert capsys.readouterr() == ("", "3 of 4\n")
    assert not logger.handlers


def test_configured_logging_alone_decides_whether_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # away from the handlers that other tests have left
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    with caplog.at_level(logging.WARNING, "dalib"):
        announce("3 of 4")
    assert not caplog.records
    with caplog.at_level(logging.INFO, "dalib"):
        announce("4 of 4")
    assert caplog.record_tuples == [("dalib", logging.INFO, "4 of 4")]
    assert capsys.readouterr() == ("", "")
