"""The report in headless Chromium: no request, no error, working switches, sorting and keyboard control."""

import json
import shutil
from itertools import combinations

import pytest

from afictl.comparison.report import write_report
from afictl.data import make_shapes
from tests.comparison.report.test_page import hostile
from tests.helpers.comparisons import NAMES, make_comparison, with_images

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VISIBLE_IMAGES = """
    const images = [...document.querySelectorAll('.panels img')];
    return images.filter(image => image.checkVisibility()).map(image => image.alt);
"""
NAMES_IN_ORDER = """
    return [...document.querySelectorAll('#table tbody th .name')].slice(0, 3).map(name => name.textContent);
"""
OUTLINE = """
    const element = arguments[0];
    return getComputedStyle(element.matches('.switch input') ? element.nextElementSibling : element).outlineStyle;
"""
BEYOND_THE_RIGHT_EDGE = """
    const free = element => !element.closest('.scroll, pre, .options, svg') && element.checkVisibility();
    const far = element => element.getBoundingClientRect().right > innerWidth + 1;
    return [...document.querySelectorAll('body *')].filter(e => free(e) && far(e)).map(e => e.outerHTML.slice(0, 80));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    pytest.importorskip("selenium", reason="no selenium to drive a browser with")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no Chromium with its chromedriver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Three reports: an ordinary one, one with hostile names, and one of eleven methods without pictures."""
    folder = tmp_path_factory.mktemp("reports")
    data = make_shapes(folder / "data", train=1, val=2, size=96)
    eleven = with_images(make_comparison(data, folder / "eleven", NAMES), folder / "nowhere")
    comparisons = {
        "ordinary": make_comparison(data, folder / "three"),
        "hostile": hostile(data, folder),
        "eleven": eleven,
    }
    for name, comparison in comparisons.items():
        write_report(comparison, folder / f"{name}.html")
    return {name: (folder / f"{name}.html").as_uri() for name in comparisons}


@pytest.fixture
def open_page(browser, pages):
    """A function that opens a page at a width, in light or dark mode; fails if the page logs an error."""

    def load(name, width=1200, scheme="light"):
        browser.get_log("browser")
        browser.get_log("performance")
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(pages[name])
        return browser

    yield load
    assert browser.get_log("browser") == []


def find(browser, selector):
    return browser.find_elements("css selector", selector)


@pytest.mark.parametrize("name", ["ordinary", "hostile", "eleven"])
def test_the_page_makes_no_request(open_page, pages, name):
    browser = open_page(name)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert urls.count(pages[name]) == 1
    assert [url for url in urls if url != pages[name] and not url.startswith("data:")] == []
    assert all(browser.execute_script("return [...document.images].map(image => image.naturalWidth > 300)"))


def test_hostile_names_are_not_executed(open_page):
    browser = open_page("hostile")
    assert browser.execute_script("return window.injected === undefined")
    assert len(find(browser, "script")) == 1
    assert find(browser, "img:not([src^='data:'])") == []
    assert find(browser, "main b, [onerror], [onmouseover]") == []
    assert "<img src=x onerror=alert(1)></script>" in find(browser, "h1")[0].text


def test_the_policy_blocks_other_scripts_and_requests(browser, pages):
    """The page itself never needs the policy, so it is tested with an injected script and image."""
    browser.get(pages["ordinary"])
    browser.execute_script("""
        const script = document.createElement('script');
        script.textContent = 'window.foreign = 1';
        const image = new Image();
        image.src = 'http://127.0.0.1:9/x.png';
        document.body.append(script, image);
    """)
    assert browser.execute_script("return window.foreign === undefined")
    violations = [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]
    assert len(violations) == 2


@pytest.mark.parametrize("width", [360, 1200])
def test_the_switch_of_images_by_click_and_keyboard(open_page, width):
    from selenium.webdriver.common.keys import Keys

    browser = open_page("ordinary", width)
    choices = find(browser, "#images .switch input")
    labels = [label.text for label in find(browser, "#images .switch label")]
    assert labels == ["Ground truth", "nearest", "bilinear", "bicubic"]
    assert all("Ground truth" in alt for alt in browser.execute_script(VISIBLE_IMAGES))
    choices[2].click()
    visible = browser.execute_script(VISIBLE_IMAGES)
    assert len(visible) == 2
    assert all("bilinear" in alt for alt in visible)
    choices[2].send_keys(Keys.ARROW_RIGHT)
    assert all("bicubic" in alt for alt in browser.execute_script(VISIBLE_IMAGES))
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert all("Ground truth" in alt for alt in browser.execute_script(VISIBLE_IMAGES))


def test_the_switch_of_costs(open_page):
    browser = open_page("ordinary")
    titles = [find(browser, f".cost-plots > :nth-child({k}) svg.wide .axes .title")[0] for k in (1, 2)]
    assert [title.is_displayed() for title in titles] == [True, False]
    find(browser, "#cost .switch input")[1].click()
    assert [title.is_displayed() for title in titles] == [False, True]
    assert titles[1].text == "Forward time, ms"


