"""``dust serve`` as a user starts it, and the words that it refuses."""

import socket
import threading

import pytest

from dust.cli.main import main
from tests.deploy.serve.serving import call, send, until

pytest.importorskip("fastapi")


def test_wrong_words_are_said_at_once(run, capsys):
    words = ["--threshold", "2", "--port", "99999", "--max-mb", "0", "--timeout", "-1", "--queue", "0",
             "--files", "gone", "--stride", "-1", "--tls-key", "x.pem", "--workers", "0", "--batch-size",
             "-1"]  # fmt: skip
    assert main(["serve", str(run), *words]) == 2
    said = capsys.readouterr().err
    for part in (
        "--threshold 2",
        "--port 99999",
        "--max-mb 0",
        "--timeout -1",
        "--queue 0",
        "--files gone",
        "--stride -1",
        "--tls-cert FILE",
        "x.pem: there is no such file",
        "--workers 0",
        "--batch-size -1",
    ):
        assert part in said, part
    assert main(["serve", "nowhere", "--port", "0"]) == 2 and "no such run" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_another_address_needs_a_token(run, host, capsys, monkeypatch):
    monkeypatch.delenv("DUST_TOKEN", raising=False)
    assert main(["serve", str(run), "--host", host, "--port", "0"]) == 2
    assert "DUST_TOKEN" in capsys.readouterr().err


def test_an_address_that_is_taken_or_is_none(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", str(run), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened at" in capsys.readouterr().err
    assert main(["serve", str(run), "--host", "no such host"]) == 2
    assert "means no address" in capsys.readouterr().err


def test_it_serves_until_it_is_ended(run, model, clips, capsys, monkeypatch):
    from dust.deploy.serve import app

    made, build = [], app.build_server
    monkeypatch.setattr(app, "build_server", lambda *args, **more: made.append(build(*args, **more)) or made[0])
    monkeypatch.setenv("DUST_TOKEN", "open-sesame")
    words = ["serve", str(run), "--host", "0.0.0.0", "--port", "0", "--threshold", "0.99", "--allow-host", "dust.lab"]
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main([*words, "--device", "cpu", "--files", str(clips)])))
    thread.start()
    until(lambda: codes or (made and made[0].started))
    address = capsys.readouterr().out.split()[1]
    port = int(address.rstrip("/").rpartition(":")[2])
    know = {"Authorization": "Bearer open-sesame", "Host": "dust.lab"}
    status, _, found = send(port, clips / "clip_1.mp4", headers=know)
    assert status == 200 and found["predictions"][0]["label"] == "none of these" and found["threshold"] == 0.99
    assert call(port, "POST", "/predict?path=clip_1.mp4", headers=know)[0] == 200
    assert call(port, "GET", "/model")[0] == 401
    made[0].should_exit = True
    thread.join(60)
    assert codes == [0]
    with pytest.raises(OSError):
        call(port, "GET", "/health")


def test_files_that_are_no_certificate_are_said_before_the_model_is_loaded(run, tmp_path, capsys):
    (tmp_path / "cert.pem").write_text("nothing of the kind")
    assert main(["serve", str(run), "--tls-cert", str(tmp_path / "cert.pem")]) == 2
    assert "no certificate with its private key (PEM)" in capsys.readouterr().err
