"""Child processes: started, watched, started again and ended in one way, wherever there are any.

``managed`` keeps one running. What it starts each time is a ``child``, a program of ours that ends with its parent, or
stands on a ``guarded`` process: any other program, whose children and files must go with it, under a ``guardian``.
Only the standard library, besides this project's errors; the guardian's side not even those.
"""
