"""A page holds everything that it shows, and nothing of the text in it is taken for markup."""

from html.parser import HTMLParser

import pytest

from hopfield_replay.utilities.html import heading, html_page, paragraph, picture, table


class Reader(HTMLParser):
    """Tags in order, attributes, and text; complains of tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_text_is_text():
    nasty = "<script>alert('\"x\"')</script> & </table>"
    parts = [heading(nasty), paragraph(nasty, "lead"), paragraph(nasty), table([nasty], [[nasty], [nasty]])]
    found = read(html_page(nasty, parts))
    assert found.text.count(nasty) == 8
    assert "script" not in found.tags
    assert [tag for tag in found.tags if tag in ("tr", "th", "td")] == ["tr", "th", "tr", "td", "tr", "td"]


def test_pictures_are_inside():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1))
    found = read(html_page("A", [picture(figure, 'of "nothing"')]))
    attributes = dict(found.attributes)
    assert attributes["alt"] == 'of "nothing"'
    assert attributes["src"].startswith("data:image/png;base64,iVBOR")
    assert attributes["content"] == "width=device-width, initial-scale=1"
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in found.attributes
