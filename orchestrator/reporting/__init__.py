"""What measurements end in: claims held against their bars, pages, pictures, and journals of work under way.

It knows nothing of what was measured. ``claim`` says whether a promise is kept, ``blocks`` writes one page as Markdown
and as HTML, ``pictures`` is the only place that imports matplotlib, ``outputs`` puts a report into a folder, and
``journal`` keeps what a long run has done, so that an interruption loses next to nothing.
"""
