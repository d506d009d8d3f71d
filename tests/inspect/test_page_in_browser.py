"""The page in a browser: a headless Chromium without a network goes through it, and what it shows is what NumPy has.

One browser for all tests here. Where there is none they are skipped; with MINICNN_REQUIRE_BROWSER set they fail.
"""

import itertools
import json
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

from minicnn import Tensor, functional, manual_seed, nn
from minicnn.data import MNIST
from minicnn.inspect import debug, page
from minicnn.inspect.picture import colours
from minicnn.models import googlenet, lenet5
from minicnn.models.googlenet import googlenet_loss

pytestmark = pytest.mark.page

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip


class Branches(nn.Module):
    """Two branches joined along the channels; groups, dilation and a stride in them, and pooling that overlaps."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(
            nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2), groups=2), nn.ReLU()
        )
        self.right = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(6, 3, (1, 2), padding=(0, 1)))

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        return functional.cat([left[:, :, :, : right.shape[3]], right[:, :, :, : left.shape[3]]], dim=1)


class Small(nn.Module):
    """A shortcut, then branches, then averages."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.branches = Branches()
        self.pool = nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=False, ceil_mode=True)
        self.bins = nn.AdaptiveAvgPool2d((2, 3))
        self.fc = nn.Linear(7 * 6, 4)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        x = functional.relu(self.norm(self.conv(x)) + x)
        return self.fc(functional.flatten(self.bins(self.pool(self.branches(x))), 1))


def lenet_walk():
    manual_seed(1)
    image, label = MNIST(train=False)[0]
    return debug(functional.cross_entropy(lenet5()(np.asarray(image)[None]), np.array([label])))


def small_walk():
    manual_seed(2)
    images = np.random.default_rng(5).standard_normal((2, 2, 9, 8)).astype("float32")
    return debug(functional.cross_entropy(Small()(images), np.array([1, 3])))


def googlenet_walk():
    manual_seed(3)
    images = np.random.default_rng(6).random((1, 3, 64, 64), dtype=np.float32)
    return debug(googlenet_loss(googlenet(num_classes=10, input_size=64, width=0.25)(images), np.array([3])))


# ---------------------------------------------------------------------------------------------------- the browser


def unavailable(reason):
    if os.environ.get("MINICNN_REQUIRE_BROWSER"):
        pytest.fail(f"{reason}, and MINICNN_REQUIRE_BROWSER is set", pytrace=False)
    pytest.skip(reason)


