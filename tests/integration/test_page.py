# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, served by ``lazy-engine serve``: what is clicked becomes a fact in the store.

With ``LAZY_ENGINE_TEST_PICTURES`` naming a directory, pictures of each view are left there to be looked at.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from taskflow import states

from lazy_engine import DELAYED, Client, incident, ledger
from lazy_engine.http import Limits, make_app
from lazy_engine.http.server import Server
from tests.integration import page_flows
from tests.integration.browser import Browser
from tests.integration.parked import opened
from tests.integration.test_serve import running
from tests.integration.web import Web
from tests.servers import Chromium
from tests.waiting import wait_until

KEY = "operators-key-0123456789"
READ_KEY = "readers-key-0123456789"
BUTTONS = ["Suspend…", "Resume…", "Cancel…", "Answer…", "Fail…", "Token…"]
VIEWS = ("#/", "#/waits", "#/waits?order=due", "#/flows", "#/flow/{release}", "#/flow/{large}")
PICTURES = os.environ.get("LAZY_ENGINE_TEST_PICTURES")


class World:
    """A store with flows in it, and the address of the process that serves it."""

    def __init__(self, store: Any, url: str) -> None:
        self.client = Client(store)
        self.ledger = ledger.beside(store)
        self.url = url

    def park(self, factory: Callable[[], Any], **values: Any) -> str:
        flow_uuid = self.client.submit(factory, store=values)
        assert self.client.resume(flow_uuid) == DELAYED
        return flow_uuid

    def state(self, flow_uuid: str) -> str:
        return str(self.client.flow(flow_uuid).state)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with Chromium() as chromium:
        driver = chromium.open()
        try:
            yield driver
        finally:
            driver.quit()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = f"sqlite:///{tmp_path_factory.mktemp('page') / 'lazy.sqlite'}"
    words = ("serve", "--port", "0", "--resume", "--verbose")
    with opened(url) as store, running(url, *words, LAZY_ENGINE_HTTP_API_KEY=KEY) as serve:
        yield World(store, serve.started["url"])


@pytest.fixture(scope="module")
def parked(world: World) -> dict[str, str]:
    """Flows that nobody touches, by name."""
    return {
        "payment": world.park(page_flows.overdue),
        "release": world.park(page_flows.release, size=3, password="hunter2"),
        "evil": world.park(page_flows.evil),
        "evil failure": world.park(page_flows.evil_failure),
        "large": world.park(page_flows.large),
    }


@pytest.fixture
def browser(driver: Any, world: World) -> Iterator[Browser]:
    made = Browser(driver, world.url)
    made.look()
    made.open()
    made.leave()
    made.errors()  # of others
    yield made
    made.look()
    assert made.errors() == []
    made.leave()


