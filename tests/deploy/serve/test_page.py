"""The page in a real browser: what it shows, by mouse and by keyboard, and that names stay text."""

import base64
import csv
import io
import json
import time
from copy import copy
from dataclasses import replace

import pytest

from dust.utils.files import csv_text
from tests.browser import chromium
from tests.datasets.clip_files import write_clip
from tests.deploy.serve.serving import serving

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DROP = """
const [name, data] = arguments;
const transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, {type: "video/mp4"}));
const how = {dataTransfer: transfer, bubbles: true, cancelable: true};
document.getElementById("drop").dispatchEvent(new DragEvent("drop", how));
"""


def named(model, names):
    """The same model, whose classes are called otherwise."""
    other = copy(model)
    other.classes, other.task = list(names), copy(model.task)
    other.task.class_names = list(names)
    return other


def text(page, name):
    return page.find_element("id", name).text


def until(page, condition, seconds=60):
    """Wait until a script's expression is true."""
    deadline = time.monotonic() + seconds
    while not page.execute_script(f"return Boolean({condition})"):
        assert time.monotonic() < deadline, f"{condition}; the page says: {text(page, 'say')}"
        time.sleep(0.05)


def opened(page, port):
    page.get(f"http://127.0.0.1:{port}/")
    until(page, "document.getElementById('model').textContent.includes('classes')")


def drop(page, path, name=""):
    page.execute_script(DROP, name or path.name, base64.b64encode(path.read_bytes()).decode())


def rows(page, count):
    """The texts of the table once so many files are done."""
    busy = "['', 'waits', 'is looked at'].includes(r.cells[4].textContent) && !r.cells[1].textContent"
    found = "[...document.querySelectorAll('#files tbody tr')]"
    until(page, f"{found}.length == {count} && !{found}.some((r) => {busy}) && !document.querySelector('progress')")
    return page.execute_script(f"return {found}.map((r) => [...r.cells].map((c) => c.textContent))")


def forgiven(page, code):
    """Take what the browser has logged: nothing but answers of this status."""
    for entry in page.get_log("browser"):
        assert f"status of {code}" in entry["message"], entry


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile"), *CAMERA) as found:
        yield found


def test_a_dropped_video_is_answered_and_followed(page, server, model, tmp_path):
    path = write_clip(tmp_path / "long.mp4", 100)
    opened(page, server.port)
    drop(page, path)
    expected = model(path)
    ((name, label, sure, second, remarks),) = rows(page, 1)
    assert name == "long.mp4" and label == expected.label and sure == f"{100 * expected.confidence:.1f} %"
    assert expected.top(2)[1][0] in second and remarks == "" and label in text(page, "say")
    shown = page.execute_script("return [...document.querySelectorAll('#bars li')].map((li) => li.textContent)")
    assert shown == [f"{one}{100 * value:.1f} %" for one, value in expected.top(2)]
    widths = page.execute_script(
        "return [...document.querySelectorAll('#bars b')].map((b) => parseFloat(b.style.width))"
    )
    assert widths == pytest.approx([100 * value for _, value in expected.top(2)], abs=0.01)
    assert len(page.find_elements("css selector", "#line span")) >= 1 and "0:00.0 of 0:04.0" in text(page, "now")
    page.execute_script("document.getElementById('video').play()")  # the timeline runs beside it
    until(
        page,
        "parseFloat(document.querySelector('#line i').style.left) > 5 && document.getElementById('moment').value > 0.2",
    )
    page.execute_script("document.getElementById('video').pause()")
    page.find_element("css selector", "#list summary").click()
    page.find_element("css selector", "#segments button").click()
    until(page, "document.getElementById('video').currentTime == 0")


def test_a_bad_file_shows_its_sentence_and_the_csv_has_all(page, server, model, clips, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    opened(page, server.port)
    page.execute_script("URL.createObjectURL = ((make) => (b) => { if (b.type === 'text/csv') b.text().then((t) => "
                        "{ window.written = t; }); return make.call(URL, b); })(URL.createObjectURL)")  # fmt: skip
    page.find_element("id", "pick").send_keys(f"{clips / 'clip_14.mp4'}\n{bad}\n{clips / 'clip_15.mp4'}")
    found = rows(page, 3)
    assert found[1][:2] == ["bad.mp4", "not answered"] and "cannot be opened" in found[1][4]
    assert text(page, "say") == "2 answered, 1 not"
    page.find_elements("css selector", "#files td button")[1].click()
    assert text(page, "watched") == "bad.mp4" and text(page, "notes") == found[1][4]
    page.find_element("id", "csv").click()
    until(page, "window.written")
    table = list(csv.DictReader(io.StringIO(page.execute_script("return window.written"), newline="")))
    assert [row["id"] for row in table] == ["clip_14.mp4", "bad.mp4", "clip_15.mp4"] and "cannot be" in table[1][
        "error"
    ]
    for row in (table[0], table[2]):
        expected = model(clips / row["id"])
        assert row["prediction"] == expected.label and row["label"] == ""
        assert float(row["prob_dark"]) == pytest.approx(expected.probabilities["dark"], abs=1e-5)
    page.find_element("id", "clear").click()
    assert not page.find_element("id", "table").is_displayed() and not page.find_element("id", "watch").is_displayed()
    forgiven(page, 422)


def test_the_keyboard_alone(page, server, clips):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(page, server.port)
    page.find_element("id", "pick").send_keys(f"{clips / 'clip_14.mp4'}\n{clips / 'clip_15.mp4'}")
    rows(page, 2)
    page.execute_script("document.activeElement.blur()")
    seen = []
    for _ in range(30):
        ActionChains(page).send_keys(Keys.TAB).perform()
        one = page.switch_to.active_element
        name = one.get_attribute("id") or one.text or one.tag_name
        if one.tag_name == "body":
            break
        if name != "video":
            ring = page.execute_script(
                "const e = document.activeElement; const l = e.id === 'pick' ? document.querySelector('.button') : e;"
                "return getComputedStyle(l).outlineStyle")  # fmt: skip
            assert ring not in ("none", ""), f"{name} shows no focus"
        seen.append(name)
        if name == "clip_15.mp4":
            one.send_keys(Keys.ENTER)
            assert text(page, "watched") == "clip_15.mp4"
    for wanted in ("pick", "camera", "moment", "csv", "clear", "clip_14.mp4", "clip_15.mp4"):
        assert wanted in seen, wanted
    moment = page.find_element("id", "moment")
    before = float(moment.get_attribute("value"))
    moment.send_keys(Keys.ARROW_RIGHT * 5)
    assert float(moment.get_attribute("value")) > before and moment.get_attribute("aria-valuetext")
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('button, input, select, video')].filter((e) => e.checkVisibility() && "
        "!(e.textContent.trim() || e.labels?.length || e.ariaLabel)).map((e) => e.outerHTML)")  # fmt: skip
    assert unnamed == []
    assert page.find_element("id", "say").get_attribute("aria-live") == "polite"
    assert page.find_element("tag name", "html").get_attribute("lang") == "en"


@pytest.fixture(scope="module")
def ugly(model):
    with serving(named(model, ["<img src=x onerror=alert(1)>", "=1+1, \"x\" 'y'\u202e \n漢"])) as found:
        yield found


def test_names_stay_text(page, ugly, clips):
    opened(page, ugly.port)
    odd = "<img src=x onerror=alert(2)>.mp4"
    drop(page, clips / "clip_14.mp4", odd)
    ((name, *_),) = rows(page, 1)
    assert name == odd
    assert not page.find_elements("tag name", "img") and "<img src=x" in text(page, "bars")
    assert "<img src=x" in page.find_element("css selector", "#line span").get_attribute("textContent") or text(
        page, "line"
    )
    page.execute_script("window.done = false; import('/show.js').then((m) => { window.show = m; window.done = true; })")
    until(page, "window.done")
    cells = [
        "=1+1",
        "+x",
        "-1.5",
        "-x",
        "@a",
        "\ta",
        "'=a",
        "a,b",
        'q"q',
        "a\nb",
        "\x1b[31m",
        "\u202ex",
        "漢",
        "",
        "😀",
        "'",
        "a'",
    ]
    found = page.execute_script("return arguments[0].map((one) => window.show.csvCell(one)).join('\\r\\n')", cells)
    expected = csv_text([[cell] for cell in cells], line_end="\r\n").replace('""\r\n', "\r\n")
    assert found + "\r\n" == expected, "as dust predict writes it"


def test_a_camera_is_answered_while_it_runs(page, server, model):
    opened(page, server.port)
    page.find_element("id", "camera").click()
    until(
        page, "document.querySelectorAll('#line span').length && document.querySelectorAll('#bars-now li').length == 2"
    )
    assert "after its last frame" in text(page, "now") and text(page, "camera") == "Stop the camera"
    assert page.find_element("id", "camera").get_attribute("aria-pressed") == "true"
    page.find_element("id", "camera").click()
    assert text(page, "say") == "The camera is off."
    deadline = time.monotonic() + 20
    while server.service._busy:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_token_is_asked_for(page, model, clips):
    with serving(model, token="open-sesame") as server:
        page.get(f"http://127.0.0.1:{server.port}/")
        until(page, "!document.getElementById('door').hidden")
        field = page.find_element("id", "token")
        field.send_keys("wrong\n")
        until(page, "document.getElementById('say').textContent.includes('not the token')")
        field.clear()
        field.send_keys("open-sesame\n")
        until(page, "document.getElementById('model').textContent.includes('classes')")
        drop(page, clips / "clip_14.mp4")
        assert rows(page, 1)[0][1] in model.classes
        forgiven(page, 401)


def test_many_classes_on_a_narrow_screen(page, model, clips):
    """300 classes: the likeliest are shown, all when they are asked for; nothing is wider than the screen."""
    other = named(model, [f"a class of a rather long name that fills more than a line, number {n}" for n in range(300)])

    def forward(module, inputs):
        two = model.loop.forward(module, inputs)
        return two.repeat(1, 150) + (two.new_tensor(range(300)) / 100)

    other.loop = replace(model.loop, forward=forward)
    with serving(other) as server:
        size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            opened(page, server.port)
            drop(page, clips / "clip_14.mp4")
            rows(page, 1)
            assert len(page.find_elements("css selector", "#bars li")) == 8
            page.find_element("id", "all").click()
            assert len(page.find_elements("css selector", "#bars li")) == 300
            assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        finally:
            page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert json.dumps(page.get_log("browser")) == "[]"
