"""Build the HTML page of a report: pure functions; the page needs no network and no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from torchkeras.core import text
from torchkeras.core.types import Leaf
from torchkeras.display.classes import Wrong
from torchkeras.display.html import CELL
from torchkeras.display.png import picture

MOST_CLASSES = 25  # of a confusion matrix that can be read
PAGE = """<style>
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2127;--soft:#5d6772;--rule:#d9dee3;\
--box:#f5f7f9}
@media (prefers-color-scheme:dark){:root{--paper:#15181c;--ink:#e3e7eb;--soft:#9aa4ae;\
--rule:#343a41;--box:#1e2227}}
@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--soft:#444;--rule:#bbb;--box:#fff}
section,svg,figure,tr{break-inside:avoid}h2{break-after:avoid}main{padding:0!important;\
max-width:none!important}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
body{margin:0;background:var(--paper);color:var(--ink);font:14px/1.55 system-ui,-apple-system,\
"Segoe UI",sans-serif}
main{max-width:1240px;margin:auto;padding:1.5rem clamp(.8rem,3vw,2.5rem) 3rem}
h1{font-size:1.6rem;margin:0 0 .6rem}h2{font-size:1.1rem;margin:2rem 0 .6rem;\
border-bottom:1px solid var(--rule)}
section{overflow-x:auto}p{margin:.3rem 0;color:var(--soft)}
table.facts td{padding:.12em 1.4em .12em 0;vertical-align:top;overflow-wrap:anywhere}
table.facts td:first-child{color:var(--soft);white-space:nowrap}
table.facts,table.confusion{border-collapse:collapse}
table.confusion td,table.confusion th{min-width:2.2em;padding:.25em .4em;text-align:right;\
font-weight:400;\
font-variant-numeric:tabular-nums;font-size:12.5px}
table.confusion th{color:var(--soft)}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:.8rem}
figure{margin:0;padding:.6rem;background:var(--box);border:1px solid var(--rule);\
border-radius:6px;font-size:12.5px}
figure img{width:96px;image-rendering:pixelated;display:block;margin-bottom:.4rem}
pre{background:var(--box);border:1px solid var(--rule);border-radius:6px;padding:.7rem;\
overflow-x:auto;font-size:12px;\
line-height:1.4;width:max-content;max-width:calc(100% - 1.5rem)}
</style>"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a document of titled sections; those without content are left out."""
    body = "".join(f"<section><h2>{escape(name)}</h2>{content}</section>" if name else content
                   for name, content in sections if content)
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,">{PAGE}</head>'
            f'<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n')


def facts(found: Mapping[str, object]) -> str:
    """Return a table of names and values."""
    rows = "".join(f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"
                   for name, value in found.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>' if rows else ""


def parts(seconds: Mapping[str, float]) -> str:
    """Return a table of parts of the time: seconds, share and a bar."""
    total = sum(seconds.values())
    if total <= 0:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td style="{CELL}">{spell(value)}</td>'
        f'<td style="{CELL}">{value / total:.0%}</td><td style="width:220px">'
        '<div style="height:9px;border-radius:3px;background:#3b82d6;'
        f'width:{100 * value / total:.1f}%"></div></td></tr>' for name, value in seconds.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def spell(seconds: float) -> str:
    """Format a time, with hundredths of a second below a minute."""
    return f"{seconds:.2f} s" if seconds < 60 else text.duration(seconds)


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Return a confusion matrix, coloured by the share of each row; many classes become a list."""
    if len(counts) > MOST_CLASSES:
        return confused(counts, names)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for number, row in enumerate(counts):
        total = sum(row)
        cells = "".join(cell(count, total, right=number == place)
                        for place, count in enumerate(row))
        recall = f"{row[number] / total:.1%}" if total else "-"
        rows.append(f'<tr><th scope="row">{escape(names[number])}</th>{cells}<td>{total}</td>'
                    f'<td>{recall}</td></tr>')
    right = sum(row[number] for number, row in enumerate(counts))
    whole = sum(map(sum, counts))
    return (f"<p>Rows are labels, columns are guesses; {right} of {whole} right.</p>"
            f'<table class="confusion"><thead><tr><th></th>{head}<th>all</th><th>recall</th></tr>'
            '</thead>'
            f'<tbody>{"".join(rows)}</tbody></table>')


def cell(count: int, total: int, *, right: bool) -> str:
    """Return one count, coloured by its share of the row."""
    share = count / total if total else 0.0
    colour = "59,130,214" if right else "224,64,90"
    opacity = f"{0.08 + 0.5 * share:.2f}" if count else "0"
    return f'<td style="background:rgba({colour},{opacity})">{count or "·"}</td>'


def confused(counts: Sequence[Sequence[int]], names: Sequence[str], most: int = 20) -> str:
    """Return the most frequent confusions, for many classes."""
    pairs = sorted(((count, label, guess) for label, row in enumerate(counts)
                    for guess, count in enumerate(row)
                    if label != guess and count), reverse=True)[:most]
    right, whole = sum(row[number] for number, row in enumerate(counts)), sum(map(sum, counts))
    listed = facts({f"{names[label]} taken for {names[guess]}": f"{count} times"
                    for count, label, guess in pairs})
    return (f"<p>{len(counts)} classes; {right} of {whole} right. The most frequent mistakes:</p>"
            f"{listed}")


def samples(worst: Sequence[Wrong], names: Sequence[str]) -> str:
    """Return the most wrong samples, as pictures if they are images."""
    figures = "".join(figure(one, names) for one in worst)
    return f'<div class="samples">{figures}</div>' if worst else ""


def figure(one: Wrong, names: Sequence[str]) -> str:
    """Return one sample with its label and the guess."""
    address = picture(one.sample)
    shown = f'<img alt="sample" src="{address}">'
    if not address:
        shown = f"<div>{escape(in_words(one.sample))}</div>"
    return (f"<figure>{shown}<figcaption>label <b>{escape(names[one.label])}</b> "
            f"({one.truth:.1%})<br>guess <b>{escape(names[one.guess])}</b> "
            f"({one.confidence:.1%})</figcaption></figure>")


def in_words(sample: Leaf, most: int = 6) -> str:
    """Format the first numbers of a sample."""
    if isinstance(sample, Mapping):
        return ", ".join(f"{name}: {in_words(value, 2)}"
                         for name, value in list(sample.items())[:most])
    if isinstance(sample, (tuple, list)):
        return ", ".join(in_words(value, 2) for value in sample[:most])
    numbers = sample.flatten().tolist() if hasattr(sample, "flatten") else [sample]
    shown = ", ".join(f"{number:.3g}" if isinstance(number, float) else str(number)
                      for number in numbers[:most])
    return shown + (", …" if len(numbers) > most else "")