class Browser:
    """What a reader does, and what they see."""

    def __init__(self, driver):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.driver, self.keys = driver, Keys
        self._by, self._chains = By.CSS_SELECTOR, lambda: ActionChains(driver, duration=0)

    def command(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def size(self, width, height=900):
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scheme(self, name):
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, path, anchor=""):
        self.driver.get("about:blank")  # or another anchor of the same file would not load it anew
        self.driver.get(path.as_uri() + anchor)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element(self._by, selector)

    def all(self, selector):
        return self.driver.find_elements(self._by, selector)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0]).innerText", selector).strip()

    def click(self, selector):
        element = self.find(selector)
        self.js("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", element)
        self._chains().click(element).perform()

    def press(self, *keys):
        self._chains().send_keys(*keys).perform()

    def go(self, direction, number):
        """Through the address, as a link would."""
        self.js("location.hash = arguments[0]", f"#{direction}-{number}")
        self.until(lambda: self.position == f"{direction} step {number}")

    @property
    def position(self):
        return self.text("#position").partition(" of ")[0]

    def until(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"after {seconds} s {condition} does not hold; at {self.position!r}"
            time.sleep(0.02)

    def card(self, name):
        return f'figure.card[data-name="{name}"]'

    def point(self, name, index, click=False):
        """Move the pointer to an entry of an array and read what is said of it."""
        canvas = self.find(f"{self.card(name)} canvas")
        self.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
        x, y = self.js(
            """const map = panel.maps.find((each) => each.name === arguments[0]);
            const [x, y, width, height] = map.square(map.stored.place(arguments[1]));
            const scroller = map.element;
            scroller.scrollTo(x + width / 2 - scroller.clientWidth / 2, y + height / 2 - scroller.clientHeight / 2);
            return [x + width / 2 - map.width / 2, y + height / 2 - map.height / 2];""",
            name,
            list(index),
        )
        chain = self._chains().move_to_element_with_offset(canvas, round(x - 0.01), round(y - 0.01))
        (chain.click() if click else chain).perform()
        return self.readout(name)

    def readout(self, name):
        return self.text(f"{self.card(name)} .readout").replace("−", "-")

    def frame(self):
        """Until the page has drawn what it was told to."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def problems(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found


def number(text):
    """The number after the equals sign."""
    return text.replace("−", "-").rpartition("=")[2].replace("∞", "inf").strip()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The browser and the pages, for all tests of this file."""
    try:
        from selenium import webdriver
    except ImportError:
        unavailable("selenium is missing: pip install -e '.[test]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium, chromedriver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        missing = "Chromium" if chromium is None else "ChromeDriver"
        unavailable(f"{missing} is missing (Debian: apt-get install chromium chromium-driver)")
    folder = tmp_path_factory.mktemp("pages")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    walks = {"lenet": lenet_walk(), "small": small_walk(), "googlenet": googlenet_walk()}
    for name, walk in walks.items():
        walk.save(folder / f"{name}.html")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        browser = Browser(driver)
        driver.set_script_timeout(30)
        browser.command("Network.enable")
        nothing = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.command("Network.emulateNetworkConditions", **nothing)
        yield SimpleNamespace(browser=browser, folder=folder, **walks)
    finally:
        driver.quit()


@pytest.fixture
def browser(shared):
    """The browser at 1280 pixels in daylight; no script may complain, and nothing may be asked of a network."""
    browser = shared.browser
    browser.size(1280)
    browser.scheme("light")
    browser.problems(), browser.requests()
    yield browser
    browser.driver.switch_to.default_content()
    assert browser.problems() == []
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "about", "data"}


@pytest.fixture
def lenet(shared, browser):
    browser.open(shared.folder / "lenet.html")
    return shared.lenet


@pytest.fixture
def small(shared, browser):
    browser.open(shared.folder / "small.html")
    return shared.small


# ---------------------------------------------------------------------------------------------------- going about


def test_it_opens_from_disk_and_asks_for_nothing_else(browser, shared):
    path = shared.folder / "lenet.html"
    browser.open(path)
    assert browser.driver.title == browser.text("h1") == "lenet5, step by step"
    loss = float(shared.lenet.out.item())
    assert browser.text("#result").startswith(f"cross_entropy = {loss:.6g}; 13 operations")
    assert "Nothing is cut" in browser.text("#rule")
    assert browser.position == "forward step 1"
    assert set(browser.requests()) == {path.as_uri()}
    assert len(browser.all("math")) == 1  # y = W ⋆ x + b


def test_buttons_and_keys(browser, lenet):
    walk = [*lenet.forward, *lenet]
    count = len(lenet)

    def at(place):
        step = walk[place]
        direction = "forward" if place < count else "backward"
        assert browser.position == f"{direction} step {step.index + 1}"
        assert browser.text("#step h2") == step.label
        assert browser.text("#position").endswith(f"of {count}: {step.label}")
        assert browser.find("#slider").get_attribute("value") == str(place)
        assert browser.text("#drawing .operation.current").splitlines()[1] == (step.path or "one number")

    at(0)
    assert not browser.find("#previous").is_enabled() and browser.find("#next").is_enabled()
    for button, place in (("next", 1), ("next", 2), ("previous", 1), ("last", 2 * count - 1)):
        browser.click(f"#{button}")
        at(place)
    assert not browser.find("#next").is_enabled()
    for button, place in (("first", 0), ("to-backward", count), ("to-forward", 0)):
        browser.click(f"#{button}")
        at(place)
    right, left, home, end = (getattr(browser.keys, name) for name in ("ARROW_RIGHT", "ARROW_LEFT", "HOME", "END"))
    for keys, place in (
        ([right], 1), ([right, right, left], 2), ([end], 2 * count - 1), ([right], 2 * count - 1), (["b"], count),
        ([left], count - 1), (["f"], 0), ([end, home], 0),
    ):  # fmt: skip
        browser.press(*keys)
        at(place)
    browser.press("?")
    assert browser.find("#help").is_displayed() and "a step on" in browser.text("#help")
    browser.press(right)
    at(0)  # not while the keys are explained
    browser.press(browser.keys.ESCAPE)
    assert not browser.find("#help").is_displayed()


def test_playing(browser, lenet):
    browser.press(browser.keys.SPACE)
    assert browser.text("#play") == "❚❚ pause"
    browser.until(lambda: browser.position == "forward step 3")
    browser.press(browser.keys.SPACE)
    assert browser.text("#play") == "▶ play"
    browser.click("#last")
    browser.click("#play")  # at the end it begins anew
    browser.until(lambda: browser.position == "forward step 1")
    browser.click("#next")
    assert browser.text("#play") == "▶ play"  # whoever steps by hand has stopped it


def test_the_slider(browser, lenet):
    slider = browser.find("#slider")
    width = slider.rect["width"]
    browser._chains().move_to_element_with_offset(slider, -round(width / 2) + 2, 0).click().perform()
    assert browser.position == "forward step 1"
    browser._chains().click_and_hold().move_by_offset(round(width) - 4, 0).release().perform()
    assert browser.position == "backward step 13"
    browser.press(browser.keys.ARROW_LEFT)  # the slider has the focus: one step, not two
    assert browser.position == "backward step 12"
    assert slider.get_attribute("aria-valuetext").startswith("backward step 12 of 13: ")


def test_a_step_has_an_address(browser, shared, lenet):
    browser.open(shared.folder / "lenet.html", "#backward-3")
    assert browser.position == "backward step 3"
    browser.click("#next")
    browser.until(lambda: browser.driver.current_url.endswith("#backward-4"))
    browser.driver.refresh()
    assert browser.position == "backward step 4"
    for wrong in ("#backward-14", "#forward-0", "#sideways-1", "#"):
        browser.open(shared.folder / "lenet.html", wrong)
        assert browser.position == "forward step 1"


# ------------------------------------------------------------------------------------------------------- numbers


def check_entries(browser, name, array, indices):
    for index in indices:
        text = browser.point(name, index)
        assert text.startswith(f"{name}[{', '.join(map(str, index))}] = " if index else f"{name} = ")
        assert array.dtype.type(number(text)) == array[tuple(index)], text
        mantissa = number(text).partition("e")[0].lstrip("-0.")
        assert len(mantissa.replace(".", "")) <= (9 if array.dtype == np.float32 else 17), text


def some(array, rng, count=6):
    """Corners and other entries."""
    last = tuple(n - 1 for n in array.shape)
    return [(0,) * array.ndim, last, *(tuple(map(int, rng.integers(0, array.shape))) for _ in range(count))]


def test_the_pointer_reads_what_numpy_has(browser, lenet, rng):
    for place in (0, 2, 7, 12):  # a convolution, a pool, a linear layer, the loss
        step = lenet.forward[place]
        browser.go("forward", place + 1)
        for name, array in (("output", step.output), *((i.name, i.value) for i in step.inputs)):
            check_entries(browser, name, array, some(array, rng, 4) if array.ndim else [()])
    for place in (0, 3, 9, 12):  # the loss, a linear layer, two convolutions
        step = lenet[place]
        browser.go("backward", place + 1)
        check_entries(browser, "g", step.grad_output, some(step.grad_output, rng, 4) if step.grad_output.ndim else [()])
        for gradient in step.gradients:
            check_entries(browser, f"∂{gradient.name}", gradient.value, some(gradient.value, rng, 4))


def test_all_arrays_of_a_shape_show_the_same_entry(browser, lenet):
    browser.go("backward", 9)  # tanh
    step = lenet[8]
    assert step.op.name == "tanh"
    index = (0, 7, 4, 5)
    browser.point("∂input", index)
    values = {"input": step.inputs[0].value, "output": step.output}
    for name, array in {"g": step.grad_output, "∂input": step.grad_inputs[0], **values}.items():
        assert np.float32(number(browser.readout(name))) == array[index]


def test_the_arrow_keys_go_from_entry_to_entry(browser, lenet):
    keys = browser.keys
    browser.go("forward", 3)
    output = lenet.forward[2].output  # (1, 6, 14, 14)
    browser.point("output", (0, 0, 0, 12), click=True)
    way = [
        (keys.ARROW_RIGHT, (0, 0, 0, 13)), (keys.ARROW_DOWN, (0, 0, 1, 13)), (keys.ARROW_RIGHT, (0, 1, 1, 0)),
        (keys.ARROW_LEFT, (0, 0, 1, 13)), (keys.ARROW_UP, (0, 0, 0, 13)), (keys.ARROW_UP, (0, 0, 0, 13)),
    ]  # fmt: skip
    for key, index in way:
        browser.press(key)
        text = browser.readout("output")
        assert text.startswith(f"output[{', '.join(map(str, index))}] = ")
        assert np.float32(number(text)) == output[index]
    assert browser.position == "forward step 3"
    assert browser.js("return document.getElementById('announcer').textContent").replace("−", "-") == text


def account(browser):
    """What the page says about where an entry comes from: (its name, the computed value)."""
    browser.frame()
    name, computed = browser.js(
        "return ['h3 code', '.computed'].map((s) => document.querySelector(`.account ${s}`).innerText)"
    )
    return name, number(computed)


def grids(browser, group=0):
    """The tables of a group: captions and, from their tooltips, numbers; None where there is none."""
    found = {}
    for figure in browser.all(f".account .groups > :nth-child({group + 1}) figure.grid"):
        rows = browser.js(
            """return [...arguments[0].querySelectorAll("tr")].map((row) => [...row.cells].map((cell) =>
                cell.title === "padding" ? "0" : cell.className === "nothing" ? null : cell.title));""",
            figure,
        )
        caption = browser.js("return arguments[0].querySelector('figcaption').textContent", figure)
        found[caption] = [[None if c is None else float(number(c)) for c in row] for row in rows]
    return found


@pytest.mark.parametrize("index", [(0, 0, 0, 0), (0, 3, 14, 9), (0, 5, 27, 27)])
def test_the_window_of_a_convolution(browser, lenet, index):
    step = lenet.forward[0]
    browser.go("forward", 1)
    browser.point("output", index)
    _, o, i, j = index
    name, computed = account(browser)
    assert name == f"output[{', '.join(map(str, index))}]"
    assert float(computed) == pytest.approx(float(step.output[index]), rel=1e-5, abs=1e-7)
    shown = grids(browser)
    padded = np.pad(step.inputs[0].value[0, 0], 2)  # the padding shows as zeros
    patch, kernel = padded[i : i + 5, j : j + 5], step.inputs[1].value[o, 0]
    np.testing.assert_allclose(shown["patch"], patch, rtol=1e-8)
    np.testing.assert_allclose(shown["kernel"], kernel, rtol=1e-8)
    products = patch.astype("float64") * kernel
    np.testing.assert_allclose(shown["products"], products, rtol=1e-8)
    total = products.sum() + float(step.inputs[2].value[o])
    assert float(computed) == pytest.approx(total, rel=1e-8)
    assert np.float32(number(browser.text(".account .there b"))) == step.output[index]
    inside = np.pad(np.ones((28, 28)), 2)[i : i + 5, j : j + 5].sum()
    assert len(browser.all(".account td.padding")) == 2 * (25 - inside)  # in the patch and in the products


def test_an_entry_that_was_clicked_stays_and_the_window_moves_by_itself(browser, lenet):
    browser.go("forward", 1)
    browser.point("output", (0, 2, 5, 6), click=True)
    browser.point("output", (0, 0, 1, 1))
    assert account(browser)[0] == "output[0, 2, 5, 6]"
    browser.press(browser.keys.ESCAPE)
    browser.point("output", (0, 0, 1, 2))
    assert account(browser)[0] == "output[0, 0, 1, 2]"
    browser.click(".account .move")
    browser.until(lambda: account(browser)[0] == "output[0, 0, 1, 4]")
    browser.click(".account .move")
    here = account(browser)[0]
    time.sleep(0.8)
    assert account(browser)[0] == here


def test_where_the_entries_of_gradients_come_from(browser, lenet):
    browser.go("backward", 10)
    step = lenet[9]
    assert step.label == "conv2d in conv2"
    x, weight, g = step.inputs[0].value.astype("float64"), step.inputs[1].value, step.grad_output
    index = (9, 4, 1, 3)
    browser.point("∂weight", index)
    name, computed = account(browser)
    assert name == "∂weight[9, 4, 1, 3]"
    expected = (x[0, 4, 1:11, 3:13] * g[0, 9]).sum()
    assert float(computed) == pytest.approx(expected, rel=1e-7)
    assert float(computed) == pytest.approx(float(step.grad_inputs[1][index]), rel=1e-4)
    shown = grids(browser)
    np.testing.assert_allclose(shown["what the weight met"], x[0, 4, 1:11, 3:13], rtol=1e-8)
    np.testing.assert_allclose(shown["gradient g"], g[0, 9], rtol=1e-8)
    index = (0, 3, 2, 13)  # at the edge: fewer windows
    browser.point("∂input", index)
    _, computed = account(browser)
    expected = sum(
        float(weight[o, 3, k, 13 - j]) * float(g[0, o, 2 - k, j]) for o in range(16) for k in range(3) for j in (9,)
    )
    assert float(computed) == pytest.approx(expected, rel=1e-7)
    assert grids(browser)["kernel"][3] == [None] * 5
    browser.point("∂bias", (11,))
    assert float(account(browser)[1]) == pytest.approx(g[0, 11].astype("float64").sum(), rel=1e-7)


def test_pooling(browser, lenet, small):
    pools = {s.op.name: s for s in small.forward if "pool" in s.op.name}
    step = pools["max_pool2d"]
    browser.go("forward", step.index + 1)
    index = (1, 4, 0, 2)
    browser.point("output", index)
    name, computed = account(browser)
    assert name == "output[1, 4, 0, 2]" and np.float32(computed) == step.output[index]
    (winner,) = browser.all(".account td.winner")
    assert np.float32(number(winner.get_attribute("title"))) == step.output[index]
    assert len(browser.all(".account td.padding")) == 3
    step = pools["adaptive_avg_pool2d"]
    browser.go("forward", step.index + 1)
    browser.point("output", (0, 1, 1, 2))
    assert float(account(browser)[1]) == pytest.approx(float(step.output[0, 1, 1, 2]), rel=1e-5)


def test_of_equals_the_first_wins_and_not_a_number_before_all(browser, shared):
    x = np.zeros((1, 1, 4, 4), dtype="float32")
    x[0, 0, 2:, 2:] = [[1, np.nan], [3, np.nan]]
    walk = debug(functional.max_pool2d(Tensor(x, requires_grad=True), 2, padding=1), np.ones((1, 1, 3, 3), "float32"))
    walk.save(shared.folder / "ties.html")
    browser.open(shared.folder / "ties.html", "#backward-1")
    totals = browser.js("""
        const map = panel.maps.find((each) => each.name === "∂input");
        return [...map.stored.values.keys()].map((place) => panel.accountFor(map, map.stored.index(place)).total);""")
    np.testing.assert_array_equal(np.reshape(totals, (1, 1, 4, 4)), walk[0].grad_inputs[0])
    browser.go("forward", 1)
    assert browser.point("output", (0, 0, 2, 2)) == "output[0, 0, 2, 2] = NaN"
    assert account(browser)[1] == "NaN"


def test_double_precision_is_shown_in_full(browser, shared, rng):
    x = Tensor(rng.standard_normal((3, 5)), requires_grad=True)
    walk = debug((x * (1 / 3)).sum())
    walk.save(shared.folder / "double.html")
    browser.open(shared.folder / "double.html")
    check_entries(browser, "output", walk.forward[0].output, some(walk.forward[0].output, rng))


@pytest.mark.parametrize("which", ["lenet", "small"])
def test_every_account_adds_up_to_what_the_engine_has(browser, shared, which):
    """For entries of every array that has one: forward and backward, with padding, stride, dilation and groups."""
    browser.open(shared.folder / f"{which}.html")
    found = browser.js("""
        const found = [];
        let random = 1;
        for (let i = 0; i < steps.length; i++) {
          go(i);
          for (const map of panel.maps.filter((each) => each.explained)) {
            const n = map.stored.values.length;
            const accounts = [];
            for (let k = 0; k < 40; k++) {
              random = (random * 16807) % 2147483647;
              const index = map.stored.index(random % n);
              const account = panel.accountFor(map, index);
              if (account) accounts.push([account.total, map.stored.at(index), account.absent]);
            }
            if (accounts.length) found.push([steps[i].operation.op, map.name, map.stored.extent, accounts]);
          }
        }
        return found;""")
    seen = {(op, name) for op, name, _, _ in found}
    convolution = {("conv2d", name) for name in ("output", "∂weight", "∂bias")}
    linear = {("linear", name) for name in ("output", "∂input", "∂weight", "∂bias")}
    assert convolution | linear <= seen
    assert ("avg_pool2d", "∂input") in seen and ("avg_pool2d", "output") in seen
    if which == "small":
        others = {("max_pool2d", "∂input"), ("max_pool2d", "output"), ("conv2d", "∂input")}
        assert others | {("adaptive_avg_pool2d", "output"), ("adaptive_avg_pool2d", "∂input")} <= seen
    for op, name, bound, accounts in found:
        for total, value, absent in accounts:
            assert absent == 0
            assert total == pytest.approx(value, rel=1e-4, abs=1e-5 * bound), (op, name)


def test_the_loss(browser, lenet):
    browser.go("backward", 1)
    step = lenet[0]
    rows = browser.js(
        "return [...document.querySelectorAll('.scores tbody tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    scores = step.inputs[0].value[0].astype("float64")
    p = np.exp(scores) / np.exp(scores).sum()
    t = np.eye(10)[7]
    assert [row[0] for row in rows] == [str(c) for c in range(10)]
    shown = np.array([[float(number(cell)) for cell in row if cell] for row in rows])
    np.testing.assert_array_equal(shown[:, 1].astype("float32"), step.inputs[0].value[0])
    np.testing.assert_allclose(shown[:, 2], p, rtol=1e-6)
    np.testing.assert_array_equal(shown[:, 3], t)
    np.testing.assert_allclose(shown[:, 4], p - t, rtol=1e-5)
    np.testing.assert_array_equal(shown[:, 5].astype("float32"), step.grad_inputs[0][0])
    assert browser.text(".scores tr.target").startswith("7")
    assert "g = 1 arrived and an item's share in the loss is 1." in browser.text(".scores")
    browser.go("forward", 13)
    assert np.float32(number(browser.readout("output"))) == lenet.out.data


def test_a_loss_with_class_weights_and_one_for_each_item(browser, shared, rng):
    scores = Tensor(rng.standard_normal((3, 4)).astype("float32"), requires_grad=True)
    weight = rng.uniform(0.5, 2, 4).astype("float32")
    losses = functional.cross_entropy(scores, np.array([3, 0, 2]), weight=weight, reduction="none")
    walk = debug(losses, rng.standard_normal(3).astype("float32"))
    walk.save(shared.folder / "weighted.html")
    browser.open(shared.folder / "weighted.html", "#backward-1")
    assert "p Σy − y" in browser.text(".scores thead") and "item 2" in browser.text(".scores")
    rows = browser.js(
        "return [...document.querySelectorAll('.scores tbody tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )
    shown = np.array([[float(number(row[5])), float(number(row[6]))] for row in rows if len(row) > 1]).reshape(3, 4, 2)
    expected = walk[0].grad_output[:, None] * shown[..., 0]
    np.testing.assert_allclose(shown[..., 1], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(shown[..., 1].astype("float32"), walk[0].grad_inputs[0])


def test_where_gradients_flow(browser, small):
    joins = [step for step in small if any(g.added for g in step.gradients)]
    assert joins
    for step in joins:
        browser.go("backward", step.index + 1)
        for gradient in step.gradients:
            words = browser.text(f"{browser.card(f'∂{gradient.name}')} .remark")
            assert words.startswith(f"{'added' if gradient.added else 'written'} to {gradient.to}")
    target = browser.find(".jump")
    target.click()
    assert browser.position.startswith("backward step ") and browser.text("#step h2") == target_label(joins[-1])


def target_label(step):
    return next(g.to for g in step.gradients if not g.to.endswith(".grad"))


def test_one_entry_in_words(browser, lenet):
    browser.go("backward", 10)
    summaries = browser.all("details.example summary")
    assert len(summaries) == 3
    summaries[1].click()
    step = lenet[9]
    index = np.unravel_index(np.abs(step.grad_inputs[1]).argmax(), step.grad_inputs[1].shape)
    assert summaries[1].text.startswith(f"One entry in numbers: ∂weight[{', '.join(map(str, index))}]")
    shown = browser.text("details.example[open]").replace("−", "-")
    assert f"The network has {float(step.grad_inputs[1][index]):.9g}" in shown and "and 95 more" in shown


def bounds(browser):
    """The end of each array's colour scale, as its legend has it."""
    cards = [figure.get_attribute("data-name") for figure in browser.all("figure.card")]
    return {name: float(number(browser.text(f"{browser.card(name)} .legend span:last-child"))) for name in cards}


def largest(*arrays):
    """Of all their entries, as a legend rounds it."""
    return float(f"{max(float(np.abs(array).max()) for array in arrays):.3g}")


def expected_bounds(step, scale):
    """Of a backward step's arrays, from what NumPy has."""
    parameters = {"weight", "bias"}
    values = {i.name: i.value for i in step.inputs} | {"output": step.output}
    gradients = {f"∂{g.name}": g.value for g in step.gradients} | {"g": step.grad_output}
    found = {}
    for alike in (values, gradients):
        shared = [x for name, x in alike.items() if name.removeprefix("∂") not in parameters and x.size > 1]
        for name, x in alike.items():
            own = scale == "own" or x.size == 1 or name.removeprefix("∂") in parameters
            together = [*values.values(), *gradients.values()] if scale == "step" else [x] if own else shared
            found[name] = largest(*together)
    return found


def test_colour_scales(browser, lenet):
    names = [step.label for step in lenet]
    for label in ("conv2d in conv2", "tanh in tanh1", "cross_entropy"):
        step = lenet[names.index(label)]
        browser.go("backward", step.index + 1)
        for scale in ("own", "step", "kinds"):
            browser.click(f".scale input[value={scale}]")
            assert bounds(browser) == pytest.approx(expected_bounds(step, scale), rel=1e-6), (label, scale)
    step = lenet[names.index("conv2d in conv2")]
    kinds = expected_bounds(step, "kinds")
    assert kinds["input"] == kinds["output"] and kinds["g"] == kinds["∂input"]
    assert len({kinds[name] for name in ("input", "g", "weight", "bias", "∂weight", "∂bias")}) == 6


def test_the_colour_scale_is_chosen_with_keys_and_stays(browser, lenet):
    browser.go("backward", 10)
    step = lenet[9]

    def chosen():
        return [box.get_attribute("value") for box in browser.all(".scale input") if box.is_selected()]

    assert chosen() == ["kinds"] and bounds(browser) == pytest.approx(expected_bounds(step, "kinds"), rel=1e-6)
    browser.js("document.querySelector('.other').focus()")
    browser.press(browser.keys.TAB)
    right, left = browser.keys.ARROW_RIGHT, browser.keys.ARROW_LEFT
    for key, scale in ((right, "own"), (right, "step"), (right, "kinds"), (left, "step")):
        browser.press(key)
        assert chosen() == [scale] and browser.position == "backward step 10"
        assert bounds(browser) == pytest.approx(expected_bounds(step, scale), rel=1e-6)
    browser.go("backward", 11)
    assert chosen() == ["step"] and len(set(bounds(browser).values())) == 1


def test_an_array_of_zeros_does_not_set_the_scale(browser, shared):
    x = Tensor(np.full((2, 3), -1e-3, dtype="float32"), requires_grad=True)
    debug((functional.relu(x) * 1.0).sum()).save(shared.folder / "zeros.html")
    browser.open(shared.folder / "zeros.html")
    assert bounds(browser) == {"input": 1e-3, "output": 1e-3}
    browser.click(".scale input[value=own]")
    assert bounds(browser) == {"input": 1e-3, "output": 1}


def test_an_entry_has_the_colour_that_the_notebook_gives_it(browser, lenet):
    browser.go("backward", 10)
    browser.click(".scale input[value=own]")
    output = lenet[9].output
    index = np.unravel_index(output.argmin(), output.shape)
    pixel = browser.js(
        """const map = panel.maps.find((each) => each.name === "output");
        const [x, y, width, height] = map.square(map.stored.place(arguments[0]));
        return [...map.canvas.getContext("2d").getImageData(x + width / 2, y + height / 2, 1, 1).data];""",
        [int(i) for i in index],
    )
    expected = colours(output[index], float(np.abs(output).max()))
    np.testing.assert_allclose(pixel[:3], expected, atol=2)


def test_a_page_that_is_cut_says_so(browser, shared, lenet):
    path = shared.folder / "cut.html"
    lenet.save(path, megabytes=0.25)
    browser.open(path, "#forward-4")
    assert "arrays are cut" in browser.text("#rule")
    warning = browser.text(f"{browser.card('weight')} .warning")
    assert "of 16×6×5×5 are on this page" in warning
    missing = browser.js("""
        const map = panel.maps.find((each) => each.name === "output");
        const account = panel.accountFor(map, [0, map.stored.kept[1] - 1, 0, 0]);
        return [account.absent, map.stored.kept];""")
    assert missing[0] > 0
    browser.point("output", (0, missing[1][1] - 1, 0, 0))
    browser.frame()
    words = browser.text(".account")
    assert "of what is on this page" in words and f"{missing[0]} of the products that add up to it are missing" in words
    assert "apart" not in words


# ------------------------------------------------------------------------------------------------------- strips


def test_the_strips(browser, lenet):
    for kind, steps, norms in (
        ("forward", lenet.forward, [np.linalg.norm(s.output.astype("float64")) for s in lenet.forward]),
        ("backward", lenet, [s.grad_norm for s in lenet]),
    ):
        heights = browser.js(
            f"return [...document.querySelectorAll('.strip.{kind} .bar')].map((b) => Number(b.getAttribute('height')))"
        )
        assert len(heights) == 13
        logs = np.log10(norms)
        slopes = np.diff(heights)[np.abs(np.diff(logs)) > 1e-6] / np.diff(logs)[np.abs(np.diff(logs)) > 1e-6]
        np.testing.assert_allclose(slopes, slopes[0], rtol=1e-3)  # the height is the logarithm
        svg = browser.find(f".strip.{kind} svg")
        width = svg.rect["width"]
        browser._chains().move_to_element_with_offset(svg, round(width * (4.5 / 13 - 0.5)), 0).click().perform()
        assert browser.position == f"{kind} step 5"
        assert f"{steps[4].label}: " in browser.text(f".strip.{kind} .caption")
        assert float(number(browser.text(f".strip.{kind} .caption"))) == pytest.approx(norms[4], rel=1e-3)
        assert browser.js(f"return document.querySelector('.strip.{kind} .current').getAttribute('x')") == "4"


def test_norms_that_are_zero_or_not_finite_are_marked(browser, shared):
    x = Tensor(np.array([1.0, 2.0], dtype="float32"), requires_grad=True)
    y = functional.relu(x * -1.0)
    with np.errstate(all="ignore"):
        walk = debug(functional.log(y).sum())
    walk.save(shared.folder / "broken.html")
    browser.open(shared.folder / "broken.html")
    marks = {name: len(browser.all(f".strip.forward svg .{name}")) for name in ("zero", "broken", "bar")}
    assert marks == {"zero": 1, "broken": 2, "bar": 1}
    assert "1 exactly zero" in browser.text(".strip.forward") and "2 not finite" in browser.text(".strip.forward")
    browser.go("forward", 3)
    assert browser.point("output", (1,)) == "output[1] = -∞"
    browser.go("backward", 2)
    assert browser.point("∂input", (0,)) == "∂input[0] = ∞"


# ------------------------------------------------------------------------------------------------------- network


def visible_boxes(browser):
    return browser.js("""
        return [...document.querySelectorAll("#drawing .operation, #drawing .source, #drawing .group.folded")]
          .map((box) => [box, box.getBoundingClientRect()]).filter(([, r]) => r.width)
          .map(([box, r]) => [r.left, r.top, r.right, r.bottom]);""")


def test_boxes_do_not_overlap(browser, shared):
    for name in ("small", "googlenet"):
        browser.open(shared.folder / f"{name}.html")
        browser.click("#unfold-all")
        boxes = visible_boxes(browser)
        assert len(boxes) >= len(getattr(shared, name))
        for a, b in itertools.combinations(boxes, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_branches_stand_side_by_side_and_the_shortcut_has_a_lane(browser, small):
    browser.click("#unfold-all")
    box = {
        label: browser.js(
            """const {left, right, top, bottom} = [...document.querySelectorAll("#drawing .operation")]
              .filter((box) => box.innerText.startsWith(arguments[0]))[0].getBoundingClientRect();
            return {left, right, top, bottom};""",
            label,
        )
        for label in ("MaxPool2d", "add", "cat")
    }
    convolutions = [b.rect for b in browser.all("#drawing .operation") if b.text.startswith("Conv2d\n0\n4")]
    (left,) = convolutions
    pool = box["MaxPool2d"]
    assert left["x"] + left["width"] < pool["left"] or pool["right"] < left["x"]
    assert box["add"]["bottom"] < pool["top"] < box["cat"]["top"]
    assert browser.all("#drawing .lane")
    # Every line ends at a box or a frame, and the sum has two of them.
    adds = browser.js("""
        const boxes = [...document.querySelectorAll("#drawing .operation")];
        const add = boxes.find((box) => box.innerText.startsWith("add"));
        return document.querySelectorAll(`#drawing path[data-to="${add.dataset.id}"]`).length;""")
    assert adds == 2


def test_folding(browser, small):
    before = len(visible_boxes(browser))
    group = next(button for button in browser.all("#drawing .fold") if "branches" in button.text)
    assert group.get_attribute("aria-expanded") == "true"
    browser.js("arguments[0].scrollIntoView({block: 'center'})", group)
    group.click()
    assert group.get_attribute("aria-expanded") == "false"
    assert len(visible_boxes(browser)) < before - 4
    assert "operations" in group.text
    lines = len(browser.all("#drawing path.line"))
    step = next(s for s in small.forward if s.op.name == "max_pool2d")
    browser.go("forward", step.index + 1)  # hidden: the folded group is where the step is
    assert "branches" in browser.text("#drawing .group.current")
    group.click()
    assert len(visible_boxes(browser)) == before and len(browser.all("#drawing path.line")) > lines
    assert browser.text("#drawing .operation.current").startswith("MaxPool2d")


def test_a_large_network_is_unfolded_where_the_step_is(browser, shared):
    browser.open(shared.folder / "googlenet.html")
    names = [s.path for s in shared.googlenet.forward]
    place = names.index("inception3b.branch2.1.conv") + 1
    few = len(visible_boxes(browser))
    assert few < 40
    browser.go("forward", place)
    assert browser.text("#drawing .operation.current").splitlines()[:2] == ["Conv2d", "conv"]
    open_groups = [b.text for b in browser.all('#drawing .fold[aria-expanded="true"]') if b.is_displayed()]
    assert [text.split()[0].strip("▾ ") for text in open_groups] == ["GoogLeNet", "inception3b", "branch2", "1"]
    is_inside = """
        const [box, pane] = [document.querySelector("#drawing .current"), document.getElementById("drawing")]
          .map((element) => element.getBoundingClientRect());
        return pane.top <= box.top && box.bottom <= pane.bottom && pane.left <= box.left && box.right <= pane.right;"""
    browser.until(lambda: browser.js(is_inside))  # the pane scrolls there
    browser.go("forward", 1)
    assert len(visible_boxes(browser)) == few
    browser.click("#unfold-all")
    assert len(visible_boxes(browser)) >= len(names)
    browser.click("#fold-all")
    assert len(visible_boxes(browser)) < 40


def stale_lines(browser, change=""):
    """Do something, and the lines that are not where they would be drawn anew."""
    return browser.js(f"""
        {change};
        const drawn = () => [...document.querySelectorAll("#drawing path.line")].map((line) => line.getAttribute("d"));
        const before = drawn();
        network.connect();
        const now = drawn();
        return [before.filter((d) => !now.includes(d)), now.filter((d) => !before.includes(d))].flat();""")


def test_lines_are_drawn_anew_when_something_moved_and_only_then(browser, shared):
    first = "document.querySelector('#drawing path.line')"
    browser.open(shared.folder / "small.html")
    browser.frame()
    browser.js(f"window.first = {first}; steps.forEach((_, i) => go(i))")  # all of a small network is unfolded always
    browser.frame()
    assert browser.js(f"return window.first === {first}") and stale_lines(browser) == []
    browser.open(shared.folder / "googlenet.html")
    names = [s.path for s in shared.googlenet.forward]
    browser.frame()
    browser.js(f"window.first = {first}")
    place = names.index("inception3b.branch2.1.conv")
    assert stale_lines(browser, f"go({place})") == [] and browser.js(f"return window.first !== {first}")
    for button in ("#unfold-all", "#fold-all", ".fold", ".fold"):
        assert stale_lines(browser, f"document.querySelector('{button}').click()") == []
    sizes = []
    for width in (1280, 840, 500):
        browser.size(width)
        browser.frame()
        assert stale_lines(browser) == []
        sizes.append(browser.js("return network.sizeOfSheet()"))
    assert len(set(sizes)) == 3
    browser.js("at('network').open = false")
    browser.frame()
    browser.js("network.foldAll(false)")
    browser.js("at('network').open = true")  # what was unfolded while it was hidden
    browser.frame()
    assert len(browser.all("#drawing path.line")) >= len(names) and stale_lines(browser) == []


def test_a_click_on_an_operation_goes_to_its_step(browser, lenet):
    boxes = {box.text.splitlines()[1]: box for box in browser.all("#drawing .operation")}
    boxes["tanh2"].click()
    assert len(browser.all("#drawing .ahead")) == 13 - 5  # the walk has not been there
    assert browser.position == "forward step 5" and browser.text("#step h2") == "tanh in tanh2"
    browser.click(".other")
    assert len(browser.all("#drawing .ahead")) == 13 - 9
    assert browser.position == "backward step 9" and browser.text("#step h2") == "tanh in tanh2"
    browser.js("arguments[0].scrollIntoView({block: 'center'})", boxes["fc1"])
    boxes["fc1"].click()
    assert browser.position == "backward step 6" and browser.text("#step h2") == "linear in fc1"


# ------------------------------------------------------------------------------------------------ how it looks


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["lenet", "small"])
def test_nothing_is_cut_off_at_the_side(browser, shared, name, width):
    browser.size(width, 800)
    browser.open(shared.folder / f"{name}.html")
    beyond = browser.js("""
        const found = [];
        const scrollers = ".heatmap, #drawing, .scroll, .groups, .caption, .formula, #announcer";
        for (let i = 0; i < steps.length; i++) {
          go(i);
          const edge = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth > edge) found.push([i, "the page scrolls"]);
          for (const element of document.body.querySelectorAll("*")) {
            if (element.closest(scrollers) && !element.matches(scrollers)) continue;
            const {left, right, width} = element.getBoundingClientRect();
            if (width && (right > edge + 0.5 || left < -0.5)) found.push([i, element.outerHTML.slice(0, 100)]);
          }
        }
        return found;""")
    assert beyond == []
    columns = browser.js("return getComputedStyle(document.querySelector('main')).gridTemplateColumns").split()
    assert len(columns) == (2 if width == 1280 else 1)
    network, step = browser.find("#network").rect, browser.find("#step").rect
    if width == 400:
        assert network["y"] + network["height"] <= step["y"]
        browser.click("#network > summary")
        assert not browser.find("#drawing").is_displayed()


def contrast(browser):
    """The smallest contrast of text to what is behind it (WCAG 2.1), over all elements that hold text."""
    return browser.js("""
        const channels = (colour) => {
          const canvas = new OffscreenCanvas(1, 1).getContext("2d");
          canvas.fillStyle = colour;
          canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
          .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (element) => {
          for (let e = element; e; e = e.parentElement) {
            const colour = channels(getComputedStyle(e).backgroundColor);
            if (colour[3] > 250) return colour;
          }
        };
        let worst = [99, ""];
        for (const element of document.body.querySelectorAll("*")) {
          const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
          const apart = ":disabled, .ahead, script, noscript, #announcer";
          if (!own || !element.checkVisibility() || element.closest(apart)) continue;
          const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 120)];
        }
        return worst;""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, shared, scheme):
    browser.scheme(scheme)
    browser.open(shared.folder / "lenet.html")
    lightness = r"return Number(getComputedStyle(document.body).backgroundColor.match(/\d+/)[0])"
    is_light = browser.js(lightness) > 128
    assert is_light == (scheme == "light")
    for direction, place in (("forward", 1), ("forward", 3), ("backward", 1), ("backward", 10)):
        browser.go(direction, place)
        ratio, where = contrast(browser)
        assert ratio >= 4.5, where
    browser.click("#theme")
    assert browser.text("#theme") == "light"
    assert browser.js(lightness) > 128
    browser.click("#theme")
    assert browser.text("#theme") == "dark"
    assert browser.js(lightness) < 128
    browser.click("#theme")
    assert (browser.js(lightness) > 128) == is_light


def test_everything_is_reached_with_the_tab_key_and_the_focus_is_seen(browser, lenet):
    browser.go("backward", 10)
    reached = set()
    while "BODY" not in reached:  # once through all of the page
        browser.press(browser.keys.TAB)
        name, ring = browser.js("""
            const element = document.activeElement;
            const style = getComputedStyle(element);
            const label = element.tagName === "CANVAS" ? element.getAttribute("aria-label").split(",")[0] : "";
            return [label || element.id || element.classList[0] || element.tagName, style.outlineStyle];""")
        assert ring != "none" or name == "BODY", name
        reached.add(name)
    assert {"theme", "help-button", "first", "next", "play", "slider", "drawing", "fold", "operation", "g"} <= reached
    assert {"∂input", "∂weight", "∂bias", "input", "weight", "output", "move"} <= reached
    unnamed = browser.js("""
        return [...document.querySelectorAll("button, input, canvas:not(.marks), [tabindex]")].filter((element) =>
          !(element.getAttribute("aria-label") || element.textContent.trim() || element.closest("label"))).length;""")
    assert unnamed == 0


# ---------------------------------------------------------------------------------------------- inside, and safe


def test_the_page_inside_another_one(browser, shared, lenet):
    path = shared.folder / "notebook.html"
    path.write_text(f"<!doctype html><title>a notebook</title><p>before</p>{page.inline(lenet)}<p>after</p>", "utf-8")
    browser.open(path)
    frame = browser.find("iframe")
    assert frame.rect["width"] > 1200
    browser.driver.switch_to.frame(frame)
    assert browser.position == "forward step 1" and browser.text("h1") == "lenet5, step by step"
    browser.click("#next")
    assert browser.position == "forward step 2"
    browser.press(browser.keys.ARROW_RIGHT)
    assert browser.position == "forward step 3"
    index = (0, 1, 2, 3)
    assert np.float32(number(browser.point("output", index))) == lenet.forward[2].output[index]
    assert browser.all("#drawing .operation.current")


def test_hostile_names_are_shown_and_do_nothing(browser, shared):
    name = "</script><img src=x onerror='hacked = 1'><b>bold"
    model = nn.Sequential((name, nn.Conv2d(1, 2, 3)))
    loss = model(np.ones((1, 1, 5, 5), dtype="float32")).sum()
    debug(loss).save(shared.folder / "hostile.html", title=name)
    browser.open(shared.folder / "hostile.html")
    assert browser.text("h1") == browser.driver.title == name
    assert browser.text("#step h2") == f"conv2d in {name}"
    assert name in browser.text("#drawing")
    assert browser.js("return [window.hacked === undefined, document.images.length]") == [True, 0]
    # Not even what got into the page by another way could run.
    browser.js("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.hacked = 1\" id=bad>bad</p>')")
    browser.click("#bad")
    assert browser.js("return window.hacked === undefined")
    complaints = browser.problems()
    assert len(complaints) == 1 and "Content Security Policy" in complaints[0]
