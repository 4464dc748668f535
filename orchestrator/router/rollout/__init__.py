"""How a new policy replaces the one in force: in the shadow, then in a part of the time, then altogether, or not.

Pure: whose turn it is (``split``), whether the new one is worse (``evidence``), what follows from that (``stages``);
and the files in which that outlives a process (``record``). The router does the rest.
"""
