"""The HTML report: whatever tokens and names spell stays text, nothing is fetched, plots keep the page's colours."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from diagnostics import plots
from diagnostics.diagnose import diagnose
from diagnostics.page import html
from diagnostics.plan import Plan
from diagnostics.report import Excerpt, ExcerptToken, Report
from engine.options import EngineOptions
from tests.diagnostics.measuring import windowed
from tools.browser.chromium import chromium

HOSTILE = (
    "</pre><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "<img src=x onerror=alert(1)>",
    "]]>--></style><svg onload=alert(1)>",
    "&lt;b&gt; &#60;",
    "\x00\x1b[31m\u202e\ufffd",
    "\n\n",
    "a\n    b",
    "",
)
HARMLESS = {"class", "style", "title"}


class Tags(HTMLParser):
    """Notes every element, its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Report]:
    """By number of loops."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"text number {number}: x = {number * 7}\n" * 2)
    return {
        loops: diagnose(EngineOptions(model_dir=str(windowed(loops).path)), [folder], Plan(most_tokens=40))
        for loops in (1, 2, 3)
    }


def hostile(report: Report) -> Report:
    tokens = [ExcerptToken(HOSTILE[0], [], [])]
    tokens += [ExcerptToken(text, [text, HOSTILE[1]], [1.0, 2.0]) for text in HOSTILE]
    tokens += [ExcerptToken("x", [text, "y"], [2.0, 1.0]) for text in HOSTILE]
    corpus = replace(report.corpus, files=list(HOSTILE), skipped={HOSTILE[0]: 1})
    model = replace(report.model, name=HOSTILE[0], model_type=HOSTILE[3])
    return replace(
        report,
        excerpts=[Excerpt(HOSTILE[3], tokens)],
        corpus=corpus,
        model=model,
        notes=list(HOSTILE),
        settings={**report.settings, HOSTILE[3]: HOSTILE[0]},
    )


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_a_page_is_whole_and_fetches_nothing(reports: dict[int, Report], loops: int) -> None:
    report = reports[loops]
    page = html(report)
    tags = Tags(page)
    names = {name for name, _ in tags.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "img", "base", "form", "a"}
    for _, attributes in tags.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    assert "@import" not in page
    assert "url(http" not in page
    assert plots.INK not in page
    assert all(sentence in tags.text for sentence in report.verdict.sentences)
    assert all(note in tags.text for note in report.notes)


def test_hostile_text_stays_text(reports: dict[int, Report]) -> None:
    plain, page = Tags(html(reports[2])), html(hostile(reports[2]))
    tags = Tags(page)
    assert {name for name, _ in tags.elements} <= {name for name, _ in plain.elements}
    for name, attributes in tags.elements:
        assert not any(attribute.startswith("on") for attribute in attributes)
        if name == "span" and "title" in attributes:
            assert set(attributes) == HARMLESS
    for text in HOSTILE[:5]:
        assert text in tags.text
        assert any(
            text in (attributes.get("title") or "").replace('\\"', '"') for _, attributes in tags.elements
        )


def test_every_token_is_in_its_place_once(reports: dict[int, Report]) -> None:
    report = reports[2]
    (excerpt, *_) = report.excerpts
    page = html(replace(report, excerpts=[excerpt]))
    block = page[page.index("<pre class=text>") : page.index("</pre>")]
    assert Tags(block).text.replace("↵\n", "\n") == "".join(token.text for token in excerpt.tokens)
    spans = [attributes for name, attributes in Tags(block).elements if name == "span"]
    changed = ["changed" in (attributes["class"] or "") for attributes in spans]
    # no token of this text is broken over lines with something after the break
    assert changed == [token.last_loop_changed for token in excerpt.tokens[1:]]
    assert "loop 2: " in (spans[0]["title"] or "")
    assert "loop 3: " not in (spans[0]["title"] or "")


def test_titles_say_the_change_of_loss(reports: dict[int, Report]) -> None:
    token = ExcerptToken("x", ["a", "b"], [1.5, 0.25])
    page = html(replace(reports[2], excerpts=[Excerpt("s", [token])]))
    assert "last loop: loss -1.250" in page
    assert 'class="gain changed" style="--g:100%"' in page


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_plots_are_well_formed_and_bear_the_pages_colour(reports: dict[int, Report], loops: int) -> None:
    report = reports[loops]
    drawn = [plots.gain_and_cost(report), plots.course(report, ["loss"], "x"), plots.gate_maps(report)]
    assert (drawn[2] is None) == (loops == 1)
    for svg in filter(None, drawn):
        ElementTree.fromstring(svg)
        assert "currentColor" in svg
        assert "<metadata" not in svg


def test_a_large_gate_map_is_a_picture(reports: dict[int, Report]) -> None:
    gates = [[0.5] * 100 for _ in range(60)]
    svg = plots.gate_maps(replace(reports[2], gates=[None, gates, None]))
    assert svg is not None
    assert "data:image/png" in svg
    assert len(svg) < 200_000


def test_chromium_shows_it_in_both_schemes_without_errors(reports: dict[int, Report], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(hostile(reports[3])), encoding="utf-8")
    with chromium() as browser:
        backgrounds = set()
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 420, "height": 800})
            problems: list[str] = []
            requests: list[str] = []
            page.on("console", lambda message, found=problems: found.append(message.text))
            page.on("dialog", lambda dialog, found=problems: (found.append("dialog"), dialog.dismiss()))
            page.on("request", lambda request, found=requests: found.append(request.url))
            page.goto(path.as_uri())
            assert problems == []
            assert requests == [path.as_uri()]
            backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert page.evaluate("document.documentElement.scrollWidth") <= 420
            page.close()
        assert len(backgrounds) == 2
