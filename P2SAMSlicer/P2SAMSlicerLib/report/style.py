"""How a report looks, on a screen and on paper (A4 or Letter)."""

from __future__ import annotations

#: ``@RUNNING@`` is replaced by the line on top of every printed page.
STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { background: #fff; color: #1a1a1a; font: 15px/1.45 "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
body { margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 28px 48px; }
h1, h2, h3, h4 { line-height: 1.25; break-after: avoid; overflow-wrap: anywhere; }
h1 { font-size: 1.7em; margin: 0 0 .5em; border-bottom: 2px solid #1a1a1a; padding-bottom: .25em; }
h2 { font-size: 1.3em; margin: 1.6em 0 .5em; border-bottom: 1px solid #999; padding-bottom: .15em; }
h3 { font-size: 1.08em; margin: 1.3em 0 .4em; }
p { margin: .45em 0; overflow-wrap: anywhere; }
ul { margin: .35em 0 .6em; padding-left: 1.4em; }
li { overflow-wrap: anywhere; }
.note { color: #444; font-size: .9em; }
.table { overflow-x: auto; margin: .7em 0 1em; }
table { border-collapse: collapse; width: 100%; font-size: .88em; font-variant-numeric: tabular-nums; }
caption { caption-side: top; text-align: left; font-weight: 600; padding: .2em 0 .35em; break-after: avoid; }
th, td { border: 1px solid #b5b5b5; padding: .28em .5em; text-align: left; vertical-align: top; overflow-wrap: break-word; }
th { font-weight: 600; max-width: 16em; overflow-wrap: anywhere; }
td { max-width: 34em; }
thead th { background: #eef1f4; border-bottom: 2px solid #666; vertical-align: bottom; overflow-wrap: break-word; }
tbody th { background: #f7f8f9; min-width: 5.6em; }
.number { text-align: right; }
.sentence { text-align: left; min-width: 13em; }
.facts table { width: auto; min-width: 50%; }
.badge { display: inline-block; border: 1.5px solid #555; border-radius: 3px; padding: 0 .4em; font-weight: 700;
  font-size: .88em; white-space: nowrap; letter-spacing: .02em; }
.badge.bad { color: #8c1010; border-color: #8c1010; background: #fdf0f0; }
.badge.warn { color: #7a4a00; border-color: #7a4a00; background: #fff6e5; }
.badge.good { color: #0b5a2a; border-color: #0b5a2a; background: #eefaf1; }
.notice { border: 1px solid #999; border-left: 6px solid #666; padding: .55em .9em; margin: .7em 0; break-inside: avoid; }
.notice.bad { border-left-color: #8c1010; }
.notice.warn { border-left-color: #b86e00; }
.notice.good { border-left-color: #0b5a2a; }
.notice-title { display: block; margin-bottom: .1em; }
figure { margin: .8em 0 1.1em; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid #ccc; }
figure.wide img, figure.slices img { width: 100%; }
figcaption { font-size: .88em; color: #333; margin-top: .3em; overflow-wrap: anywhere; }
.key { font-size: .9em; margin-right: 1.2em; white-space: normal; overflow-wrap: anywhere; }
.sign { margin-top: 1em; break-inside: avoid; }
.sign td { height: 4.2em; width: 27%; vertical-align: top; }
.hint { color: #555; font-size: .82em; }
.status { font-size: 1.02em; }
footer { margin-top: 2em; border-top: 1px solid #999; padding-top: .4em; font-size: .85em; color: #444; }
@page {
  margin: 18mm 15mm 17mm;
  @top-left { content: "@RUNNING@"; font: 8.5pt Arial, sans-serif; color: #333; }
  @bottom-right { content: "Page " counter(page) " of " counter(pages); font: 8.5pt Arial, sans-serif; color: #333; }
}
@media print {
  html { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .new-page { break-before: page; }
  .table { overflow: visible; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; }
  table { font-size: 8.3pt; }
  th, td { padding: .2em .35em; }
  .sentence { min-width: 10em; }
  figure.slices img { width: auto; max-height: 66mm; }
  .badge, thead th, tbody th, .key { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
