"""A page that is served to this machine, and how it shows itself."""

from __future__ import annotations

import urllib.error
import urllib.request
import webbrowser

import pytest

from spared_sc._explorer.serve import LocalServer, Page


@pytest.fixture
def folder(tmp_path):
    site = tmp_path / "a & b"
    site.mkdir()
    (site / "index.html").write_text("the page")
    (tmp_path / "secret.txt").write_text("secret")
    return site


def read(address: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as answer:
        return answer.read().decode()


def test_the_folder_is_served_to_this_machine_alone(folder, capfd):
    page = Page(folder, LocalServer(folder))
    assert page.address.startswith("http://127.0.0.1:")
    assert read(page.address) == "the page"
    for place in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(page.address + place)
    page.close()
    with pytest.raises(urllib.error.URLError):
        read(page.address)
    assert capfd.readouterr() == ("", "")


def test_two_pages_have_two_addresses(folder):
    pages = [Page(folder, LocalServer(folder)) for _ in range(2)]
    assert pages[0].address != pages[1].address
    for page in pages:
        page.close()


def test_a_page_opens_in_the_browser(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert Page(folder).open()
    assert opened == [(folder / "index.html").as_uri()]


def test_in_a_notebook_it_is_a_frame_where_the_browser_can_reach_it(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert 'src="a%20%26%20b/index.html"' in Page(folder)._repr_html_()
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    assert "iframe" not in Page(folder)._repr_html_()
    assert "a &amp; b" in Page(folder)._repr_html_()
    page = Page(folder, LocalServer(folder))
    assert f'src="{page.address}"' in page._repr_html_()
    page.close()
