"""The chat page: what it shows of the engine is of one moment, it loads nothing, and a browser can use it."""

import asyncio
import json
import re
from itertools import product
from types import SimpleNamespace

import pytest
from tests.engine.small_model import engine_with, random_model

from aiinfra.engine import SamplingParams
from aiinfra.engine.engine import Engine
from aiinfra.lab.local_server import LocalServer
from aiinfra.serve.chat_page import FRESH_SECONDS, MOST_BLOCKS_DRAWN, StateView, chat_page, engine_state

def small_engine(blocks: int = 12) -> Engine:
    return engine_with(random_model(), blocks, max_running=2)


def greedy(tokens: int = 8) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def blocks_of(state: dict, who: object) -> int:
    return sum(count for owner, count in state["blocks"]["map"] if owner == who)


def test_the_map_adds_up_in_every_step():
    engine = small_engine()
    for name, prompt in {"a": [1] * 9, "b": [1] * 10, "c": [2] * 5}.items():
        engine.add(name, prompt, greedy())
    shared = 0
    while True:
        state = engine_state(engine)
        blocks = state["blocks"]
        assert sum(count for _, count in blocks["map"]) == blocks["total"] == 12
        assert (blocks_of(state, "free"), blocks_of(state, "cached")) == (blocks["free"], blocks["cached"])
        assert blocks["free"] + blocks["cached"] + blocks["used"] == blocks["total"]
        assert len(state["requests"]) == state["running"] + state["waiting"]
        shared = max(shared, blocks_of(state, "shared"))
        json.dumps(state)
        if not engine.unfinished:
            break
        engine.step()
    assert state["requests"] == [] and blocks["used"] == 0 and blocks["cached"] > 0
    assert shared == 0                        # both were read in one step: nobody found the other's


def test_who_shares_and_who_waits_is_told():
    engine = small_engine()
    engine.add("a", [1] * 9, greedy())
    engine.step()
    for name in "bc":
        engine.add(name, [1] * 9, greedy())
    engine.step()
    state = engine_state(engine)
    assert blocks_of(state, "shared") == 2
    told = [(request["name"], request["state"], request["made"]) for request in state["requests"]]
    assert told == [("a", "running", 2), ("b", "running", 1), ("c", "waiting", 0)]


def test_too_many_blocks_are_told_by_count_alone():
    state = engine_state(small_engine(blocks=MOST_BLOCKS_DRAWN + 1))
    assert state["blocks"]["map"] is None and state["blocks"]["free"] == MOST_BLOCKS_DRAWN + 1


def test_many_viewers_cost_no_more_than_one():
    engine, looks = small_engine(), []

    async def between_steps(function):
        looks.append(function)
        await asyncio.sleep(0)
        return function()
    thread = SimpleNamespace(llm=SimpleNamespace(engine=engine), state="ready", between_steps=between_steps)

    async def look() -> list[dict]:
        view = StateView(thread)
        found = await asyncio.gather(*(view.read() for _ in range(50)))
        await asyncio.sleep(2 * FRESH_SECONDS)
        thread.state = "stopped"              # nobody would answer a letter
        return [*found, await view.read()]
    *found, last = asyncio.run(look())
    assert len(looks) == 1 and found == 50 * [found[0]]
    assert (found[0]["state"], last["state"]) == ("ready", "stopped")


def test_nothing_is_loaded_from_elsewhere():
    html, headers = chat_page()
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(", html)
    assert re.findall(r"(?:src|href)=\"([^\"]*)", html) == ["data:,"]
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.findall(r"<[^>]+\son\w+=|<[^>]+\sstyle=", html.split("<script")[0])


def contrast(one: str, other: str) -> float:
    """WCAG 2's, of two colours such as #1d1d20."""
    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055)**2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_can_be_read(scheme):
    html, _ = chat_page()
    schemes = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", schemes[scheme]))
    words = [("on-accent", "accent"), ("bad", "bad-page")]
    words += product(("text", "quiet"), ("page", "panel", "mine"))
    poor = [pair for pair in words if contrast(*(colours[name] for name in pair)) < 4.5]
    assert not poor
    shapes = [("kept", "shared"), *product(("field", "accent", "shared"), ("page", "panel"))]
    faint = [pair for pair in shapes if contrast(*(colours[name] for name in pair)) < 3]
    assert not faint


# In a browser

@pytest.fixture(scope="module")
def server(real_model):
    found = LocalServer("--model", real_model, "--set", "max_running=2", "--max-queued-requests", "1")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    context = browser.new_context()
    found = context.new_page()
    found.wrong = []
    found.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.goto(server.address)
    yield found
    assert not found.wrong
    context.close()


