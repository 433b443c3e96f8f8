"""A report as one HTML file: no scripts, nothing from the network, everything from outside escaped."""

import json
from dataclasses import asdict
from html import escape

from diagnostics import plots
from diagnostics.estimates import LEVEL_TEXT
from diagnostics.metrics import METRICS, Group
from diagnostics.page_style import STYLE
from diagnostics.report import Excerpt, ExcerptToken, Report
from diagnostics.tables import (
    GROUPS,
    interval_text,
    loop_names,
    number,
    serving_rows,
    shares_rows,
    summary,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
CLEAR_GAIN = 0.5
"""Nats from which on a token's change of loss is coloured fully."""
NEW_LINE = "↵"
CHARS_SHOWN = 40
"""Of a token, in titles."""
COURSES: dict[Group, list[str]] = {
    "prediction": ["loss", "lens_log_rank", "output_entropy"],
    "states": ["step_size_normed", "update_alignment_normed", "effective_rank_normed"],
    "attention": ["attention_entropy", "attention_kl", "head_rank"],
}


def html(report: Report) -> str:
    """The page."""
    title = f"{report.model.name}: how many loops are worth it"
    sections = [
        _section("Verdict", _paragraphs(report.verdict.sentences)),
        _section("Gain against cost", _gain_and_cost(report)),
        *(_section(name, _metrics(report, group)) for group, name in GROUPS.items()),
        _section("Gates", _gates(report)),
        _section("Token by token", _excerpts(report)),
        _section("How this was made", _made(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1><p>{escape(summary(report))}</p>{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _paragraphs(sentences: list[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _gain_and_cost(report: Report) -> str:
    extra = " The pale bar is a loop more than the model was trained with." if report.has_extra_loop else ""
    header, rows = serving_rows(report)
    kind = "normed" if report.model.normalize_per_loop else "raw"
    return (
        _figure(
            plots.gain_and_cost(report),
            "Gain: how much lower a loop's loss is than that of the loop before. Offset cost: how far the state that "
            f"a loop reads ({kind}, {report.model.offset} to the left) lies from that of its own position. The two "
            f"have no common unit: only their course can be compared. Lines: {LEVEL_TEXT} intervals.{extra}",
        )
        + "<h3>What serving so many loops costs</h3>"
        + _table(header, rows)
    )


def _metrics(report: Report, group: Group) -> str:
    header = ["", *(f"loop {name}" for name in loop_names(report)), "what it is"]
    rows = []
    for metric in METRICS:
        values = report.metric(metric.key).values
        if metric.group != group or not any(values):
            continue
        unit = f", {metric.unit}" if metric.unit else ""
        cells = [
            f"{escape(number(value, metric.digits))}<small>{escape(interval_text(value, metric.digits))}</small>"
            for value in values
        ]
        rows.append([escape(metric.label + unit), *cells, f"<em>{escape(metric.meaning)}</em>"])
    if not rows:
        return ""
    keys = [key for key in COURSES[group] if any(report.metric(key).values)]
    drawn = plots.course(report, keys, group) if keys else ""
    caption = "The shaded loop is no part of the model." if report.has_extra_loop else "By loop."
    shares = ""
    if group == "prediction" and report.shares:
        head, cells_of = shares_rows(report)
        shares = "<h3>Shares of the loops after the first</h3>" + _table(head, cells_of)
    return _figure(drawn, caption) + _raw_table([escape(name) for name in header], rows, "metrics") + shares


def _gates(report: Report) -> str:
    svg = plots.gate_maps(report)
    if svg is None:
        return "<p>This model has no gates.</p>"
    return _figure(
        svg, "Mean gate by layer and head: the weight of the whole context; the rest is the window's."
    )


def _excerpts(report: Report) -> str:
    if not report.excerpts or report.model.loops < 2:
        return ""
    legend = (
        "<p>A <span class=changed>framed</span> token follows a place where the last loop's most probable token is "
        'another than the loop before\'s. <span style="--g:70%" class=gain>Green</span>: the last loop made this '
        'token more probable; <span style="--g:70%" class=loss>red</span>: less. Rest the pointer on a token to see '
        "what each loop said.</p>"
    )
    return legend + "".join(_excerpt(excerpt) for excerpt in report.excerpts)


def _excerpt(excerpt: Excerpt) -> str:
    tokens = "".join(_token(token) for token in excerpt.tokens)
    return f"<h3>{escape(excerpt.source)}</h3><pre class=text>{tokens}</pre>"


def _token(token: ExcerptToken) -> str:
    """A token in its place, with what each loop said as its title."""
    if not token.losses:
        return escape(token.text)
    lines = [f"{_quoted(token.text)}"]
    for loop, (said, loss) in enumerate(zip(token.said, token.losses, strict=True), start=1):
        lines.append(f"loop {loop}: {_quoted(said)}, loss {loss:.3f}")
    lines.append(f"last loop: loss {-token.last_gain:+.3f}")
    classes = ["gain" if token.last_gain >= 0 else "loss"] + ["changed"] * token.last_loop_changed
    strength = round(min(1.0, abs(token.last_gain) / CLEAR_GAIN) * 100)
    title = escape("\n".join(lines), quote=True)
    # A line break within would leave the rest of the frame on the next line, so it stays outside, and a sign inside.
    first, *others = token.text.split("\n")
    parts = [first + NEW_LINE * bool(others), *others]
    return "\n".join(
        f'<span class="{" ".join(classes)}" style="--g:{strength}%" title="{title}">{escape(part)}</span>'
        if part
        else ""
        for part in parts
    )


def _quoted(text: str) -> str:
    """With invisible characters spelled out."""
    cut = text if len(text) <= CHARS_SHOWN else text[:CHARS_SHOWN] + "…"
    return json.dumps(cut, ensure_ascii=False)


def _made(report: Report) -> str:
    facts = {
        **{f"model: {key}": value for key, value in asdict(report.model).items()},
        **{f"corpus: {key}": value for key, value in asdict(report.corpus).items()},
        **{f"setting: {key}": value for key, value in report.settings.items()},
        **{f"version: {key}": value for key, value in report.versions.items()},
    }
    rows = [[key, json.dumps(value, ensure_ascii=False)] for key, value in facts.items()]
    return _paragraphs(report.notes) + _table(["", "value"], rows, "facts")


def _table(header: list[str], rows: list[list[str]], kind: str = "") -> str:
    return _raw_table(
        [escape(cell) for cell in header], [[escape(cell) for cell in row] for row in rows], kind
    )


def _raw_table(header: list[str], rows: list[list[str]], kind: str = "") -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class=wide><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
