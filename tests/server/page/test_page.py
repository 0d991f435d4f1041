"""The page in a real Chromium, over a real server of the shipped models: one browser for all."""

import base64
import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.process import ROOT
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.policy import (
    Policy,
    Spend,
    limit_reason,
    policy_at,
    policy_of_threshold,
    runs_head,
    stop_reason,
)
from server.page.routes import DIRECTORY
from tests.conftest import Serve
from tests.server.page.browser import PATIENCE_MS, chromium, find_chromium, opened

NAME, TEXTS, KEY = "cifar100-msdnet", "clinc150-text", "a-long-random-key"
EXAMPLES = sorted((DIRECTORY / "examples").glob("*.png"))
PNG = {"content-type": "image/png"}
BUDGETS = ((1e9, 1e9), (0.01, 1e9), (1e9, 0.01), (3.0, 1e9), (6.0, 40.0), (1e9, 30.0))
"""Milliseconds and millijoules: enough, too little of either, and some of each."""
THRESHOLDS = (0.0, 0.5, 0.9, 1.0)
RULE = "async () => { globalThis.rule = await import(`${location.origin}/page/page.js`); }"
WALK = """([policies, confidences, costs, budgets]) => policies.map((policy) => budgets.map(
    ([latency, energy]) => rule.walk(policy, confidences, costs, { latency, energy })))"""
DROP = """(bytes) => {
    const transfer = new DataTransfer();
    const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([content], "dropped.png", { type: "image/png" }));
    document.querySelector("#drop").dispatchEvent(
        new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
Cost = dict[str, float]
Costs = dict[str, list[Cost]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if (path := find_chromium()) is None:
        pytest.skip("there is no Chromium; apt-get install chromium, or CHROMIUM names one")
    expect.set_options(timeout=PATIENCE_MS)
    with chromium(path) as started:  # not longer than this module: its event loop is this thread's
        yield started


@pytest.fixture
def tab(browser: Browser, shipped: str) -> Iterator[Page]:
    with opened(browser, shipped) as (page, complaints):
        expect(page.locator("#exits li")).to_have_count(7)
        yield page
        assert complaints == []


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(ROOT / "models/zoo" / NAME / "7")


def curl(url: str, image: bytes, **parameters: object) -> dict[str, Any]:
    query = {"model": NAME} | parameters
    said: dict[str, Any] = httpx.post(
        f"{url}/v1/classify", params={k: str(v) for k, v in query.items()}, content=image,
        headers=PNG,
    ).json()  # fmt: skip
    return said


def expect_answer(tab: Page, answer: dict[str, Any]) -> None:
    """The page comes to say what a server's answer says."""
    expect_run(tab)
    expect(tab.locator("#verdict .label")).to_have_text(answer["label"].replace("_", " "))
    expect(tab.locator("#verdict .sign")).to_have_text(f"EXIT {answer['exit']}")
    reason = f"of {answer['num_exits']} · {answer['stop_reason']}"
    expect(tab.locator("#verdict .reason")).to_have_text(reason)


def expect_run(tab: Page) -> None:
    """The run is over, and every exit has answered."""
    expect(tab.locator("#exits-note")).to_contain_text("One run")


def set_slider(tab: Page, name: str, value: float) -> None:
    tab.get_by_label(name, exact=True).fill(str(value))


