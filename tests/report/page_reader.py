"""Reads HTML as a browser does, with the parser of the standard library: its elements, its text, what it would load."""

from html.parser import HTMLParser

_VOID = frozenset({"meta", "img", "rect", "line", "circle", "link", "br"})


class Page(HTMLParser):
    """What is in a page.

    Attributes:
        shape: Name and names of attributes of each element, and each end tag, in order.
        elements: Name and attributes of each element.
        text: Of everything but the style sheet.
    """

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.shape, self.elements, self.texts, self._open = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.shape.append((tag, tuple(name for name, _ in attrs)))
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.shape.append((tag, tuple(name for name, _ in attrs)))
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.shape.append((f"/{tag}", ()))
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if "style" not in self._open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def table_rows(html):
    """Give the texts of the cells of every row of every table."""
    reader = _Cells()
    reader.feed(html)
    return [row for row in reader.rows if row]


class _Cells(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.rows, self._in = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self._in = tag == "td" or (self._in and tag != "tr")
        if tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._in = self._in and tag != "td"

    def handle_data(self, data):
        if self._in:
            self.rows[-1][-1] += data
