"""`mdmf stream` before it streams: what is missing or unfit is said in one line, and nothing is started."""

import socket
import time

import pytest
from pubsub import PROJECT, Topic, pointed_at

from mdmf_ops import cli
from mdmf_ops.commands import stream

SUBSCRIPTION = f"projects/{PROJECT}/subscriptions/none"


def refused(capsys, *flags: str) -> str:
    """The one line on stderr of a command that is not carried out."""
    assert cli.main(["stream", *flags]) == cli.EXIT_USAGE
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_what_is_missing_or_unfit_is_named_with_its_mend(capsys, tmp_path):
    output = ["--output", str(tmp_path / "out")]
    assert "--subscription is missing" in refused(capsys, *output)
    assert "--subscription is missing" in refused(capsys, *output, "--subscription", "a", "--topic", "b")
    assert "--output is missing" in refused(capsys, "--subscription", SUBSCRIPTION)
    both = [*output, "--subscription", SUBSCRIPTION, "--device", "cpu"]
    assert "window_s=0" in refused(capsys, *both, "--window_s", "0")
    assert "neither" not in refused(capsys, "--output", "s3://bucket", "--subscription", SUBSCRIPTION)
    assert "file:///out: the folder" in refused(capsys, "--output", "file:///out", "--subscription", SUBSCRIPTION)
    assert "manifest.json" in refused(capsys, *both, "--assets", str(tmp_path))
    pointer = tmp_path / "current"
    pointer.write_text("nowhere")
    assert str(tmp_path / "nowhere") in refused(capsys, *both, "--assets", str(pointer))
    for flag in ("subscription", "topic", "alert_topic", "error_topic", "assets", "local_root", "c2pa_trust"):
        assert f"--{flag} is empty" in refused(capsys, *both, f"--{flag}", "")
    assert "alpha=1e-09" in refused(capsys, *both, "--alpha", "1e-9")
    assert not (tmp_path / "out").exists()


def test_what_an_option_cannot_be_is_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["stream", "--verdicts", "likely_ai,fake"])
    assert "fake: expected verdicts of likely_ai" in capsys.readouterr().err
    for flag, wrong in (("horizon_s", "nan"), ("horizon_s", "-1"), ("pointer_s", "soon"), ("batch_wait_s", "inf")):
        with pytest.raises(SystemExit):
            cli.main(["stream", f"--{flag}={wrong}"])
        assert f"--{flag}: {wrong} is not a number of seconds from 0 to 1e9" in capsys.readouterr().err


def test_topics_and_subscriptions_that_are_not_there_are_named(pubsub_service, capsys, tmp_path):
    with pointed_at(pubsub_service):
        there = Topic("there")
        flags = ["--output", str(tmp_path / "out"), "--device", "cpu"]
        assert SUBSCRIPTION in refused(capsys, *flags, "--subscription", SUBSCRIPTION)
        missing = f"projects/{PROJECT}/topics/missing"
        line = refused(capsys, *flags, "--subscription", there.subscription, "--alert_topic", missing)
        assert missing in line
        line = refused(capsys, *flags, "--subscription", there.subscription, "--error_topic", "no topic")
        assert "no topic" in line
        for read in (["--subscription", there.subscription], ["--topic", there.path]):
            for flag in ("--alert_topic", "--error_topic"):
                line = refused(capsys, *flags, *read, flag, there.path)
                assert f"{flag} {there.path} is the topic that is read" in line
    assert not (tmp_path / "out").exists()


def test_a_service_that_says_nothing_is_told_in_one_line_and_not_waited_for_for_ever(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_CHECK_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and reads none
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
        flags = ["--output", str(tmp_path / "out"), "--device", "cpu", "--subscription", SUBSCRIPTION]
        started_s = time.monotonic()
        assert f"Pub/Sub: {SUBSCRIPTION}" in refused(capsys, *flags)
    assert time.monotonic() - started_s < 30


def test_help_teaches_the_messages_and_the_flags(capsys):
    with pytest.raises(SystemExit):
        cli.main(["stream", "--help"])
    text = capsys.readouterr().out
    flags = ("subscription", "output", "alert_topic", "error_topic", "window_s", "assets", "local_root", "alpha")
    assert all(f"--{flag}" in text for flag in flags)
    assert '{"uri": "gs://bucket/name", "generation": 17' in text
