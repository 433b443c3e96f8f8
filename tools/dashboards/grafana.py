"""Grafana's JSON for dashboards (schema 39: Grafana 10.4 and later)."""

import json
from collections.abc import Iterator
from typing import Any

from tools.dashboards.panels import COLUMNS, Dashboard, HeatMap, Lines, Panel, Query, Section, Stat

Json = dict[str, Any]

_SCHEMA_VERSION = 39
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SERVERS_KNOWN_BY = "loopserve_build_info"  # a series that every server has from its start


def to_json(dashboard: Dashboard) -> str:
    """A dashboard as the text of its file."""
    return json.dumps(_dashboard(dashboard), indent=2, ensure_ascii=False) + "\n"


def _dashboard(dashboard: Dashboard) -> Json:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["loopserve"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross hair through all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [_link_to_the_others()],
        "templating": {"list": [_datasource_variable(), *_server_variables()]},
        "panels": list(_placed(dashboard.sections)),
    }


def _placed(sections: tuple[Section, ...]) -> Iterator[Json]:
    """Rows and panels with ids and places: from left to right, a new line where one does not fit."""
    number, top = 1, 0
    for section in sections:
        yield _row(number, section.title, top)
        number, left, top, line_height = number + 1, 0, top + 1, 0
        for panel in section.panels:
            if left + panel.width > COLUMNS:
                left, top, line_height = 0, top + line_height, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            number, left, line_height = number + 1, left + panel.width, max(line_height, panel.height)
        top += line_height


def _row(number: int, title: str, top: int) -> Json:
    place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel) -> Json:
    match panel:
        case Lines():
            kind: Json = _lines(panel)
        case HeatMap():
            kind = _heat_map(panel)
        case Stat():
            kind = _stat(panel)
        case _:
            raise TypeError(f"{panel.title} is of no kind that Grafana is told about")
    queries_format = "heatmap" if isinstance(panel, HeatMap) else "time_series"
    return {
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "targets": [
            _target(query, chr(ord("A") + i), queries_format) for i, query in enumerate(panel.queries)
        ],
        **kind,
    }


def _target(query: Query, letter: str, queries_format: str) -> Json:
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": queries_format,
        "range": True,
        "instant": False,
    }


def _lines(panel: Lines) -> Json:
    return {
        "type": "timeseries",
        "fieldConfig": {
            "defaults": {
                **_axis(panel),
                "color": {"mode": "palette-classic"},
                "custom": {
                    "drawStyle": "line",
                    "lineWidth": 1,
                    "fillOpacity": 30 if panel.stacked else 5,
                    "showPoints": "never",
                    "spanNulls": False,
                    "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
                },
            },
            "overrides": [],
        },
        "options": {
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["mean", "max", "lastNotNull"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _heat_map(panel: HeatMap) -> Json:
    return {
        "type": "heatmap",
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "dark-orange",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": True, "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": panel.unit},
        },
    }


def _stat(panel: Stat) -> Json:
    # Grafana's first step has no value: it is the colour of everything below the second.
    first, *later = panel.steps or ((0, "text"),)
    steps = [{"color": first[1], "value": None}, *({"color": color, "value": at} for at, color in later)]
    return {
        "type": "stat",
        "fieldConfig": {
            "defaults": {
                **_axis(panel),
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "showPercentChange": False,
            "textMode": "auto",
            "wideLayout": True,
        },
    }


def _axis(panel: Panel) -> Json:
    upper = {} if panel.maximum is None else {"max": panel.maximum}
    return {"unit": panel.unit, "min": 0, **upper}


def _datasource_variable() -> Json:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


def _server_variables() -> Iterator[Json]:
    """Which servers: `job`, and of those `instance`."""
    yield _label_variable("job", "Job", _SERVERS_KNOWN_BY)
    yield _label_variable("instance", "Instance", f'{_SERVERS_KNOWN_BY}{{job=~"$job"}}')


def _label_variable(label: str, title: str, series: str) -> Json:
    """Without an `allValue`, "All" is the list of what was found, so that ``up`` is not that of other services."""
    query = f"label_values({series}, {label})"
    return {
        "name": label,
        "label": title,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": True,
        "multi": True,
        "options": [],
        "refresh": 2,  # when the time range changes: servers come and go
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
    }


def _link_to_the_others() -> Json:
    return {
        "title": "loopserve",
        "type": "dashboards",
        "tags": ["loopserve"],
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }
