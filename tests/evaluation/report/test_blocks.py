from __future__ import annotations

from orchestrator.evaluation.report.blocks import Grid, Heading, Picture, Text, render_html, render_markdown

BLOCKS = [
    Heading(1, "Title"),
    Text("See `a < b` and [there](there.md), **now**."),
    Picture("<svg>1</svg>"),
    Grid(("policy", "value"), [("`x`", "1 ±2"), ("y", "**not met**")]),
]


def test_both_pages_say_the_same_and_only_html_has_pictures() -> None:
    assert render_markdown(BLOCKS) == (
        "# Title\n\nSee `a < b` and [there](there.md), **now**.\n\n"
        "| policy | value |\n| --- | --- |\n| `x` | 1 ±2 |\n| y | **not met** |\n"
    )
    page = render_html(BLOCKS)
    assert "<title>Title</title>" in page
    assert '<p>See <code>a &lt; b</code> and <a href="there.md">there</a>, <strong>now</strong>.</p>' in page
    assert "<figure><svg>1</svg></figure>" in page
    assert "<tr><td>y</td><td><strong>not met</strong></td></tr>" in page


def test_text_of_others_is_never_taken_for_html() -> None:
    page = render_html([Text('<script>alert("x")</script>'), Grid(("a&b",), [("<td>",)])])
    assert "<script>" not in page
    assert "<th>a&amp;b</th>" in page
    assert "<td>&lt;td&gt;</td>" in page
