"""Takes a profile of a fleet: measures every (server, width, batch) on the real servers and writes profile.json.

``sampling`` says pure what to measure next and when there is enough, ``records`` keeps what was measured over
interruptions, ``probe`` measures batches and windows of energy, ``changes`` loads, reloads and memory, ``campaign``
runs them in rounds, ``assembly`` makes the profile of it and ``view`` shows it. ``profiler`` does all of that for a
fleet as its settings describe it.
"""
