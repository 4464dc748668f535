"""What a batch costs on a server: time and energy, observed live or read from profile.json, as pure values.

``fit`` has the line of one (server, model), the lines of all, and what to observe of answers that came together.
``document`` is profile.json, and ``start`` says what it is worth for a server as it is now. Nothing here measures or
knows a clock.
"""