def test_tables_are_sorted_by_click_and_keyboard(open_page):
    from selenium.webdriver.common.keys import Keys

    browser = open_page("ordinary")
    assert browser.execute_script(NAMES_IN_ORDER) == ["nearest", "bilinear", "bicubic"]
    name, ap, difference = find(browser, "#table thead button")[:3]
    keys = "return [...document.querySelectorAll('#table tbody td:nth-child(2)')].slice(0, 3).map(c => +c.dataset.key)"
    ap.click()
    values = browser.execute_script(keys)
    assert values == sorted(values, reverse=True)
    assert find(browser, "#table th[aria-sort]")[0].get_attribute("aria-sort") == "descending"
    ap.send_keys(Keys.ENTER)
    assert browser.execute_script(keys) == sorted(values)
    name.send_keys(Keys.SPACE)
    assert browser.execute_script(NAMES_IN_ORDER) == ["bicubic", "bilinear", "nearest"]
    difference.click()
    difference.click()
    assert browser.execute_script(NAMES_IN_ORDER)[2] == "nearest"  # the baseline has none and is always last
    assert len(find(browser, "#table table:first-of-type th[aria-sort]")) == 1


def test_all_controls_are_focused_by_keyboard(open_page):
    from selenium.webdriver.common.keys import Keys

    browser = open_page("ordinary")
    find(browser, "body")[0].send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the verdict"
    focused = set()
    for _ in range(80):
        element = browser.switch_to.active_element
        focused.add((element.tag_name, element.get_attribute("id") or element.get_attribute("name") or ""))
        assert browser.execute_script(OUTLINE, element) == "solid"
        element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.tag_name == "body":
            break
    assert {("button", "theme"), ("input", "cost-1"), ("input", "panel-1")} <= focused
    assert [find(browser, tag) != [] for tag in ("header", "nav", "main", "footer")] == [True] * 4


@pytest.mark.parametrize("name", ["ordinary", "hostile", "eleven"])
@pytest.mark.parametrize("width", [360, 800])
def test_the_page_is_never_wider_than_the_screen(open_page, name, width):
    browser = open_page(name, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(BEYOND_THE_RIGHT_EDGE) == []


def test_dark_mode_follows_the_system_and_the_button_without_memory(open_page):
    background = "return getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(22, 24, 28)"
    browser = open_page("ordinary", scheme="dark")
    assert browser.execute_script(background) == dark
    toggle = find(browser, "#theme")[0]
    assert toggle.text == "Light mode"
    toggle.click()
    assert browser.execute_script(background) == light
    assert toggle.text == "Dark mode"
    browser.refresh()
    assert browser.execute_script(background) == dark
    browser = open_page("ordinary")
    assert browser.execute_script(background) == light


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("section", ["cost", "curves"])
def test_labels_of_eleven_methods_do_not_overlap(open_page, width, section):
    browser = open_page("eleven", width)
    boxes = browser.execute_script(f"""
        const plots = [...document.querySelectorAll('#{section} svg')].filter(plot => plot.checkVisibility());
        const box = (label, plot) => {{
            const b = label.getBoundingClientRect(), p = plot.getBoundingClientRect();
            return [b.left - p.left, b.top - p.top, b.right - p.left, b.bottom - p.top, p.width];
        }};
        return plots.map(plot => [...plot.querySelectorAll('.label, .label-box')].map(label => box(label, plot)));
    """)
    assert len(boxes) in (2, 3)
    for plot in boxes:
        assert len(plot) == 11
        assert all(left >= 0 and right <= width for left, _, right, _, width in plot)
        for a, b in combinations(plot, 2):
            assert min(a[2], b[2]) - max(a[0], b[0]) < 1 or min(a[3], b[3]) - max(a[1], b[1]) < 3


@pytest.mark.parametrize("width", [360, 1200])
def test_names_fit_into_the_labels_of_the_cost_plot(open_page, width):
    browser = open_page("eleven", width)
    outside = browser.execute_script("""
        const boxes = [...document.querySelectorAll('#cost .label-box')].filter(box => box.checkVisibility());
        const over = box => {
            const t = box.getBoundingClientRect(), name = box.parentNode.querySelector('text').getBoundingClientRect();
            return [name.right - t.right, t.left - name.left];
        };
        return boxes.map(over);
    """)
    assert len(outside) in (11, 22)
    assert all(right < 1 and left < 0 for right, left in outside)


def test_the_switch_works_without_javascript(browser, pages):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages["ordinary"])
        assert not find(browser, "#theme")[0].is_displayed()
        assert find(browser, "thead button") == []
        find(browser, "#images .switch input")[1].click()
        visible = [image.get_attribute("alt") for image in find(browser, ".panels img") if image.is_displayed()]
        assert len(visible) == 2
        assert all("nearest" in alt for alt in visible)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
