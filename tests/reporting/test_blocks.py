from __future__ import annotations

from orchestrator.reporting.blocks import (
    Bullets,
    Code,
    Heading,
    Picture,
    Pictures,
    Table,
    Text,
    render_html,
    render_markdown,
)

BLOCKS = [
    Heading(1, "Title"),
    Text("See `a < b` and [there](there.md), **now**."),
    Picture("<svg>1</svg>"),
    Table(("policy", "value"), [("`x`", "1 ±2"), ("y", "**not met**")]),
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
    assert '<tr><th scope="row">y</th><td><strong>not met</strong></td></tr>' in page


def test_text_of_others_is_never_taken_for_html() -> None:
    told = Picture("<svg></svg>", text='"<b>"')
    page = render_html([Text('<script>alert("x")</script>'), Table(("a&b", ""), [("x", "<td>")], "<i>"), told])
    assert "<script>" not in page
    assert '<th scope="col">a&amp;b</th>' in page
    assert "<td>&lt;td&gt;</td>" in page
    assert "<caption>&lt;i&gt;</caption>" in page
    assert '<svg role="img" aria-label="&quot;&lt;b&gt;&quot;"></svg>' in page


def test_lists_code_and_pictures_beside_the_page_are_in_both() -> None:
    blocks = [Bullets("Lost", ["one", "`two`"]), Code(["a < b"]), Picture(file="p.png", text="a curve")]
    assert render_markdown(blocks) == "Lost:\n\n- one\n- `two`\n\n```\na < b\n```\n\n![a curve](p.png)\n"
    page = render_html(blocks)
    assert "<p>Lost:</p><ul><li>one</li><li><code>two</code></li></ul>" in page
    assert "<pre>a &lt; b</pre>" in page
    assert '<img src="p.png" alt="a curve">' in page


def test_pictures_that_are_read_together_stand_together_and_a_caption_is_above_its_table() -> None:
    blocks = [Pictures([Picture("<svg>1</svg>"), Picture(file="p.png", text="two")]), Table(("a",), [("x",)], "Of b")]
    assert render_markdown(blocks) == "![two](p.png)\n\nOf b:\n\n| a |\n| --- |\n| x |\n"
    page = render_html(blocks)
    assert '<div class="pictures">\n<figure><svg>1</svg></figure>\n<figure><img src="p.png" alt="two"></figure>' in page


def test_a_bar_in_a_cell_does_not_split_it() -> None:
    assert render_markdown([Table(("a",), [("x | y",)])]).splitlines()[-1] == "| x \\| y |"
