"""`make lab` itself: the server that it starts has every page and every file that a page links to, and opens
a sheet."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "test"

pytestmark = pytest.mark.page


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a workbook that `make lab` has opened, without a browser."""
    if not (ROOT / ".venv/.ready").exists():
        pytest.skip("no .venv here: `make setup` makes it")
    port = free_port()
    arguments = f"--no-browser --allow-root --port={port} --IdentityProvider.token={TOKEN}"
    log = tmp_path_factory.mktemp("lab") / "log"
    with log.open("w") as out:
        command = ["make", "lab", f"LAB_ARGS={arguments}"]
        streams = {"stdout": out, "stderr": subprocess.STDOUT}
        lab = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            if lab.poll() is not None or answers(address):
                break
            time.sleep(0.5)
        assert answers(address), log.read_text()[-3000:]
        yield address
    finally:
        os.killpg(lab.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(lab.pid, signal.SIGKILL)
        lab.wait()


def answers(address: str) -> bool:
    try:
        return ask(address, "api/status").status == 200
    except OSError:
        return False


def ask(address: str, path: str):
    request = urllib.request.Request(f"{address}/{path}", headers={"Authorization": f"token {TOKEN}"})
    return urllib.request.urlopen(request, timeout=30)


def content(address: str, path: str, with_cells: bool = False) -> dict | None:
    """What the server has at a path of the workbook; None if there is nothing."""
    try:
        with ask(address, f"api/contents/{urllib.parse.quote(path)}?content={int(with_cells)}") as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        return None


def links(book: dict) -> set[str]:
    """Relative links of the Markdown cells, without anchors; what stands in `code` is none."""
    text = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s#]+)", text)
    return {link for link in found if "://" not in link}


def test_every_page_and_every_link_is_served(server):
    pages = [f"work/{path.name}" for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    sheets = [f"work/sheets/{path.name}" for path in sorted((ROOT / "puzzles/sheets").glob("*.ipynb"))]
    assert len(pages) >= 10 and len(sheets) == 5
    dead = []
    for page in (*pages, *sheets):
        book = content(server, page, with_cells=True)
        assert book is not None, f"{page} is not served"
        folder = os.path.dirname(page)
        targets = {os.path.normpath(os.path.join(folder, link)) for link in links(book["content"])}
        dead += [f"{page} -> {target}" for target in sorted(targets) if content(server, target) is None]
    assert not dead, dead


def test_a_sheet_opens(server):
    sheet = "work/sheets/1_first_blocks.ipynb"
    assert content(server, sheet)["type"] == "notebook"
    with ask(server, f"lab/tree/{sheet}") as page:
        assert page.status == 200


def test_the_first_page_is_what_the_address_opens(server):
    with ask(server, f"?token={TOKEN}") as page:
        assert page.url.split("?")[0].endswith("/lab/tree/work/00_your_machine.ipynb")


def test_jupyterlab_keeps_sliders_and_asks_nobody_about_news(server):
    """The workbook's settings have arrived as JupyterLab's defaults."""
    def default(plugin, setting):
        with ask(server, f"lab/api/settings/{plugin}") as answer:
            return json.load(answer)["schema"]["properties"][setting]["default"]
    assert default("@jupyterlab/apputils-extension:notification", "fetchNews") == "false"
    assert default("@jupyter-widgets/jupyterlab-manager:plugin", "saveState") is True


def test_the_workbooks_extension_is_there_whole(server):
    """JupyterLab names it among those to load, and each of its files arrives as it is in the repository."""
    folder = ROOT / "aiinfra/lab/labextension"
    with ask(server, "lab") as page:
        assert '"aiinfra-pages"' in page.read().decode(), "JupyterLab does not load it"
    for path in (folder / "static").iterdir():
        with ask(server, f"lab/extensions/aiinfra-pages/static/{path.name}") as file:
            assert file.read() == path.read_bytes()


def test_pictures_of_a_page_not_yet_run_have_words_and_their_dark_look(server, tmp_path):
    """What a browser makes of a sheet: `alt` is filled in, and the stylesheet has been asked for."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    address = f"{server}/lab/tree/work/sheets/1_first_blocks.ipynb?token={TOKEN}&reset"
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    waits = ["--window-size=1300,6000", "--virtual-time-budget=30000", "--timeout=30000"]
    command = [browser, *options, *waits, "--dump-dom", address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    pictures = re.findall(r'<img [^>]*src="data:image/png[^>]*>', shown)
    assert len(pictures) >= 5, "the sheet was not shown"
    assert all('alt="Picture of ' in picture for picture in pictures)
    assert "aiinfra-pages/static/looks.css" in shown
