"""The style of a report's page, light or dark as the reader's system is."""

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5d656d; --back: #ffffff; --line: #d9dde1;
  --gain: #2a9d6f; --loss: #d1603d; --frame: #1c2024; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8ea; --soft: #9aa3ab; --back: #15181b; --line: #343a40; --frame: #e6e8ea; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 46rem; }
figure { margin: .8rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
figcaption, em { color: var(--soft); font-size: .85rem; font-style: normal; }
figcaption { max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
.metrics td:last-child, .metrics th:last-child { text-align: left; }
.metrics td:last-child { min-width: 15rem; }
.metrics td:first-child { min-width: 9rem; }
td small { display: block; color: var(--soft); font-size: .75rem; white-space: nowrap; }
.facts td { text-align: left; padding-top: .1rem; padding-bottom: .1rem;
  font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .8rem;
  overflow-wrap: anywhere; }
.facts td:first-child { white-space: nowrap; }
.text { font: .85rem/1.75 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; margin: 0; }
.gain, .loss { border-radius: .15rem; }
.gain { background: color-mix(in srgb, var(--gain) calc(var(--g) * .45), transparent); }
.loss { background: color-mix(in srgb, var(--loss) calc(var(--g) * .45), transparent); }
.changed { outline: 1px solid color-mix(in srgb, var(--frame) 55%, transparent); outline-offset: -1px; }
"""
