"""The replay of traces: its page in a real browser, and pictures."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import maicc
from maicc.envs import Drawing, Shape, batch_env, get_family
from maicc.envs.drawing import checked, drawn, rgb
from maicc.report.figures import episode_boards
from maicc.report.pictures import painted
from maicc.report.replay import shown_episodes, write_replay
from maicc.report.write import write_report
from maicc.types import UserError
from tests.commands import TINY


@pytest.fixture(scope="module")
def traced_run(tmp_path_factory):
    """A small run whose teams retrieve and have a record."""
    folder = tmp_path_factory.mktemp("traced") / "run"
    maicc.cli.main(
        ["run", "lbf_7x7", *TINY, "--decision.steps=30", "--embedding.steps=4",
         "--adapt.episodes=8", "--adapt.training_runs=0", "--out", str(folder)]
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
        "disable-background-networking", "disable-component-update", "disable-dev-shm-usage",
        "window-size=1200,1000",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as driver:
        yield driver


def errors(browser):
    """What the page's console has complained of."""
    return [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


def test_the_page_plays_an_episode(browser, traced_run):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get((traced_run / "replay.html").as_uri())
    where = browser.find_element(By.ID, "where")
    board = "return document.getElementById('board').toDataURL()"
    first = browser.execute_script(board)
    assert where.text.startswith("step 1 of")
    browser.find_element(By.ID, "on").click()
    assert where.text.startswith("step 2 of")
    keys = ActionChains(browser)
    keys.send_keys(Keys.ARROW_RIGHT).send_keys(Keys.ARROW_LEFT).send_keys(Keys.ARROW_LEFT).perform()
    assert where.text.startswith("step 1 of")
    assert browser.execute_script(board) == first
    slider = browser.find_element(By.ID, "step")
    ActionChains(browser).drag_and_drop_by_offset(slider, slider.size["width"] // 2, 0).perform()
    last = int(slider.get_attribute("max"))
    assert int(slider.get_attribute("value")) == last
    browser.find_element(By.ID, "play").click()  # from the start again
    WebDriverWait(browser, 10).until(lambda _: where.text.startswith("step 3 of"))
    browser.find_element(By.ID, "play").click()
    assert browser.find_element(By.ID, "play").text == "Play"
    assert browser.execute_script(board) != first
    assert not errors(browser)


def test_the_page_tells_what_an_agent_remembers(browser, traced_run):
    from selenium.webdriver.common.by import By

    browser.get((traced_run / "replay.html").as_uri())
    board = "return document.getElementById('board').toDataURL()"
    for point in browser.find_elements(By.CSS_SELECTOR, "#curve [data-episode='3']"):
        point.click()
    assert browser.find_element(By.ID, "episode").get_attribute("value") == "3"
    browser.find_element(By.CSS_SELECTOR, "[data-agent='1']").click()
    pressed = browser.find_element(By.CSS_SELECTOR, "[aria-pressed='true']")
    assert pressed.text == "agent_1"
    before = browser.execute_script(board)
    rows = browser.find_elements(By.CSS_SELECTOR, "tr[data-path]")
    traces = maicc.load_traces(traced_run)
    record = int((traces.record[0, 3, 1] >= 0).sum())
    assert len(rows) == record + 2  # and k = 2 retrieved ones
    rows[-1].click()
    assert browser.execute_script(board) != before  # its way is drawn
    assert browser.find_element(By.CSS_SELECTOR, "tr.shown")
    percents = browser.find_elements(By.CSS_SELECTOR, "#actions .number")
    assert 95 <= sum(int(p.text.split()[0]) for p in percents) <= 105
    assert not errors(browser)


def test_the_report_opens(browser, traced_run):
    browser.get((traced_run / "report.html").as_uri())
    assert "lbf_7x7" in browser.title
    titles = [title.text for title in browser.find_elements("tag name", "h2")]
    assert {"Adaptation", "A first and a last episode", "Dataset"} <= set(titles)
    assert not errors(browser)
    browser.set_window_size(390, 800)  # a phone
    width = "return document.documentElement.scrollWidth"
    assert browser.execute_script(width) <= browser.execute_script("return window.innerWidth")
    browser.get((traced_run / "replay.html").as_uri())
    assert browser.execute_script(width) <= browser.execute_script("return window.innerWidth")
    browser.set_window_size(1200, 1000)


def test_the_page_loads_nothing(traced_run):
    page = (traced_run / "replay.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert "http" not in re.sub(r"\"data:[^\"]*\"", "", page)
    assert len(page) < 5e6


def test_a_family_without_a_drawing_shows_numbers_or_frames(traced_run, monkeypatch, tmp_path):
    plain = replace(get_family("lbf_7x7"), draw=None)
    monkeypatch.setattr("maicc.report.replay.get_family", lambda name: plain)
    write_replay(traced_run, tmp_path / "numbers.html")
    assert '"numbers":true' in (tmp_path / "numbers.html").read_text()

    def rendering(**parameters):
        env = get_family("lbf_7x7").make(**parameters)
        env.render_mode = "rgb_array"
        env.render = lambda: np.full((40, 60, 3), 200, np.uint8)
        return env

    def broken(**parameters):
        env = rendering(**parameters)
        env.render = lambda: 1 / 0
        return env

    monkeypatch.setattr("maicc.report.replay.get_family", lambda name: replace(plain, make=broken))
    with pytest.raises(UserError, match=r"lbf_7x7: an episode can't be rendered \(ZeroDivision"):
        write_replay(traced_run, tmp_path / "broken.html")

    renders = replace(plain, make=rendering)
    monkeypatch.setattr("maicc.report.replay.get_family", lambda name: renders)
    write_replay(traced_run, tmp_path / "frames.html")
    page = (tmp_path / "frames.html").read_text()
    assert '"frames":true' in page
    assert "data:image/jpeg;base64" in page


def test_a_gif_has_a_frame_for_each_step(traced_run, tmp_path):
    out = tmp_path / "x.gif"
    maicc.cli.main(["replay", str(traced_run), "--gif", str(out), "--run", "1", "--episode", "0"])
    steps = int(maicc.load_traces(traced_run).played[1, 0].sum())
    with Image.open(out) as image:
        # equal pictures in a row are one frame
        assert 1 < image.n_frames <= steps
    with pytest.raises(SystemExit):
        maicc.cli.main(["replay", str(traced_run), "--gif", str(out), "--episode", "99"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gif", "a.gif", "--out", "b.html"], "leave out --out"),
        (["--episode", "3"], "give --gif"),
    ],
)
def test_options_that_replay_would_not_read_are_refused(words, says, capsys):
    with pytest.raises(SystemExit):
        maicc.cli.main(["replay", "runs/none", *words])
    assert says in capsys.readouterr().err


def test_episodes_that_are_shown():
    assert shown_episodes(5, 10) == [0, 1, 2, 3, 4]
    assert shown_episodes(100, 10) == [0, 1, 2, 3, 4, 5, 28, 52, 76, 99]
    assert shown_episodes(1, 1) == [0]
    assert len(shown_episodes(50, 10)) == 10


@pytest.mark.parametrize("name", ["lbf_7x7", "lbf_levels", "lbf_partners"])
def test_drawings_show_the_agents_where_they_are(name):
    family = get_family(name)
    env = batch_env(family, family.held_out_tasks[:1])
    now, rng = env.reset([3]), np.random.default_rng(0)
    for _ in range(4):
        drawing = checked(family.draw(now.observations[0], now.alive[0]), name)
        drawn = {s.agent: (s.x, s.y) for s in drawing.shapes if s.agent is not None}
        assert sorted(drawn) == np.flatnonzero(now.alive[0]).tolist()
        positions = env.envs[0].unwrapped.positions
        for agent, place in drawn.items():
            row, col = positions[agent]
            assert place == (col + 0.5, row + 0.5)
        assert painted(drawing).shape == (360, 360, 3)
        legal = now.action_mask[0] * rng.random(now.action_mask[0].shape)
        now = env.step(legal.argmax(-1)[None])


def test_the_report_is_written_without_pictures(traced_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(traced_run, folder)
    (folder / "adapt" / "result.traces.npz").write_bytes(b"damaged")
    assert "No picture: " in write_report(folder).read_text()


def test_a_family_that_tells_is_drawn_as_the_one_that_does_not():
    for name in ("lbf_partners", "lbf_levels"):
        family = get_family(name)
        task, told = family.held_out_tasks[0], family.revealed()
        env, telling = (batch_env(f, [replace(task, family=f.name)]) for f in (family, told))
        now, seen = env.reset([1]), telling.reset([1])
        assert told.draw(seen.observations[0], seen.alive[0]) == family.draw(
            now.observations[0], now.alive[0]
        )


def test_a_drawing_that_fails_is_told():
    with pytest.raises(UserError, match=r"mine: its draw failed \(ZeroDivisionError"):
        drawn(lambda observations, present: 1 / 0, np.zeros((1, 1)), np.ones(1, bool), "mine")


def test_a_wrong_drawing_is_refused():
    with pytest.raises(UserError, match="expected a Drawing"):
        checked([], "mine")
    with pytest.raises(UserError, match="'star'"):
        checked(Drawing(1, 1, [Shape("star", 0, 0)]), "mine")
    with pytest.raises(UserError, match="not finite"):
        checked(Drawing(1, 1, [Shape("circle", float("nan"), 0)]), "mine")
    with pytest.raises(UserError, match="the label 3, expected a text"):
        checked(Drawing(1, 1, [Shape("circle", 0, 0, label=3)]), "mine")
    with pytest.raises(UserError, match="the colour 'lila'; expected one as #2563eb"):
        checked(Drawing(1, 1, [Shape("circle", 0, 0, colour="lila")]), "mine")


@pytest.mark.parametrize("colour", ["#2563eb", "rgb(37, 99, 235)", "royalblue"])
def test_colours_are_the_same_in_a_gif_and_in_a_report(colour):
    drawing = checked(Drawing(4, 4, [Shape("square", 2, 2, size=4, colour=colour)]), "mine")
    assert tuple(painted(drawing)[180, 180]) == rgb(colour)
    assert "#{:02x}{:02x}{:02x}".format(*rgb(colour)) in episode_boards({"one": [drawing]})


def test_the_grid_of_a_board_that_is_not_square_is_whole():
    picture = painted(Drawing(10, 4, [], grid=1))
    assert (picture[36] < 255).all()
    assert (picture[:, 36] < 255).all()
