"""What only the name of a file tells: that it is a part, to be put behind others, or a download that did not end."""

from __future__ import annotations

import re

# What people call the parts of a file too large for a place: m.gguf.part1of2, m.gguf-split-a, m.gguf.001, m.part2.gguf.
_NUMBER = r"[-._]?(?:part|split|chunk)[-._]?(?:\d+(?:[-._]?of[-._]?\d+)?|[a-z]{1,2})"
_PART = rf"(?is)(?P<whole>.+\.gguf)(?:{_NUMBER}|\.?\d{{3}})|(?P<stem>.+?){_NUMBER}\.gguf"
# What programs call a file that they still write.
_UNENDED = r"(?is).+\.(part|partial|incomplete|crdownload|opdownload|download|aria2|tmp|!ut|!qb|!bt)"


def remedy(path: str) -> str | None:
    """What to do about a file that by its name is not all of one; None where the name does not tell."""
    name = path.rpartition("/")[2]
    found = re.fullmatch(_PART, name)  # compiled where it is needed, which is hardly ever
    if found is not None:
        whole = found["whole"] or f"{found['stem']}.gguf"
        return f"by its name this is a part of {whole}: put all of them one behind the other, in order, with cat"
    if re.fullmatch(_UNENDED, name):
        return "by its name this is a download that has not ended: let it go on, or start it again"
    return None
