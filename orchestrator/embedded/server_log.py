"""Why a tritonserver would not start, and what it is loading, found in its log.

Triton says the reason once, somewhere in a hundred lines, and ends with a summary that leaves it out ("failed to
load all models"). The patterns are those of 2.51 and are ordered by how much they say.
"""

import re

_PREFIX = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ [\w.]+:\d+\]\s*")
_TELLING = (
    re.compile(r"(failed to start \w+ service: .*)"),
    re.compile(r"(?:Poll failed for) (model directory '.*)"),
    re.compile(r"(failed to load '[^']+' version .*)"),
    re.compile(r"(failed to poll model '.*)"),
    re.compile(r"error: creating server: (.*)"),
    re.compile(r"(.*error while loading shared libraries.*)"),
    re.compile(r"error: (can't start .*)"),
    re.compile(r"what\(\):\s*(.*)"),
    re.compile(r"(terminate called .*)"),
)
_EXPLAINED = {"boost::interprocess::lock_exception": ", as where the machine stalled and a stub was taken for dead"}
_LOADING = re.compile(r'"?\bloading: ([^\s":]+):\d+')
_LOADED = re.compile(r"(?:successfully loaded|failed to load) '([^']+)'")
_PARSE_ERROR = re.compile(r"Error parsing text-format [\w.]+: (.*)")
# Tables, what every start on a machine without GPU complains about, and the stack that Triton prints of a signal, which
# the exit status tells as well.
_NOISE = re.compile(
    r"^$|^\+[-+]*\+$|^\|.*\|$|Failed to initialize NVML|CudaDriverHelper has not been initialized"
    r"|^Signal \(\d+\) received\.$|^\d+# "
)


def pick_reason(log: str) -> str | None:
    """Return the line of a log that says most, cleaned of decoration; None when none says anything."""
    lines = [line.strip() for line in log.splitlines()]
    bodies = [(line, _clean(_PREFIX.sub("", line))) for line in lines if not _NOISE.search(line)]
    for pattern in _TELLING:
        found = list(dict.fromkeys(m.group(1) for _, body in bodies if (m := pattern.search(body))))
        if found:
            more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
            return f"{found[0]}{_parse_detail(lines, found[0])}{_EXPLAINED.get(found[0], '')}{more}"
    errors = [body for line, body in bodies if line[:1] in "EF" and _PREFIX.match(line)]
    plain = [body for line, body in bodies if not _PREFIX.match(line)]
    return next((texts[-1] for texts in (errors, plain) if texts), None)


def loading_models(log: str) -> tuple[str, ...]:
    """Return the models that a log says are being loaded, in the order in which that began."""
    loading: dict[str, None] = {}
    for line in log.splitlines():
        if begun := _LOADING.search(line):
            loading[begun.group(1)] = None
        elif ended := _LOADED.search(line):
            loading.pop(ended.group(1), None)
    return tuple(loading)


def _clean(body: str) -> str:
    body = body.strip().strip('"').strip()
    # A Python backend's message ends with where in its code it was raised; that is of no use to the reader.
    body = re.split(r"(?:\\n|\n)+\s*At:", body)[0]
    return body.replace("Internal: TritonModelException: ", "").replace("\\n", " ").strip()


def _parse_detail(lines: list[str], reason: str) -> str:
    # The text parser writes what is wrong to stderr just before Triton says which file it could not read.
    if "failed to read text proto" not in reason:
        return ""
    details = [m.group(1) for line in lines if (m := _PARSE_ERROR.search(line))]
    return f": {details[0]}" if details else ""