def events(url: str, image: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a full run's stream says: every exit event, and the final one."""
    headers = PNG | {"accept": "text/event-stream"}
    query = {"model": NAME, "threshold": "1", "trace": "true"}
    text = httpx.post(f"{url}/v1/classify", params=query, content=image, headers=headers).text
    *said, final = [json.loads(data) for data in re.findall(r"data: (.*)\n", text)]
    return said, final


def plus(one: Cost, other: Cost) -> Cost:
    return {kind: one[kind] + other[kind] for kind in one}


class Stop(NamedTuple):
    """What the page's `walk` gives, of that what both say."""

    exit: int
    reason: str
    heads: list[int]
    spent: Cost


def walk(
    policy: Policy, confidences: list[float], costs: Costs, budget: tuple[float, float]
) -> Stop:
    """The server's own stop rule, over one run's costs."""
    spent, heads = {"latency": 0.0, "energy": 0.0, "macs": 0.0}, list[int]()
    for exit in range(1, policy.num_exits + 1):
        spent = plus(spent, costs["segments"][exit - 1])
        with_head, nxt = plus(spent, costs["heads"][exit - 1]), costs["next"][exit]
        left = Spend(budget[0] - with_head["latency"], budget[1] - with_head["energy"])
        limit = limit_reason(policy, exit, left, Spend(nxt["latency"], nxt["energy"]))
        if not runs_head(policy, exit, limit):
            continue
        spent = with_head
        heads.append(exit)
        if reason := stop_reason(policy, exit, confidences[exit - 1], limit):
            return Stop(exit, reason.value, heads, spent)
    raise AssertionError("the last exit answers")


def test_a_dropped_image_is_answered_as_by_curl(tab: Page, shipped: str) -> None:
    image = (ROOT / "examples/otter.png").read_bytes()
    tab.evaluate(DROP, base64.b64encode(image).decode())
    answer = curl(shipped, image)
    expect_answer(tab, answer)
    sure = f"{100 * answer['top_k'][0]['probability']:.0f}"
    expect(tab.locator("#verdict .others")).to_contain_text(f"Probabilities: otter {sure}")
    tab.get_by_role("button", name="Ask the server at this setting").click()
    expect(tab.locator("#asked")).to_contain_text("✓ The server says")
    asked = json.loads(tab.locator("#asked").get_attribute("data-answer") or "")
    for same in ("label", "index", "confidence", "exit", "stop_reason"):
        assert asked[same] == answer[same]
    assert asked["cost"]["macs"] == answer["cost"]["macs"]
    command = tab.inner_text("#curl")
    assert "operating_point=balanced" in command
    assert f"{shipped}/v1/classify?model={NAME}" in command


def test_every_setting_is_what_the_server_says_at_it(tab: Page, shipped: str) -> None:
    image = (DIRECTORY / "examples/poppy.png").read_bytes()
    tab.get_by_role("button", name="poppy").click()
    for point in ("fast", "balanced", "accurate", "certified"):
        tab.get_by_role("radio", name=point).check()
        expect_answer(tab, curl(shipped, image, operating_point=point))
    tab.get_by_role("radio", name="own threshold").check()
    for threshold in (0.3, 0.7):
        set_slider(tab, "Threshold", threshold)
        expect_answer(tab, curl(shipped, image, threshold=threshold))


def test_budgets_cut_the_answer_short_at_once(tab: Page, shipped: str) -> None:
    image = (DIRECTORY / "examples/cloud.png").read_bytes()
    tab.get_by_role("button", name="cloud").click()
    unlimited, note = curl(shipped, image), tab.locator("#trade-note")
    expect_answer(tab, unlimited)
    expect(note).to_contain_text("calibration rows")
    said = note.inner_text()
    for slider, parameter, reason in (
        ("Latency budget", "latency_budget_ms", "deadline"),
        ("Energy budget", "energy_budget_mj", "energy"),
    ):
        set_slider(tab, slider, 0)
        answer = curl(shipped, image, **{parameter: 0.1})
        assert answer["stop_reason"] == reason
        expect_answer(tab, answer)
        expect(tab.locator("#verdict .why")).to_contain_text(slider.lower())
        expect(note).not_to_have_text(said)
        tab.get_by_role("button", name="Reset").click()
        expect_answer(tab, unlimited)
        expect(note).to_have_text(said)


def test_the_rule_in_the_page_is_the_servers(tab: Page, shipped: str, bundle: Bundle) -> None:
    points = bundle.calibration.operating_points.values()
    policies = [policy_at(point) for point in points]
    policies += [policy_of_threshold(threshold, 7) for threshold in THRESHOLDS]
    infos = [json.loads(point.model_dump_json()) for point in points]
    tab.evaluate(RULE)
    made = tab.evaluate("(points) => points.map(rule.policyAt)", infos)
    made += tab.evaluate("(all) => all.map((one) => rule.policyOfThreshold(one, 7))", THRESHOLDS)
    assert [tuple(policy) for policy in made] == [policy.thresholds for policy in policies]
    version = httpx.get(f"{shipped}/v1/models/{NAME}").json()["versions"][0]
    num_compared = 0
    for path in EXAMPLES:
        said, final = events(shipped, path.read_bytes())
        costs = tab.evaluate("(given) => rule.measuredCosts(...given)", [version, said, final])
        confidences = [event["confidence"] for event in said]
        stops = tab.evaluate(WALK, [made, confidences, costs, BUDGETS])
        for policy, of_policy in zip(policies, stops, strict=True):
            for budget, stop in zip(BUDGETS, of_policy, strict=True):
                expected = walk(policy, confidences, costs, budget)
                assert {name: stop[name] for name in Stop._fields} == expected._asdict()
                num_compared += 1
        whole = walk(policies[-1], confidences, costs, BUDGETS[0]).spent
        assert whole["macs"] == final["cost"]["macs"]
        assert whole["latency"] == pytest.approx(said[-1]["at_ms"])
        assert whole["energy"] == pytest.approx(final["cost"]["energy_mj"])
    assert num_compared == len(EXAMPLES) * (4 + len(THRESHOLDS)) * len(BUDGETS)


def test_settings_are_replayed_on_the_calibration_rows(
    tab: Page, shipped: str, bundle: Bundle
) -> None:
    tab.evaluate(RULE)
    point, rows = bundle.calibration.operating_points["balanced"], bundle.calibration.rows
    version = httpx.get(f"{shipped}/v1/models/{NAME}").json()["versions"][0]
    info = httpx.get(f"{shipped}/v1/models/{NAME}/calibration").json()
    script = """([version, info]) => {
        const rows = rule.decodedCalibration(info), costs = rule.expectedCosts(version);
        const none = { latency: Infinity, energy: Infinity };
        const policy = rule.policyAt(version.operating_points.balanced);
        const points = Object.values(version.operating_points);
        const means = points.map((point) => rule.meanMacs(point, costs));
        return { costs, means, ...rule.replayed(rows, policy, costs, none) };
    }"""
    replay = tab.evaluate(script, [version, info])
    assert rows is not None
    confidences, is_right = rows.arrays(7)
    stops = [
        walk(policy_at(point), row.tolist(), replay["costs"], (1e9, 1e9)) for row in confidences
    ]
    exits = [stop.exit for stop in stops]
    right = [bool(row[exit - 1]) for row, exit in zip(is_right, exits, strict=True)]
    assert replay["accuracy"] == pytest.approx(sum(right) / len(right))
    shares = [exits.count(exit) / len(exits) for exit in range(1, 8)]
    assert replay["shares"] == pytest.approx(shares)
    assert replay["shares"] == pytest.approx(point.exit_shares, abs=0.002)
    assert replay["macs"] == pytest.approx(point.mean_macs, rel=0.002)
    known = [point.mean_macs for point in bundle.calibration.operating_points.values()]
    assert replay["means"] == pytest.approx(known)


def test_exits_appear_one_after_the_other(browser: Browser, shipped: str) -> None:
    with opened(browser, shipped, is_slowed=True) as (tab, complaints):
        tab.evaluate(
            """() => {
            globalThis.seen = [];
            const count = () => document.querySelectorAll("#exits li:not(.waiting)").length;
            new MutationObserver(() => { if (seen.at(-1) !== count()) seen.push(count()); })
                .observe(document.querySelector("#exits"), { attributes: true, subtree: true });
        }"""
        )
        tab.get_by_role("button", name="apple").click()
        expect_run(tab)
        seen = tab.evaluate("[...new Set(seen)].sort()")
        assert seen == list(range(8))
        assert "times slower" in tab.inner_text("#exits-note")
        assert complaints == []


def test_errors_say_what_is_wrong_and_what_to_do(
    browser: Browser, shipped: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(EXAMPLES[0].read_bytes()[:200])
    with opened(browser, shipped) as (tab, _):
        expect(tab.locator("#exits li")).to_have_count(7)
        tab.get_by_label("Choose an image").set_input_files(broken)
        alert = tab.locator("#run-error")
        expect(alert).to_contain_text("Bad Request")
        expect(tab.locator("#verdict .label")).to_have_text("No answer")
        tab.context.set_offline(True)
        tab.get_by_label("Choose an image").set_input_files(EXAMPLES[0])
        expect(alert).to_contain_text("The server cannot be reached.")
        tab.context.set_offline(False)
        alert.get_by_role("button", name="Try again").click()
        expect(tab.locator("#verdict .label")).to_have_text("apple")
        expect(alert).to_be_hidden()


def test_a_server_with_keys_asks_for_one_and_it_stays_in_the_tab(
    browser: Browser, serve: Serve, digits_zoo: Path
) -> None:
    hashed = sha256(KEY.encode()).hexdigest()
    with (
        serve(digits_zoo, api_key_hashes=hashed, profile_s=1) as server,
        opened(browser, server.url) as (tab, _),
    ):
        field, use = tab.get_by_label("API key"), tab.get_by_role("button", name="Use this key")
        field.fill("wrong")
        use.click()
        expect(tab.locator("#key-error")).to_have_text("This key is not one of the server's.")
        field.fill(KEY)
        use.click()
        expect(tab.locator("#exits li")).to_have_count(3)
        expect(tab.locator("#examples")).to_be_hidden()
        tab.get_by_label("Choose an image").set_input_files(ROOT / "examples/seven.png")
        expect_run(tab)
        tab.reload()
        expect(tab.locator("#exits li")).to_have_count(3)
        assert tab.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        assert KEY not in tab.content()


def test_another_version_and_the_live_numbers(tab: Page) -> None:
    tab.get_by_label("Model").select_option(label=f"{NAME} · version 6")
    tab.get_by_role("button", name="sunflower").press("Enter")
    expect(tab.locator("#verdict .label")).to_have_text("sunflower")
    assert "version=6" in tab.inner_text("#curl")
    expect(tab.locator("#p99")).to_contain_text("ms")
    shares = [int(share.split()[0]) for share in tab.locator("#shares .share").all_inner_texts()]
    assert len(shares) == 7
    assert abs(sum(shares) - 100) <= 4


def test_a_model_of_another_kind_shows_no_answer_of_the_one_before(
    browser: Browser, shipped: str
) -> None:
    version = httpx.get(f"{shipped}/v1/models/{TEXTS}").json()["versions"][0]["version"]
    with opened(browser, shipped, is_slowed=True) as (tab, complaints):
        tab.get_by_role("button", name="apple").click()
        expect(tab.locator("#exits li:not(.waiting)")).not_to_have_count(0)
        tab.get_by_label("Model").select_option(label=f"{TEXTS} · version {version}")
        tab.wait_for_timeout(1500)  # the first run would have ended by now
        expect(tab.locator("#verdict .label")).to_have_text("Nothing to look at yet")
        assert complaints == []


def test_texts_have_one_scale_of_macs(tab: Page, shipped: str) -> None:
    version = httpx.get(f"{shipped}/v1/models/{TEXTS}").json()["versions"][0]
    tab.get_by_label("Model").select_option(label=f"{TEXTS} · version {version['version']}")
    for note in ("#exits-note", "#trade-note"):
        expect(tab.locator(note)).to_contain_text("Every text counts as the longest.")
    exits, points = version["exits"], version["operating_points"]

    def share(exit: int, consulted: list[int]) -> float:
        """Of the whole network's MACs, what a run to an exit takes."""
        segments = [e["segment"]["macs"] for e in exits[:exit]]
        heads = [e["head"]["macs"] for e in exits[:exit] if e["exit"] in {*consulted, exit}]
        return float((sum(segments) + sum(heads)) / exits[-1]["macs"])

    def said(share: float) -> str:
        return f"{100 * share:.0f} %"

    column = tab.locator("#exits .macs").all_inner_texts()
    assert column == [said(share(e["exit"], [])) for e in exits]
    rows = tab.locator("#points-table tbody tr").all()
    for row, point in zip(rows, points.values(), strict=True):
        shares = enumerate(point["exit_shares"], start=1)
        mean = sum(part * share(exit, point["consulted"]) for exit, part in shares)
        expect(row.locator("td").nth(1)).to_have_text(said(mean))
    tab.locator("#text").fill("what is my balance")
    tab.locator("#text").press("Control+Enter")
    expect_run(tab)
    exit = int(tab.inner_text("#verdict .sign").split()[1])
    spent = share(exit, points["balanced"]["consulted"])
    expect(tab.locator("#facts dd").nth(2)).to_have_text(said(spent))


@pytest.mark.parametrize(("width", "is_phone"), [(390, True), (320, True), (1440, False)])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, shipped: str, width: int, is_phone: bool
) -> None:
    with opened(browser, shipped, width=width, is_phone=is_phone) as (tab, complaints):
        tab.get_by_role("button", name="road").click()
        expect_run(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        small = tab.evaluate(
            """[...document.querySelectorAll("main button, main .choices span")]
            .filter((each) => each.checkVisibility() && each.clientHeight < 32).length"""
        )
        assert small == 0
        assert complaints == []


def test_keys_alone_are_enough(tab: Page) -> None:
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    expect(tab.locator("#answer")).to_be_focused()
    tab.get_by_role("button", name="clock").focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("#verdict .label")).to_have_text("clock")
    tab.get_by_role("radio", name="balanced").focus()
    tab.keyboard.press("ArrowRight")
    expect(tab.get_by_role("radio", name="accurate")).to_be_checked()
    tab.get_by_label("Latency budget").focus()
    tab.keyboard.press("Home")
    expect(tab.get_by_label("Latency budget")).to_have_attribute("aria-valuetext", re.compile("ms"))
    expect(tab.locator("#verdict")).to_have_attribute("aria-live", "polite")
    unnamed = tab.evaluate(
        """[...document.querySelectorAll("input, select, textarea, button")].filter((each) =>
        !each.labels?.length && !each.ariaLabel && !each.textContent.trim()
        && !each.querySelector("img[alt]:not([alt=''])")).map((each) => each.outerHTML)"""
    )
    assert unnamed == []