def ask(page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def wait_until_answered(page) -> str:
    page.wait_for_selector("#stop:disabled", timeout=120_000)
    return page.locator(".assistant p").last.inner_text()


def wait_until_idle(server) -> dict:
    state = server.state()
    while state["blocks"]["used"] or state["requests"]:
        state = server.state()
    return state


in_browser = pytest.mark.program


def said(*pieces: str) -> str:
    """A stream of events, as the server sends it."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    events = [*map(json.dumps, chunks), "[DONE]"]
    return "".join(f"data: {event}\n\n" for event in events)


@in_browser
def test_an_answer_streams_in_with_the_settings(page, server):
    sent = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    settings = {"System prompt": "Be brief.", "Temperature": "0", "top_p": "0.9", "Most tokens": "12"}
    for label, value in (settings | {"Seed": "7"}).items():
        page.get_by_label(label).fill(value)
    page.get_by_label("API key").fill("secret-key")
    ask(page, "Name an ocean.")
    first = wait_until_answered(page)
    assert first
    note = page.locator(".assistant small").inner_text()
    assert re.match(r"first token after \d+ ms · [\d.]+ tokens/s · \d+ tokens", note)
    ask(page, "And a river.")
    assert wait_until_answered(page)
    bodies = [json.loads(request.post_data) for request in sent]
    wanted = {"temperature": 0, "top_p": 0.9, "max_tokens": 12, "seed": 7, "stream": True}
    for body in bodies:
        assert wanted.items() <= body.items()
    turns = ["Be brief.", "Name an ocean.", first, "And a river."]
    assert [turn["content"] for turn in bodies[1]["messages"]] == turns
    assert sent[0].headers["authorization"] == "Bearer secret-key"


@in_browser
@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_gives_the_blocks_back(page, server, how):
    page.get_by_label("Most tokens").fill("1500")
    ask(page, "Tell me a very long story about the sea, with every detail.")
    page.locator(".assistant p:not(:empty)").wait_for(timeout=60_000)
    page.locator("#requests tbody tr").first.wait_for(timeout=60_000)
    assert server.state()["blocks"]["used"] > 0
    if how == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    assert "stopped" in page.locator(".assistant small").inner_text()
    assert wait_until_idle(server)["requests"] == []
    page.get_by_text("0 running, 0 waiting").wait_for(timeout=10_000)


@in_browser
def test_what_a_model_writes_is_text(page):
    text = "<script>document.title = 'taken'</script> <b>& 波</b> <img src=x onerror=alert(1)>"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        body=said(text[:9], text[9:]), headers={"Content-Type": "text/event-stream"}))
    ask(page, "Anything")
    assert wait_until_answered(page) == text
    assert page.title() == "aiinfra chat" and page.locator(".assistant p *").count() == 0


@in_browser
@pytest.mark.parametrize("status, headers, words", [
    (429, {"Retry-After": "3"}, "429: all is full Try again in 3 s."),
    (503, {}, "503: all is full"),
    (401, {}, "This server wants an API key"),
    (0, {}, "The server does not answer."),
], ids=["429", "503", "401", "gone"])
def test_a_refusal_is_told_and_the_question_is_kept(page, status, headers, words):
    def refuse(route):
        if not status:
            route.abort()
        else:
            route.fulfill(status=status, headers=headers, json={"error": {"message": "all is full"}})
    page.route("**/v1/chat/completions", refuse)
    ask(page, "My question")
    page.get_by_role("alert").filter(has_text=words).wait_for(timeout=10_000)
    assert page.get_by_label("Your message").input_value() == "My question"
    assert page.locator(".turn").count() == 0


@in_browser
@pytest.mark.parametrize("end, words", [
    ("", "The connection broke off"),
    ('data: {"error": {"message": "no numbers"}}\n\n', "no numbers"),
], ids=["broken", "error"])
def test_a_stream_without_an_end_is_told(page, end, words):
    stream = said("Half").replace("data: [DONE]\n\n", end)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        body=stream, headers={"Content-Type": "text/event-stream"}))
    ask(page, "Anything")
    page.get_by_role("alert").filter(has_text=words).wait_for(timeout=10_000)
    assert wait_until_answered(page) == "Half"


@in_browser
def test_the_server_itself_refuses_who_finds_no_place(page, server):
    """Two run and one waits; the page is the fourth."""
    page.get_by_label("Most tokens").fill("1500")
    others = [page.context.new_page() for _ in range(3)]
    for other in others:
        other.goto(server.address)
        other.get_by_label("Most tokens").fill("1500")
        ask(other, "Tell me a very long story about the sea, with every detail.")
        other.wait_for_timeout(500)
    ask(page, "And me?")
    page.get_by_role("alert").filter(has_text="429").wait_for(timeout=10_000)
    page.get_by_text("2 running, 1 waiting").wait_for(timeout=10_000)
    for other in others:
        other.close()                          # a tab that is closed
    assert wait_until_idle(server)["requests"] == []