def shoot(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.shoot(pathlib.Path(PICTURES, f"{name}.png"))


# -- the key ---------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_shown(browser: Browser, parked: dict[str, str]) -> None:
    browser.open(f"#/flow/{parked['release']}")
    browser.shows("Operator’s key")
    assert "release" not in browser.text()
    browser.find("#key").send_keys("not-the-key-of-this-server\n")
    browser.shows("This key is not one of the server’s.")
    assert browser.storage()["session"] == {}
    assert any("401" in message for message in browser.errors())
    shoot(browser, "key")


def test_key_is_kept_in_the_tab_and_nowhere_else(browser: Browser, parked: dict[str, str]) -> None:
    browser.open("#/flows")
    browser.find("#key").send_keys(f"{KEY}\n")
    browser.shows("payment")
    found = browser.storage()
    assert found["session"] == {"lazy_engine.key": KEY}
    assert (found["local"], found["cookies"]) == ({}, "")
    assert KEY not in found["address"] + "".join(browser.requests())
    browser.click("Forget key")
    browser.shows("Operator’s key")
    assert browser.storage()["session"] == {}
    assert "payment" not in browser.text()


# -- what is seen ----------------------------------------------------------------------------------


def test_first_view_tells_what_waits_since_when_on_whom_and_what_went_wrong(
    browser: Browser, world: World, parked: dict[str, str]
) -> None:
    broken = world.park(page_flows.approval)
    # Of a kind that is left for a person.
    world.ledger.note_incident(broken, incident.NO_FACTORY, f"nobody {page_flows.EVIL}")
    browser.come_in(KEY)
    browser.shows("1 incident", "nobody <script>", "who: release manager, why: security", "overdue")
    text = browser.text("main")
    assert text.index("What went wrong") < text.index("Flows by state") < text.index("What waits")
    assert browser.driver.title.startswith("(1) ")
    shoot(browser, "now")
    # Mended while somebody looks.
    world.client.cancel(broken, "off")
    assert world.client.resume(broken) == states.REVERTED
    browser.shows("no incidents")


def test_new_incident_is_said_aloud(browser: Browser, world: World) -> None:
    flow_uuid = world.park(page_flows.approval)
    browser.come_in(KEY, "#/flows")
    browser.shows(flow_uuid)
    # Until it has counted incidents, which its title tells, none is new to it.
    wait_until(lambda: "–" in browser.driver.title)
    world.ledger.note_incident(flow_uuid, incident.NO_FACTORY, "odd")
    browser.shows("A new incident", selector="[role=status]")
    world.client.cancel(flow_uuid, "off")
    assert world.client.resume(flow_uuid) == states.REVERTED


def test_waits_are_filtered_by_the_server(browser: Browser, parked: dict[str, str]) -> None:
    browser.come_in(KEY, "#/waits")
    browser.find("input[name=search]").send_keys("confirm 5\n")
    browser.shows("confirm 5", "confirm 50")
    wait_until(lambda: "security" not in browser.text(".results"))
    browser.open("#/waits?overdue=true")
    browser.shows("charge", "the bank", selector=".results")
    assert "confirm" not in browser.text(".results")
    browser.open("#/waits?order=due")
    browser.shows("soonest due first", "Next page")
    assert len(browser.driver.find_elements("css selector", "#delays tbody tr")) == 50
    browser.find("nav[aria-label=Pages] a").click()
    browser.shows("First page")


def test_picture_shows_every_task_with_its_state(browser: Browser, parked: dict[str, str]) -> None:
    browser.come_in(KEY, f"#/flow/{parked['large']}")
    browser.shows("99 tasks", "confirm 98")
    drawn = browser.run("return [...document.querySelectorAll('g.node')].map((g) => g.textContent)")
    assert len(drawn) == 200
    assert len(browser.driver.find_elements("css selector", "#tasks tbody tr")) == 200
    words = {text.split(": ")[1].split("confirm")[0] for text in drawn if "confirm 7:" in text}
    assert all(word.startswith("waiting") for word in words)
    assert any("end: not begun" in text for text in drawn)
    assert any("begin: done" in text for text in drawn)
    name = browser.run("return document.querySelector('svg desc').textContent")
    assert name.startswith("200 tasks: 1 not begun, 99 waiting, 100 done")
    # By a click on a task one comes to its row.
    browser.run("document.querySelector('g.node').dispatchEvent(new MouseEvent('click'))")
    assert browser.run("return document.activeElement.className") == "chosen"
    shoot(browser, "large")
    browser.look(360, 740)
    assert browser.overflow() <= 0


def test_arguments_are_masked(browser: Browser, parked: dict[str, str]) -> None:
    browser.come_in(KEY, f"#/flow/{parked['release']}")
    browser.shows("password = •••", "text of 7 characters", "image of 3")
    assert "hunter2" not in browser.driver.page_source
    shoot(browser, "release")


def test_flow_that_reverts_shows_what_failed_and_what_it_waits_for(
    browser: Browser, parked: dict[str, str]
) -> None:
    browser.come_in(KEY, f"#/flow/{parked['evil failure']}")
    browser.shows("delete the volume", "had failed", "RuntimeError", "revert, attempt 1")
    shoot(browser, "reverting")


def test_nothing_that_a_stranger_wrote_is_run(browser: Browser, parked: dict[str, str]) -> None:
    browser.come_in(KEY)
    for view in ("#/", "#/waits", "#/flows", f"#/flow/{parked['evil']}"):
        browser.open(view)
        browser.shows("<script>window.pwned=1</script>", selector="main")
    browser.open(f"#/flow/{parked['evil failure']}")
    browser.shows("<img src=x onerror=window.pwned=1>", selector="main")
    assert browser.run("return window.pwned") is None
    assert browser.run("return document.querySelectorAll('main script, main img').length") == 0
    # Nor would it be if it came into the page: the policy and Trusted Types forbid it.
    refused = browser.run(
        "try { document.body.innerHTML = arguments[0] } catch (error) { return error.name }",
        page_flows.EVIL,
    )
    assert refused == "TypeError"
    assert browser.run("return window.pwned") is None
    assert browser.errors() != []  # it says so


def test_nothing_is_asked_of_anybody_else(
    browser: Browser, world: World, parked: dict[str, str]
) -> None:
    browser.come_in(KEY)
    for view in VIEWS:
        browser.open(view.format(**parked))
        wait_until(lambda: browser.state == "live")
    found = browser.requests()
    assert found
    assert {address.startswith(f"{world.url}/") for address in found} == {True}
    script = """
    const done = arguments[0];
    fetch("http://127.0.0.2:9/").then(() => done("asked"), (error) => done(error.name));
    """
    assert browser.driver.execute_async_script(script) == "TypeError"
    assert "Content Security Policy" in "".join(browser.errors())


# -- what is done ----------------------------------------------------------------------------------


def test_answer_by_hand_ends_the_flow_before_ones_eyes(browser: Browser, world: World) -> None:
    flow_uuid = world.park(page_flows.approval)
    browser.come_in(KEY, f"#/flow/{flow_uuid}")
    browser.click("Answer… approve")
    browser.fill("Result, as JSON", "{approved")
    browser.click("Record this result", "dialog")
    browser.shows("The result is not JSON", selector="dialog")
    (delay,) = world.client.delays(flow_uuid=flow_uuid)
    shoot(browser, "answer")
    browser.find("dialog textarea").clear()
    browser.fill("Result, as JSON", '{"approved": true, "ticket": 12345678901234567890}')
    browser.click("Record this result", "dialog")
    wait_until(browser.is_closed)
    browser.shows("Recorded. The flow is being woken.", selector="[role=status]")
    browser.shows("SUCCESS", "The flow is over", selector="#flow-head")
    (record,) = world.ledger.delays_of(flow_uuid)
    assert record.absorbed_at is not None
    assert record.key.delay_id == delay.id
    found = world.client.flow(flow_uuid).results["approve"]
    assert found == {"approved": True, "ticket": 12345678901234567890}


def test_failure_by_hand_reverts_the_flow(browser: Browser, world: World) -> None:
    flow_uuid = world.park(page_flows.approval)
    browser.come_in(KEY, f"#/flow/{flow_uuid}")
    browser.click("Fail… approve")
    browser.click("Record this failure", "dialog")
    browser.shows("What went wrong is needed.", selector="dialog")
    assert world.state(flow_uuid) == DELAYED
    browser.fill("What went wrong", "not today")
    browser.fill("Kind", "Refused")
    browser.click("Record this failure", "dialog")
    browser.shows("REVERTED", selector="#flow-head")
    browser.shows("not today", "had failed", selector="#flow-tasks")
    assert world.state(flow_uuid) == states.REVERTED
    (record,) = world.ledger.delays_of(flow_uuid)
    assert '"kind":"Refused"' in str(record.outcome and record.outcome.body)


def test_flow_is_suspended_resumed_and_cancelled_by_hand(browser: Browser, world: World) -> None:
    flow_uuid = world.park(page_flows.approval)
    browser.come_in(KEY, f"#/flow/{flow_uuid}")
    browser.click("Suspend…")
    browser.fill("Reason, for others to read", "audit")
    browser.click("Suspend the flow", "dialog")
    browser.shows("SUSPENDED", "audit", selector="#flow-head")
    assert world.state(flow_uuid) == states.SUSPENDED
    browser.click("Resume…")
    browser.click("Resume the flow", "dialog")
    browser.shows("DELAYED", selector="#flow-head")
    wait_until(lambda: world.state(flow_uuid) == DELAYED)
    browser.click("Cancel…")
    # Asked first: whoever goes back has done nothing.
    browser.click("Back", "dialog")
    assert world.state(flow_uuid) == DELAYED
    browser.click("Cancel…")
    browser.fill("Reason, for others to read", "no more")
    browser.click("Cancel the flow and revert it", "dialog")
    browser.shows("REVERTED", "no more", selector="#flow-head")
    assert world.state(flow_uuid) == states.REVERTED


def test_token_is_shown_to_whoever_asks_for_it_and_to_nobody_else(
    browser: Browser, world: World
) -> None:
    flow_uuid = world.park(page_flows.approval)
    token = world.client.token(flow_uuid, "approve")
    browser.come_in(KEY, f"#/flow/{flow_uuid}")
    browser.shows("why: approve")
    assert token not in browser.driver.page_source
    browser.click("Token… approve")
    assert browser.run("return document.querySelector('#token')") is None
    browser.click("Show the token", "dialog")
    shown = browser.find("#token")
    assert (shown.get_attribute("value") == token) is True
    browser.click("Close", "dialog")
    wait_until(browser.is_closed)  # its event comes a moment after the click
    world.client.cancel(flow_uuid, "off")


def test_answer_that_came_before_is_not_overwritten(browser: Browser, world: World) -> None:
    flow_uuid = world.park(page_flows.approval)
    browser.come_in(KEY, f"#/flow/{flow_uuid}")
    browser.click("Answer… approve")
    world.client.complete(world.client.token(flow_uuid, "approve"), "first")
    browser.fill("Result, as JSON", '"second"')
    browser.click("Record this result", "dialog")
    browser.shows("does not wait any more", selector="dialog [role=alert]")
    assert any("404" in message for message in browser.errors())
    assert world.client.resume(flow_uuid) == states.SUCCESS
    assert world.client.flow(flow_uuid).results["approve"] == "first"


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast_and_fits_on_a_phone(
    browser: Browser, parked: dict[str, str], is_dark: bool
) -> None:
    browser.come_in(KEY)
    for number, view in enumerate(
        ("#/", "#/waits", "#/flows", "#/flow/{release}", "#/flow/{evil failure}")
    ):
        browser.look(is_dark=is_dark)
        browser.open(view.format_map(parked))
        wait_until(lambda: browser.state == "live" and "Asking…" not in browser.text())
        for width in (1280, 390, 320):
            browser.look(width, 800, is_dark=is_dark)
            assert browser.overflow() <= 0, (view, width)
            if width != 320:
                assert browser.faint_texts() == [], (view, width)
            shoot(browser, f"{'dark' if is_dark else 'light'}-{width}-{number}")


def test_page_can_be_used_with_the_keyboard_alone(browser: Browser, world: World) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    flow_uuid = world.park(page_flows.approval)
    browser.come_in(KEY, f"#/flow/{flow_uuid}")
    browser.button("Answer… approve")

    def press(*keys: str) -> None:
        ActionChains(browser.driver).send_keys(*keys).perform()

    def focused() -> str:
        script = "const e = document.activeElement; return e.ariaLabel || e.textContent || e.name"
        return str(browser.run(script))

    press(Keys.TAB)
    assert focused() == "Skip to content"
    for _ in range(30):
        press(Keys.TAB)
        if focused() == "Answer… approve":
            break
    # What comes in meanwhile takes the focus from nobody.
    world.client.heartbeat(world.client.token(flow_uuid, "approve"), progress=0.25)
    browser.shows("25 % done")
    assert focused() == "Answer… approve"
    press(Keys.ENTER)
    browser.find("dialog[open]")
    press(Keys.ESCAPE)
    wait_until(browser.is_closed)
    assert focused() == "Answer… approve"
    press(Keys.ENTER)
    browser.find("dialog[open]")
    assert browser.run("return document.activeElement.closest('dialog') !== null")
    press("true", Keys.TAB, Keys.ENTER)
    browser.shows("SUCCESS", selector="#flow-head")
    assert world.client.flow(flow_uuid).results["approve"] is True


def test_assistive_software_is_told_all(browser: Browser, parked: dict[str, str]) -> None:
    browser.come_in(KEY)
    for view in VIEWS[:-1]:
        browser.open(view.format(**parked))
        wait_until(lambda: browser.state == "live" and "Asking…" not in browser.text())
        for width in (390, 1280):
            browser.look(width, 800)
            found = browser.accessible()
            nameless = [
                node
                for node in found
                if node["role"]
                in (
                    "button",
                    "link",
                    "textbox",
                    "searchbox",
                    "combobox",
                    "checkbox",
                    "table",
                    "image",
                    "navigation",
                    "dialog",
                    "region",
                )
                and not node["name"]
            ]
            assert nameless == [], (view, width)
            roles = [node["role"] for node in found]
            assert roles.count("main") == 1
            assert "heading" in roles
            # Also where a row is laid out as a card.
            assert {"table", "columnheader", "rowheader", "cell"} <= set(roles), (view, width)
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return document.querySelectorAll('h1').length") == 1


def test_key_for_looking_only_gets_no_buttons(driver: Any, tmp_path: pathlib.Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        client = Client(store)
        flow_uuid = client.submit(page_flows.approval)
        client.resume(flow_uuid)
        with Server(make_app(client, api_keys=[KEY], read_keys=[READ_KEY])) as server:
            browser = Browser(driver, server.url)
            browser.open(f"#/flow/{flow_uuid}")
            # The same tab with one key and then with the other, without being loaded anew.
            for key, wanted in ((READ_KEY, []), (KEY, BUTTONS), (READ_KEY, [])):
                browser.find("#key").send_keys(f"{key}\n")
                browser.shows("why: approve", selector="#flow-tasks")
                found = browser.run(
                    "return [...document.querySelectorAll('main button')].map((e) => e.textContent)"
                )
                assert found == wanted
                assert ("for looking only" in browser.text("#flow-head")) is (key == READ_KEY)
                shoot(browser, f"{len(wanted)} buttons")
                browser.click("Forget key")
            browser.leave()


def test_what_a_key_may_not_do_any_more_is_refused(driver: Any, tmp_path: pathlib.Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        client = Client(store)
        flow_uuid = client.submit(page_flows.approval)
        client.resume(flow_uuid)
        with Server(make_app(client, api_keys=[KEY])) as server:
            browser = Browser(driver, server.url)
            browser.come_in(KEY, f"#/flow/{flow_uuid}")
            browser.click("Answer… approve")
            browser.fill("Result, as JSON", "true")
            port = int(server.url.rpartition(":")[2])
        with Server(make_app(client, read_keys=[KEY]), port=port):
            browser.click("Record this result", "dialog")
            browser.shows("for looking only; nothing was done", selector="dialog [role=alert]")
            assert len(client.delays(flow_uuid=flow_uuid)) == 1
            browser.leave()


# -- when little works ------------------------------------------------------------------------------


def test_where_no_more_may_listen_the_page_asks_instead(
    driver: Any, tmp_path: pathlib.Path
) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        client = Client(store)
        client.resume(client.submit(page_flows.approval))
        app = make_app(client, api_keys=[KEY], limits=Limits(listeners=0))
        with Server(app) as server:
            browser = Browser(driver, server.url)
            browser.come_in(KEY, state="slow")
            browser.shows("why: approve", "Updated every 15 s")
            browser.leave()


def test_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(
    driver: Any, tmp_path: pathlib.Path
) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        client = Client(store)
        app = make_app(client, api_keys=[KEY])
        with Server(app) as server:
            browser = Browser(driver, server.url)
            browser.come_in(KEY)
            port = int(server.url.rpartition(":")[2])
        browser.shows("No connection; trying again")
        client.resume(client.submit(page_flows.approval))
        with Server(app, port=port):
            browser.shows("why: approve")
            assert browser.state == "live"
            browser.leave()


# -- very little, and very much --------------------------------------------------------------------


def test_empty_store_says_so(driver: Any, tmp_path: pathlib.Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        app = make_app(Client(store), api_keys=[KEY])
        with Server(app) as server:
            browser = Browser(driver, server.url)
            browser.come_in(KEY)
            browser.shows("There are no flows here yet.", "Nothing waits.")
            shoot(browser, "empty")
            browser.open("#/flows")
            browser.shows("There is no such flow.")
            browser.open("#/flow/none")
            browser.shows("no flow none in this store")
            browser.leave()


def test_ten_thousand_flows_are_shown_a_page_at_a_time(driver: Any, tmp_path: pathlib.Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'lazy.sqlite'}") as store:
        fill(store, 10_050)
        app = make_app(Client(store), api_keys=[KEY])
        with Server(app) as server:
            browser = Browser(driver, server.url)
            browser.come_in(KEY)
            browser.shows("10,000 or more tasks wait", "10,000+")
            shoot(browser, "many")
            browser.open("#/flows")
            browser.shows("Next page")
            assert len(browser.driver.find_elements("css selector", "#flows tbody tr")) == 50
            # None of it takes long: one look for all, and lists by their indexes.
            web = Web(server.url, Authorization=f"Bearer {KEY}")
            assert web.get("/v1/summary").document["states"] == {DELAYED: 10_000}
            browser.open("#/waits?order=due")
            browser.shows("Next page")
            browser.leave()


_INSTANTS = ("created_at", "changed_at", "opened_at", "waiting_at", "timeout_at", "due_at")


def fill(store: Any, count: int) -> None:
    """Fill a store with flows that wait, made after the first."""
    client = Client(store)
    client.resume(client.submit(page_flows.approval))
    book = ledger.beside(store)
    tables = book._tables  # type: ignore[attr-defined]
    numbers = sa.select(sa.literal(1).label("number")).cte(recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.number + 1).where(numbers.c.number < count))
    with book._transactor.engine.begin() as connection:  # type: ignore[attr-defined]
        for table in (tables.flows, tables.delays):
            others = [column for column in table.c if column is not table.c.flow_uuid]
            made = [
                # No two of them at the same instant.
                column + numbers.c.number if column.name in _INSTANTS else column
                for column in others
            ]
            name = sa.func.printf("00000000-0000-4000-8000-%012d", numbers.c.number)
            rows = sa.select(name, *made).select_from(table.join(numbers, sa.true()))
            connection.execute(sa.insert(table).from_select([table.c.flow_uuid, *others], rows))
